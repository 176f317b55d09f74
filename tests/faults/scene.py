"""A scene for faults: small images with truth, a YAML, real processes, and what they leave compared pixel by pixel."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import tifffile
import yaml
import zarr

import pipeline

REPOSITORY = Path(pipeline.__file__).parents[1]
SIDE = 256  # of an image
CORE = 64  # 16 blocks an image
POISON_AT = (70, 200)
POISONED = (slice(64, 128), slice(192, 256))  # the block that the poison lies in
LIMIT_S = 100  # for anything that is waited for


@dataclass
class Scene:
    """Images, truth and a YAML in one folder; outputs beside them."""

    root: Path
    images: int = 3
    seconds: float = 0.0
    poisons: tuple = ()  # one value an image, from the first on
    compute: dict = field(default_factory=lambda: {"runner": "serial"})
    tiling: dict = field(default_factory=lambda: {"core": CORE, "block": CORE, "halo": 0})

    def __post_init__(self):
        rng = np.random.default_rng(11)
        for number in range(self.images):
            pixels_YX = rng.integers(0, 250, (SIDE, SIDE), np.uint8)
            if number < len(self.poisons):
                pixels_YX[POISON_AT] = self.poisons[number]
            write_tiff(self.root / "images" / f"{number:02d}.tif", pixels_YX)
            write_tiff(self.root / "truth" / f"{number:02d}.tif", (pixels_YX > 100).astype(np.uint8))

    @property
    def mended(self):
        return self.root / "mended"

    def yaml(self, output, *, load="well", **changes):
        """Write the YAML of one output: a folder of the scene, or a URL."""
        mended = str(self.mended) if self.poisons else ""
        model = {"name": "tests.faults.faulty", "seconds": self.seconds, "load": load, "mended": mended}
        content = {
            "images": [str(self.root / "images")],
            "truth": str(self.root / "truth" / "{stem}.tif"),
            "model": model,
            "tiling": self.tiling,
            "compute": self.compute,
            "output": output if "://" in str(output) else str(self.root / output),
            **changes,
        }
        path = self.root / f"{Path(output).name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def reference(self):
        """What an undisturbed serial run leaves; made once."""
        output = self.root / "reference"
        if not output.exists():
            model = {"name": "tests.faults.faulty"}
            ended = run(self.yaml("reference", model=model, compute={"runner": "serial"}))
            assert ended.code == 0, ended.told
        return left_in(output)


def write_tiff(path, pixels_YX):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels_YX, tile=(CORE, CORE), compression="zlib")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    told: str


class Command:
    """A `gigaseg` command that runs in a process of its own."""

    def __init__(self, *args, env=None):
        self.folder = Path(tempfile.mkdtemp(prefix="g", dir="/tmp"))  # Ray's sockets need short paths
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.log = self.folder / "told"
        with self.log.open("wb") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "pipeline", *map(str, args)],
                cwd=REPOSITORY,
                env={**plain, "RAY_TMPDIR": str(self.folder), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.seen = {}

    @property
    def told(self):
        return self.log.read_text(errors="replace")

    def tree(self):
        """Every process that it started and that lives, by pid; those seen before are still known when it is dead."""
        with suppress(psutil.NoSuchProcess):
            self.seen |= {one.pid: one for one in self.process.children(recursive=True)}
        return {pid: one for pid, one in self.seen.items() if is_alive(one)}

    def listens(self):
        """Whether the program answers signals, rather than Python that starts: it has asked for SIGALRM."""
        caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{self.process.pid}/status").read_text())[1]
        return bool(int(caught, 16) >> (signal.SIGALRM - 1) & 1)

    def working(self):
        """Those of the tree that work; two small agents of Ray try to reach their dead head for a minute before they end."""
        found = []
        for one in self.tree().values():
            with suppress(psutil.NoSuchProcess):
                found += [] if "agent" in " ".join(one.cmdline()).lower() else [one]
        return found

    def actors(self):
        found = []
        for one in self.tree().values():
            with suppress(psutil.Error):
                if one.cmdline()[:1] and one.cmdline()[0].startswith("ray::Actor"):
                    found.append(one)
        return found

    def wait(self, limit_s=LIMIT_S):
        try:
            return Ended(self.process.wait(limit_s), self.told)
        except psutil.TimeoutExpired:
            raise AssertionError(f"still running after {limit_s} s; it said: {self.told}") from None

    def end(self):
        """Leave no process and no file."""
        left = self.tree()
        for one in [*left.values(), self.process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


def is_alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def started(*args, env=None):
    """A command that is dead at the end, with all its children, whatever happens."""
    command = Command(*args, env=env)
    try:
        yield command
    finally:
        command.end()


def gigaseg(*args, env=None, limit_s=LIMIT_S):
    """Run a command to its end."""
    with started(*args, env=env) as command:
        return command.wait(limit_s)


def run(config, *args, env=None, limit_s=LIMIT_S):
    """`gigaseg run`, to its end."""
    return gigaseg("run", config, *args, env=env, limit_s=limit_s)


def wait_for(condition, what, limit_s=LIMIT_S):
    """Wait until a condition holds, and give what it gave."""
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what() if callable(what) else what}"
        time.sleep(0.02)
    return found


def rows(output):
    """Rows in the ledger so far, however they were written."""
    return sum(file.read_bytes().count(b'"receipt":') for file in (output / "ledger").glob("*.jsonl"))


def has_rows(command, output, number):
    """A condition: so many receipts are in the ledger; false for ever once the command has ended is told at once."""

    def check():
        assert is_alive(command.process) or rows(output) >= number, command.told
        return rows(output) >= number

    return check


def masks_in(output):
    """Every level of every mask, decoded."""
    return {
        str(level.parent.relative_to(output / "masks")): np.asarray(zarr.open_array(level.parent, mode="r")[...])
        for level in sorted((output / "masks").glob("*.ome.zarr/[0-9]/zarr.json"))
    }


def report_in(output):
    """The report, without what a clock measured."""
    content = json.loads((output / "report" / "report.json").read_text())
    return {key: value for key, value in content.items() if key != "timing"}


def left_in(output):
    return masks_in(output), report_in(output)


def assert_same(output, reference):
    """Masks and report of a run are those of the reference."""
    assert not differing(masks_in(output), reference[0])
    assert report_in(output) == reference[1]


def differing(masks, reference):
    """Names of the masks that differ from the reference, or that only one of the two has."""
    equal = {name for name in masks.keys() & reference.keys() if np.array_equal(masks[name], reference[name])}
    return (masks.keys() | reference.keys()) - equal


def without(masks, names):
    """The masks, with no prediction in the poisoned block of the named images."""
    patched = {name: mask.copy() for name, mask in masks.items()}
    for name in names:
        patched[f"{name}.ome.zarr/0"][POISONED] = 255
    return patched


def run_json(output):
    return json.loads((output / "run.json").read_text())


def log_of(output):
    return (output / "log.txt").read_text()


def lost_actors(output):
    """Numbers of the actors that the log names as lost."""
    return re.findall(r"actor (\d+) lost", log_of(output))
