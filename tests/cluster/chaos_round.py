"""One round of chaos: small images, a run that is disturbed and begun again, and what an undisturbed serial run makes of the same."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml
from PIL import Image

from pipeline.errors import StoreError
from pipeline.records import latest, read_rows
from pipeline.storage import open_storage
from tests.cluster.drivers import Driver, HostDriver, LocalDriver
from tests.cluster.faulty_proxy import FaultyProxy
from tests.cluster.hosts import Fleet
from tests.cluster.judge import wrong_in
from tests.cluster.s3_server import BUCKET

__all__ = ["DONE", "LIMIT_S", "Round", "Wrong"]

LIMIT_S = 150.0
CORE = 32
KINDS = ("zlib", "raw", "png")
OBJECTS = {"instances": {"name": "watershed", "height": "probability", "halo": 16}}
DONE = {0, 3}
STAMP = len("2026-01-01 00:00:00.000+00:00")  # of a line of the log
TRIES = 6  # of the run at the end, until nothing is left to do


class Wrong(AssertionError):
    """Something is not as it must be."""


@dataclass
class Round:
    """The state of a round.

    Attributes:
        root: its folder.
        rng: draws everything.
        runner: serial, ray, hosts, or s3: serial with its output in a bucket.
        fleet: a Ray on hosts; None where the runner needs none.
        proxy: what a bucket is reached by, and can be made to fail; None where there is no bucket.
        side: of the largest image, pixels.
    """

    root: Path
    rng: random.Random
    runner: str
    fleet: Fleet | None = None
    proxy: FaultyProxy | None = None
    side: int = 300
    injected: Counter[str] = field(default_factory=Counter)
    parity: int = 0
    version: int = 0  # of the images
    planned: int = -1  # version that the driver that runs has seen
    replaced: bool = False  # whether an image was replaced since the run was begun
    gone: set[str] = field(default_factory=set)  # images that were removed
    is_fresh: bool = False  # whether the driver, or one that was killed before it began, was told to begin anew
    allowed: set[int] = field(default_factory=lambda: set(DONE))
    driver: Driver | None = None
    judged: int = 0
    history: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng
        self.born = self.began = time.time()
        self.pixels = np.random.default_rng(rng.getrandbits(32))
        (self.root / "images").mkdir(parents=True)
        (self.root / "truth").mkdir()
        self.shapes = {f"{number:02d}": self.shape() for number in range(rng.randint(2, 4))}
        self.formats = {name: rng.choice(KINDS) for name in self.shapes}
        for name in self.shapes:
            self.write_image(name)
            write(self.root / "truth" / f"{name}.tif", self.pixels.integers(0, 2, self.shapes[name], np.uint8), "zlib")
        block = CORE * rng.choice([1, 1, 2])
        self.tiling = {"core": CORE, "block": block, "halo": rng.choice([1, 4]), "stitch": rng.choice(["crop", "crop", "crop", "linear"])}
        self.options: dict[str, Any] = dict(OBJECTS) if rng.random() < 0.2 else {}
        if rng.random() < 0.5:
            self.options["truth"] = str(self.root / "truth" / "{stem}.tif")
        self.seconds = rng.choice([0.0, 0.01, 0.03]) + (0.0 if self.runner == "serial" else 0.05)

    def note(self, line: str) -> None:
        """Remember what happened, for whoever looks for the cause of something wrong."""
        self.history.append(f"{time.time() - self.born:6.2f} {line}")

    def shape(self) -> tuple[int, int]:
        """Draw the shape of an image."""
        return self.rng.randint(self.side // 3, self.side), self.rng.randint(self.side // 3, self.side)

    @property
    def output(self) -> str:
        """Path or URL of the folder that is disturbed."""
        return f"s3://{BUCKET}/{self.root.name}/out" if self.proxy is not None else str(self.root / "out")

    def read(self, name: str) -> bytes:
        """Return a file of the output; empty where it is missing."""
        with self.undisturbed_store(), suppress(StoreError):  # before the run is begun, there is no folder
            return open_storage(self.output).get(name) or b""
        return b""

    def local_output(self) -> Path:
        """Return the folder of the output; of a bucket, a copy of what it holds now."""
        if self.proxy is None:
            return Path(self.output)
        copy, storage = self.root / "copy", open_storage(self.output)
        shutil.rmtree(copy, ignore_errors=True)
        with self.undisturbed_store():
            for name in storage.list():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(storage.get(name) or b"")
        return copy

    @contextmanager
    def undisturbed_store(self) -> Iterator[None]:
        """Let the store answer well inside the ``with`` block."""
        if self.proxy is None:
            yield
            return
        rate, self.proxy.rate = self.proxy.rate, 0.0
        try:
            yield
        finally:
            self.proxy.rate = rate

    def path(self, name: str) -> Path:
        """Return the file of an image."""
        return self.root / "images" / f"{name}.{'png' if self.formats[name] == 'png' else 'tif'}"

    def write_image(self, name: str, *, in_place: bool = False) -> None:
        """Write other pixels into the file of an image, or put another file in its place."""
        pixels_YX = self.pixels.integers(0, 256, self.shapes[name], np.uint8)
        new = self.root / f"new.{self.path(name).suffix}"
        write(new, pixels_YX, self.formats[name])
        if in_place:
            with self.path(name).open("r+b") as file:
                file.write(new.read_bytes())
                file.truncate()
            new.unlink()
        else:
            new.replace(self.path(name))

    def yaml(self, output: str, *, undisturbed: bool = False) -> Path:
        """Write the YAML of a run over the images."""
        compute: dict[str, Any] = {"runner": "serial"}
        if self.runner == "ray" and not undisturbed:
            compute = {"runner": "ray", "actors": 2}
        if self.fleet is not None and not undisturbed:
            compute = {"runner": "ray", "address": self.fleet.address, "device": "cuda"}
        seconds = 0.0 if undisturbed else self.seconds
        content = {
            "images": [str(self.root / "images")],
            "model": {"name": "tests.cluster.steady", "seconds": seconds, "parity": self.parity},
            "tiling": self.tiling,
            "compute": compute,
            "output": self.output if output == "out" else str(self.root / output),
            **self.options,
        }
        path = self.root / f"{output}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def new_driver(self, *options: str) -> Driver:
        """Start a driver beside the one that there may be."""
        self.planned, command = self.version, ["run", self.yaml("out"), *options]
        return HostDriver(self.fleet.hosts, command) if self.fleet is not None else LocalDriver(command)

    def start(self, *options: str) -> None:
        """Start the run, or go on with it."""
        assert self.driver is None
        if self.fleet is not None:
            self.fleet.make_ready()
        if self.is_fresh:
            options, self.replaced = (*options, "--fresh"), False
        self.began = time.time()
        self.driver, self.allowed = self.new_driver(*options), set(DONE)
        self.note(f"run {' '.join(options)}")

    def restart_with_other_classes(self) -> None:
        """Begin anew, where every pixel of the earlier run would be wrong."""
        self.parity, self.is_fresh = 1 - self.parity, True
        self.start()

    @property
    def is_running(self) -> bool:
        """Whether the driver runs."""
        return self.driver is not None and self.driver.code() is None

    def pass_time(self, seconds: float) -> None:
        """Let the run go on; where it has ended, judge it, and begin again."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.is_running:
                code = self.collect()
                if code == 0:
                    self.restart_with_other_classes()
                else:
                    self.start()
            time.sleep(0.02)

    def wait_for_begin(self, *, with_actors: bool = False) -> None:
        """Wait until the driver holds the run, perhaps until an actor is ready, or until it has ended."""
        deadline = time.monotonic() + LIMIT_S
        while self.is_running and not self.has_begun(with_actors=with_actors):
            if time.monotonic() > deadline:
                raise Wrong(f"not begun in {LIMIT_S:g} s: {self.told()}")
            time.sleep(0.05)

    def has_begun(self, *, with_actors: bool = False) -> bool:
        """Whether the log says that the run was begun after the driver was started, and an actor is ready."""
        before, _, after = self.read("log.txt").decode().rpartition(" begin: ")
        began = datetime.fromisoformat(before[-STAMP:]).timestamp() if before else 0.0  # a full disk may have cut the line before
        return began > self.began and ("ready on node" in after or not with_actors)

    def told(self) -> str:
        """Return what the driver has said."""
        return self.driver.told() if self.driver is not None else ""

    def collect(self) -> int | None:
        """Take leave of a driver that has ended: it ended as it may, and where it is done, what it left is right."""
        driver, self.driver = self.driver, None
        if driver is None:
            return None
        code, told = driver.code(), driver.told()
        driver.end()
        self.is_fresh = self.is_fresh and not self.has_begun()
        self.note(f"exit {code}")
        if code not in self.allowed:
            raise Wrong(f"exit {code}, where {sorted(self.allowed)} may be: {told}")
        if "Traceback" in told or "unexpected" in told or "this is a fault" in told:
            raise Wrong(f"it told of a fault of its own: {told}")
        if code == 0 and self.planned == self.version:
            self.judge()
        return code

    def finish(self) -> None:
        """Run until nothing is left to do, and judge what there is."""
        if self.is_running:
            self.wait()
        code = self.collect()
        for _ in range(TRIES):
            self.start()
            self.wait()
            code = self.collect()
            if code in DONE and not self.retry():
                break
        if code not in DONE:
            raise Wrong(f"not done after {TRIES} undisturbed runs: exit {code}")
        self.judge()

    def wait(self) -> None:
        """Wait for the end of the driver."""
        assert self.driver is not None
        if self.driver.wait(LIMIT_S) is None:
            raise Wrong(f"still running after {LIMIT_S:g} s, undisturbed: {self.told()}")

    def retry(self) -> bool:
        """Try blocks again that were quarantined because of faults; return whether there were any."""
        failed = {key for key, row in latest(read_rows(self.local_output() / "ledger")).items() if not row.ok}
        expected = {key for key, row in latest(read_rows(self.reference() / "ledger")).items() if not row.ok}
        if not failed - expected:
            return False
        command = LocalDriver(["retry", self.output])
        command.wait(LIMIT_S)
        command.end()
        return True

    def reference(self) -> Path:
        """Return the output of an undisturbed serial run over the images as they are."""
        name = f"reference-{self.parity}-{self.version}"
        if not (self.root / name / "report" / "report.json").exists():
            command = LocalDriver(["run", self.yaml(name, undisturbed=True)])
            if command.wait(LIMIT_S) not in DONE:
                raise Wrong(f"the undisturbed run: exit {command.code()}: {command.told()}")
            command.end()
        return self.root / name

    def judge(self) -> None:
        """Raise Wrong unless the output is that of the undisturbed run."""
        self.judged += 1
        if wrong := wrong_in(self.local_output(), self.reference(), replaced=self.replaced, gone=self.gone):
            raise Wrong("; ".join(wrong[:8]))

    def end(self) -> None:
        """Leave no process."""
        if self.driver is not None:
            with suppress(Exception):
                self.driver.end()


def write(path: Path, pixels_YX: Any, kind: str) -> None:
    """Write a picture as a TIFF, compressed or not, or as a PNG."""
    if kind == "png":
        Image.fromarray(pixels_YX).save(path, "png")
    else:
        tifffile.imwrite(path, pixels_YX, tile=(64, 64), compression="zlib" if kind == "zlib" else None)
