"""Prove that two versions of the code behave alike: the same commands give the same exit codes, files, pixels and ledgers.

A refactoring must change nothing that a user can see. Each case runs a few commands on small images that are drawn from
fixed seeds; what they leave is written down, without clocks and without the machine. The code under test is only ever
called through its command line, so that any module may have been renamed::

    python -m tests.golden.behaviour record before.json --code OLD      three minutes on two idle cores
    python -m tests.golden.behaviour record after.json --code NEW
    python -m tests.golden.behaviour compare before.json after.json     exit 1, and every difference, if there is any
    python -m tests.golden.behaviour resume --before OLD --after NEW    runs that one version begins and the other ends

Records are comparable between folders of one name only: the keys of a ledger depend on where the images lie (``--root``).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
import yaml
import zarr
from PIL import Image

__all__ = ["main"]

SIZES = {"a": (256, 300), "b": (200, 256), "c": (130, 170)}
STAMP_S = 1_700_000_000  # when every file was last changed: the keys of a ledger depend on it
LIMIT_S = 400  # for one command, or for what is waited for

CLOCKS_OF_RECEIPTS = ("seconds", "peak_bytes", "s", "m", "M", "a")  # how long a block took, how large its process was, and which it was
MACHINE_OF_RUN_JSON = ("versions", "hardware", "started", "ended", "seconds", "pixels_per_second", "busy_share")  # where, when, how fast
CLOCK_OF_REPORT = "timing"  # the one part of a report that differs from run to run, by contract
CLOCKS_OF_HISTORY = ("seconds", "crops_per_second")  # columns of a training's history.csv
# What `status` and `plan` of a training say in JSON on a line of its own: when it ran, and what one step took in a trial.
CLOCKS_OF_ANSWERS = (
    "started",
    "ended",
    "seconds_per_step",
    "minutes",
    "minutes_of_steps",
    "seconds_per_validation",
    "memory_bytes_per_worker",
)
TEXTS = (".csv", ".yaml", ".geojson")  # files whose text is recorded
BYTES = (".tif", ".safetensors", ".onnx", ".pt")  # files whose SHA-256 is recorded
# Other files are listed, not read: the chunks of a Zarr are recorded decoded; log.txt, index.html and training.html hold clocks.
UNREAD = ("checkpoint.pt", "rdf.yaml")  # the one holds seconds, the other the time of its making
HASH_SEED = "0"  # of Python: TorchScript writes a network's constants in the order of a set

COMPUTE = {"runner": "serial", "device": "cpu", "backend": "torch", "precision": "fp32", "batch": 2, "threads": 1, "memory": "1GiB"}
RAY = {"runner": "ray", "actors": 2}
FIXED = "--set compute.runner=serial --set compute.backend=torch --set compute.precision=fp32 --set compute.threads=1"
UNET = {"name": "unet", "channels": 1, "classes": 3, "depth": 2, "base": 4, "seed": 3}
NORMALIZE = {"mean": [100.0], "std": [2.0]}  # so narrow that each class of the random network wins somewhere
CLASSES = [{"name": "ground", "values": [0]}, {"name": "disc", "values": "other", "color": "#e6194b"}]
THREE = [*({"name": name, "values": [value]} for value, name in enumerate(("ground", "one"))), {"name": "rest", "values": "other"}]
TRUTH = "truth/{stem}.png"
SCORED = {"truth": TRUTH, "classes": THREE}
TIFF = [{"name": "ome_zarr"}, {"name": "tiff"}]
PROBS = [{"name": "ome_zarr", "probs": True}]


@dataclass(frozen=True)
class Case:
    """A few commands that share one YAML and one output folder.

    Attributes:
        yaml: content of NAME.yaml.
        steps: commands after ``gigaseg``; YAML and OUT stand for the file and the folder. One that begins with ``stopped``
            is stopped with ``gigaseg stop`` once it is halfway.
    """

    yaml: Mapping[str, Any] = field(default_factory=dict)
    steps: Sequence[str] = ("run YAML",)


def run_of(model: Any, *, tiling: Mapping[str, Any] | None = None, compute: Mapping[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """Return the YAML of a run: nothing that depends on the machine is left open."""
    return {
        "images": ["images/"],
        "model": model,
        "tiling": {"core": 64, "halo": 24, "block": 128, **(tiling or {})},
        "compute": {**COMPUTE, **(compute or {})},
        **keys,
    }


def network(model: Any = None, **keys: Any) -> dict[str, Any]:
    """Return the YAML of a run of a network with seeded weights."""
    return run_of(model or UNET, **{"normalize": NORMALIZE, **keys})


def training(**keys: Any) -> dict[str, Any]:
    """Return the YAML of a training."""
    return {
        "images": "images/",
        "truth": TRUTH,
        "val": {"names": ["c"]},
        "classes": CLASSES,
        "model": {"name": "unet", "depth": 2, "base": 4},
        "crop": 48,
        "batch": 4,
        "steps": 30,
        "validate_every": 10,
        "precision": "fp32",
        "compute": {"runner": "serial", "device": "cpu", "threads": 1},
        **keys,
    }


ENSEMBLE = {"name": "ensemble", "members": [UNET, {**UNET, "seed": 5, "padding": "valid", "norm": "none"}], "shares": [3, 1]}
TORCHSCRIPT = {"name": "torchscript", "path": "tiny.pt", "trust": True, "channels": 1, "classes": 3}
GRAPHCUT = {"name": "graphcut", "classes": 2}
BUNDLE = ("format", "architecture", "weights", "classes", "outputs", "maps", "instances", "merge_channels")  # keys that every version reads
WIDE = {"core": 128, "halo": 32, "block": 128}
CUTS = {"truth": TRUTH, "classes": CLASSES, "tiling": WIDE}
LONG = training(steps=150, checkpoint_minutes=0)
NAMED = json.dumps(UNET)
SCORE = "evaluate --truth truth --classes classes.yaml"

CASES = {
    "crop": Case(network(writers=PROBS, **SCORED), ("plan YAML --json", "run YAML", "status OUT --json", "run YAML", "report OUT")),
    "crop_ray": Case(network(writers=PROBS, compute=RAY, **SCORED)),
    "gaussian": Case(network(tiling={"stitch": "gaussian", "block": 64}, writers=PROBS, **SCORED)),
    "linear_ray": Case(network(tiling={"stitch": "linear", "block": 64}, compute=RAY, **SCORED)),
    "zscore": Case(network(normalize="zscore", writers=PROBS)),
    "percentile": Case(network(normalize="percentile", writers=PROBS)),
    "flips": Case(network({**UNET, "tta": "flips"}, writers=PROBS, **SCORED)),
    "d4": Case(network({**UNET, "tta": "d4"}, tiling={"stitch": "linear"})),
    "ensemble": Case(network(ENSEMBLE, writers=PROBS)),
    "frrn": Case(network({"name": "frrn", "variant": "a", "channels": 1, "classes": 2}, images=["images/c.png"], tiling=WIDE)),
    "contrast": Case(network(normalize="contrast", writers=PROBS)),
    "nuclei": Case(run_of({"name": "bundle", "path": "./nuclei"}, truth=TRUTH, classes=CLASSES, tiling={**WIDE, "halo": 48})),
    "onnx": Case(network({"name": "onnx", "path": "tiny.onnx"}, writers=PROBS, **SCORED)),
    "torchscript": Case(network(TORCHSCRIPT, writers=PROBS, **SCORED)),
    "histogram": Case(run_of({"name": "histogram", "classes": 3}, images=["grey.tif", "images/*.png"], writers=TIFF)),
    "pyramid": Case(run_of({"name": "histogram", "classes": 3, "smooth": 2.0}, images=["wide.png"], tiling={"block": 512}, writers=TIFF)),
    "kmeans": Case(run_of({"name": "kmeans", "classes": 3, "texture": [2.0]}, images=["rgb.png"])),
    "watershed": Case(run_of({"name": "watershed", "classes": 2}, **CUTS)),
    "graphcut": Case(run_of(GRAPHCUT, **CUTS)),
    "graphcut_ray": Case(run_of(GRAPHCUT, compute=RAY, **CUTS)),
    "stack": Case(network(images=["stack.tif"], reader={"axes": "zyx"}, writers=[*PROBS, {"name": "tiff"}])),
    "nan": Case(network(images=["nan.tif"], writers=TIFF)),
    "infinite": Case(network(images=["infinite.tif"])),
    "listed": Case(network(images=["list.csv"], **SCORED)),
    "quarantine": Case(network(images=["broken/"]), ("run YAML", "retry OUT", "run YAML --fresh")),
    "strange_truth": Case(network(truth=TRUTH, classes=[{"name": name} for name in ("x", "y", "z")])),
    "truth_later": Case(network(classes=THREE), ("run YAML", f"run YAML --set truth={TRUTH}", "report OUT", "run YAML --set ignore=1")),
    "evaluate": Case(
        run_of({"name": "histogram", "classes": 2}),
        ("run YAML", f"{SCORE} --pred OUT -o OUT/scores", f"{SCORE} --pred OUT/masks/a.ome.zarr -o OUT/one --ignore 3"),
    ),
    "convert": Case(
        steps=(
            "convert images/ rgb.png grey.tif -o OUT/plain",
            "convert images/ stack.tif -o OUT/stack --set reader.axes=zyx",
            f"segment OUT/plain/grey.ome.zarr --model histogram -o OUT/run {FIXED}",
        )
    ),
    "train": Case(training(), ("plan YAML --json", "train YAML", f"segment grey.tif -m ./OUT/bundle -o OUT/run {FIXED}", "train YAML")),
    "train_stopped": Case(LONG, ("stopped train YAML", "train YAML")),
    "export": Case(
        steps=(
            f"models export '{NAMED}' --to onnx -o OUT/a.onnx",
            f"models export '{NAMED}' --to torchscript -o OUT/a.pt",
            f"models export '{NAMED}' --to bioimageio -o OUT/package",
            "models export ./nuclei --to onnx --channels 3 -o OUT/b.onnx",
        )
    ),
    "catalog": Case(
        steps=(
            *("schema", "schema --training", "models --json", "readers --json", "writers --json", "--help", "run --help", "train --help"),
            *(f"models --describe {name} --json" for name in ("nuclei", "frrn", "unet", "segnet", "deeplabv3plus")),
        )
    ),
    "refused": Case(
        {**network(writers=["tif"]), "imagse": 1, "tiling": {"core": 60, "block": 100, "stich": "crop"}, "compute": {"backend": "torhc"}},
        ("run YAML", "plan YAML", "train YAML", "run missing.yaml", "segment images/ --model nuclie -o OUT", "status OUT", "retry OUT"),
    ),
    "refused_images": Case(network(images=["images/", "nowhere.tif"], truth="truth/{steam}.png")),
    "refused_channels": Case(network(images=["rgb.png"])),
    "refused_stitch": Case(run_of({"name": "histogram", "classes": 2}, tiling={"stitch": "linear"})),
    "refused_training": Case(training(crop=8, batch=0, val=["nowhere"], loss="dise"), ("train YAML",)),
    "refused_change": Case(network(), ("run YAML", "run YAML --set tiling.core=32", "run YAML --set normalize=zscore")),
}

SLOW = {"images": ["images/", "large.png"], "model": {**UNET, "depth": 3, "base": 12}}
SMALL = {"core": 48, "halo": 48, "block": 48}
BEGUN = {
    "crop": (signal.SIGKILL, Case(network(**{**SLOW, "tiling": SMALL}, writers=[*PROBS, {"name": "tiff"}]))),
    "stopped": (None, Case(network(**{**SLOW, "tiling": SMALL}))),
    "gaussian": (signal.SIGKILL, Case(network(**{**SLOW, "tiling": {**SMALL, "stitch": "gaussian"}}))),
    "ray": (signal.SIGKILL, Case(network(**{**SLOW, "tiling": {**SMALL, "stitch": "linear"}, "compute": RAY}))),
    "fitted": (signal.SIGKILL, Case(run_of(GRAPHCUT, images=SLOW["images"], tiling={"core": 48, "halo": 48, "block": 48}))),
    "training": (signal.SIGKILL, Case(LONG, ("train YAML",))),
    "training_stopped": (None, Case(LONG, ("train YAML",))),
}
"""Runs that one version begins and another ends: how they are interrupted (None: ``gigaseg stop``), and what they are."""

GIVEN = {
    "again": Case(network(**SCORED), ("run YAML", "run YAML")),
    "recounted": Case(network(classes=THREE), ("run YAML", f"run YAML --set truth={TRUTH}")),
    "reported": Case(network(**SCORED), ("run YAML", "report OUT")),
    "retried": Case(network(images=["broken/"]), ("run YAML", "retry OUT")),
    "scored": Case(network(**SCORED), ("run YAML", f"{SCORE} --pred OUT -o OUT/scores")),
    "trained": Case(training(), ("train YAML", "train YAML")),
    "used": Case(training(), ("train YAML", f"segment grey.tif -m ./OUT/bundle -o OUT/run {FIXED}")),
}
"""Folders that one version leaves and another goes on with: the first step is of the one, the others are of the other."""


def discs(seed: int, shape: tuple[int, int], channels: int = 1) -> tuple[Any, Any]:
    """Draw bright discs on a dark, noisy ground, pixels (Y, X[, C]) uint8, and their numbers, truth (Y, X) uint8."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    truth_YX = np.zeros(shape, np.uint8)
    for number in range(1, 8):
        row, col, radius = rng.integers(shape[0]), rng.integers(shape[1]), rng.integers(10, 28)
        truth_YX[(rows - row) ** 2 + (cols - col) ** 2 < radius**2] = number
    pixels_YXC = np.where(truth_YX[..., None] > 0, 170, 70) + 10 * truth_YX[..., None] + rng.normal(0, 20, (*shape, channels))
    pixels_YXC = np.clip(pixels_YXC, 0, 255).astype(np.uint8)
    return (pixels_YXC if channels > 1 else pixels_YXC[..., 0]), truth_YX


def draw(root: Path) -> None:
    """Write every input: images, truth, lists and networks."""
    for name in ("images", "truth", "broken"):
        (root / name).mkdir()
    for seed, (name, shape) in enumerate(SIZES.items()):
        pixels_YX, truth_YX = discs(seed, shape)
        Image.fromarray(pixels_YX).save(root / "images" / f"{name}.png")
        Image.fromarray(truth_YX).save(root / "truth" / f"{name}.png")
    Image.fromarray(discs(10, (540, 480))[0]).save(root / "large.png")
    Image.fromarray(discs(17, (1100, 1050))[0]).save(root / "wide.png")
    Image.fromarray(discs(11, (240, 260), 3)[0]).save(root / "rgb.png")
    options = {"tile": (64, 64), "compression": "zlib"}
    grey_YX = discs(12, (300, 260))[0].astype(np.uint16) * 100
    tifffile.imwrite(root / "grey.tif", grey_YX, resolution=(20000, 20000), resolutionunit="CENTIMETER", **options)
    tifffile.imwrite(root / "stack.tif", np.stack([discs(seed, (180, 200))[0] for seed in (13, 14, 15)]), **options)
    floats_YX = discs(16, (220, 260))[0].astype(np.float32)
    floats_YX[:40, 100:150], floats_YX[130, 7] = np.nan, np.nan
    tifffile.imwrite(root / "nan.tif", floats_YX, **options)
    floats_YX[130, 7] = np.inf
    tifffile.imwrite(root / "infinite.tif", floats_YX, **options)
    shutil.copy(root / "images" / "c.png", root / "broken" / "good.png")
    (root / "broken" / "bad.tif").write_bytes(b"II*\0 not a TIFF at all")
    (root / "broken" / "cut.png").write_bytes((root / "images" / "b.png").read_bytes()[:2000])
    (root / "broken" / "notes.txt").write_text("no image")
    (root / "list.csv").write_text("image,name,truth\nimages/a.png,first/a,truth/a.png\nimages/b.png,second,\n")
    (root / "classes.yaml").write_text(yaml.safe_dump(CLASSES))
    copy_bundle(root / "nuclei")
    command = [sys.executable, "-W", "ignore", __file__, "networks", str(root)]  # PyTorch warns that both formats are old
    subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": HASH_SEED}, check=True)


def copy_bundle(folder: Path) -> None:
    """Copy the bundle nuclei of this checkout without its card, so that versions that ship other weights are compared with these."""
    shipped = Path(__file__).parents[2] / "pipeline" / "bundles" / "nuclei"
    spec = yaml.safe_load((shipped / "model.yaml").read_text())
    folder.mkdir()
    shutil.copy(shipped / spec["weights"]["file"], folder)
    (folder / "model.yaml").write_text(yaml.safe_dump({**{key: spec[key] for key in BUNDLE}, "normalize": "percentile"}))


def write_networks(root: Path) -> int:
    """Write a network with seeded weights as TorchScript and as ONNX; each of its classes wins somewhere."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(5)
    head = torch.nn.Conv2d(6, 3, 3, padding=1)
    layers = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 5, padding=2), torch.nn.ReLU(), head).eval()
    pixels = torch.from_numpy(discs(0, SIZES["a"])[0].astype(np.float32))[None, None]
    x = (pixels - NORMALIZE["mean"][0]) / NORMALIZE["std"][0]
    with torch.no_grad():
        head.bias -= layers(x).mean(dim=(0, 2, 3))
    torch.jit.script(layers).save(str(root / "tiny.pt"))
    axes = {name: {0: "n", 2: "h", 3: "w"} for name in ("x", "y")}
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
    torch.onnx.export(layers, (x,), str(root / "tiny.onnx"), dynamo=False, **names)
    return 0


def settle(root: Path) -> None:
    """Give every file one time of change: the keys of a ledger depend on when the files that it read were written."""
    for path in (root, *root.rglob("*")):
        os.utime(path, (STAMP_S, STAMP_S), follow_symlinks=False)


@contextmanager
def inputs(root: Path) -> Iterator[Path]:
    """Draw the inputs in a new folder, and remove it in the end."""
    try:
        root.mkdir(parents=True)
    except FileExistsError:
        sys.exit(f"{root} is there already: another record is being made, or one was killed and the folder can be removed")
    try:
        draw(root)
        settle(root)
        for name in ("out", "cache", "ray"):
            (root / name).mkdir()
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


@dataclass(frozen=True)
class Scene:
    """One version of the code, and the folder that it works in."""

    root: Path
    code: Path

    def __post_init__(self) -> None:
        found = subprocess.run(
            [sys.executable, "-c", "import pipeline; print(pipeline.__file__)"], **self.place, capture_output=True, text=True, check=True
        )
        if not Path(found.stdout.strip()).is_relative_to(self.code):
            sys.exit(f"{self.code} was asked for, and Python imports {found.stdout.strip()}")

    @property
    def place(self) -> dict[str, Any]:
        """Where processes run: this code alone, an empty cache, one thread, no GPU."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GIGASEG_", "PYTHON"))}
        own = {
            "PYTHONPATH": str(self.code),
            "PYTHONPYCACHEPREFIX": str(self.root / "cache" / "python"),  # the code's own folder may be shared or read-only
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", str(self.root / "ray")),
            "OMP_NUM_THREADS": "1",
            "PYTHONHASHSEED": HASH_SEED,
            "CUDA_VISIBLE_DEVICES": "",
            "COLUMNS": "200",
        }
        return {"cwd": self.root, "env": {**kept, **own}}

    def command(self, step: str, name: str) -> list[str]:
        """Return the command line of a step of a case."""
        words = shlex.split(step.replace("YAML", f"{name}.yaml").replace("OUT", f"out/{name}"))
        return [sys.executable, "-m", "pipeline", *words]

    def call(self, step: str, name: str) -> subprocess.CompletedProcess[str]:
        """Carry one step out."""
        ended = subprocess.run(
            self.command(step, name), **self.place, capture_output=True, text=True, check=False, timeout=LIMIT_S, stdin=subprocess.DEVNULL
        )
        settle(self.root / "out")
        return ended

    def interrupt(self, step: str, name: str, number: signal.Signals | None) -> int:
        """Begin a step and end it halfway, by a signal or by ``gigaseg stop``; return its exit code.

        Raises:
            RuntimeError: it ended before.
        """
        with (self.root / "interrupted.txt").open("wb") as said:
            process = psutil.Popen(self.command(step, name), **self.place, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
            until = time.monotonic() + LIMIT_S
            while not is_halfway(self.root / "out" / name):
                if process.poll() is not None or time.monotonic() > until:
                    process.kill()
                    raise RuntimeError(f"{name}: ended before it could be interrupted: {(self.root / 'interrupted.txt').read_text()}")
                time.sleep(0.05)
            family = process.children(recursive=True)
            if number is None:
                self.call("stop OUT", name)
            else:
                process.send_signal(number)
            code = process.wait(LIMIT_S)
        _, alive = psutil.wait_procs(family, timeout=30)  # Ray's own notice that their driver is gone
        for one in alive:
            one.kill()
        settle(self.root / "out")
        return int(code)

    def prepare(self, name: str, case: Case) -> None:
        """Write the YAML of a case."""
        if case.yaml:
            path = self.root / f"{name}.yaml"
            path.write_text(yaml.safe_dump({**case.yaml, "output": f"out/{name}"}, sort_keys=False))

    def clear(self, name: str) -> None:
        """Remove the output of a case, so that another one can be made in its place: keys depend on where bundles and masks lie."""
        shutil.rmtree(self.root / "out" / name)
        settle(self.root / "out")

    def plain(self, text: str, name: str) -> str:
        """Take the places of this machine out of a text."""
        text = text.replace(str(self.root / "out" / name), "OUT").replace(str(self.root), "ROOT").replace(str(self.code), "CODE")
        return text.replace(f"{name}.yaml", "YAML")

    def carry_out(self, name: str, case: Case) -> dict[str, Any]:
        """Run all steps of a case; return what they said and what they left."""
        self.prepare(name, case)
        steps = {f"{number} {step}": self.step(step, name) for number, step in enumerate(case.steps)}
        return {"steps": steps, **self.left_by(name)}

    def step(self, step: str, name: str) -> dict[str, Any]:
        """Run one step; return its exit code, its answer, and its complaint where it was refused."""
        if step.startswith("stopped "):
            return {"code": self.interrupt(step.removeprefix("stopped "), name, None)}
        ended = self.call(step, name)
        lines = self.plain(ended.stdout, name).splitlines()
        clocks = tuple(f'"{key}":' for key in CLOCKS_OF_ANSWERS)
        said = {"code": ended.returncode, "stdout": [line for line in lines if not line.strip().startswith(clocks)]}
        # Progress and Ray's own lines vary; a refusal is all that a refused command says.
        return {**said, "stderr": self.plain(ended.stderr, name).splitlines()} if ended.returncode == 2 else said

    def left_by(self, name: str) -> dict[str, Any]:
        """Return what lies in the output folder of a case."""
        folder = self.root / "out" / name
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [str(path.relative_to(folder)) for path in files]
        stamped = "events.out.tfevents"  # TensorBoard puts the time and the host into the names of its files
        kept = [one for one in names if stamped not in one and "/ledger/" not in f"/{one}"]
        ledgers = sorted({path.parent for path in files if path.parent.name == "ledger"})
        content = {one: found for one, path in zip(names, files, strict=True) if (found := self.content(path, name)) is not None}
        return {
            "files": kept,
            "ledger_files": [one for one in names if "/ledger/" in f"/{one}"],
            "content": content,
            "ledgers": {str(ledger.relative_to(folder)): self.ledger(ledger, name) for ledger in ledgers},
        }

    def content(self, path: Path, name: str) -> Any:
        """Return what is recorded of a file; None where that is its name alone."""
        if path.name == "zarr.json":
            return zarr_node(path)
        if path.name in UNREAD:
            return None
        if path.suffix in BYTES:
            return sha256(path.read_bytes()).hexdigest()
        if path.name == "history.csv":
            return history(path)
        if path.name in ("report.json", "run.json"):
            found = json.loads(self.plain(path.read_text(), name))
            removed = {CLOCK_OF_REPORT} if path.name == "report.json" else set(MACHINE_OF_RUN_JSON)
            return {key: value for key, value in found.items() if key not in removed}
        if path.suffix in TEXTS:
            return self.plain(path.read_text(), name).splitlines()
        return None

    def ledger(self, folder: Path, name: str) -> dict[str, Any]:
        """Return the rows of all segments: plans in order, receipts by phase and block. Headers name processes and times."""
        rows: dict[str, list[Any]] = {"plan": [], "receipt": []}
        for segment in sorted(folder.glob("*.jsonl")):
            for line in segment.read_text().splitlines():
                row = parsed(self.plain(line, name))
                for kind in rows.keys() & row.keys():
                    rows[kind].append({key: value for key, value in row[kind].items() if key not in CLOCKS_OF_RECEIPTS})
        # Several actors finish in any order; of one block the order is that of time.
        return {"plan": rows["plan"], "receipt": sorted(rows["receipt"], key=lambda row: (row["phase"], row["block"]))}


def is_halfway(folder: Path) -> bool:
    """Whether a run has committed enough blocks to be interrupted, or a training enough steps."""
    history_csv = folder / "history.csv"
    if history_csv.exists():
        return len(history_csv.read_text().splitlines()) > 5
    segments = [path.read_bytes() for path in folder.glob("ledger/*.jsonl")]
    return sum(one.count(b'"receipt":') for one in segments) >= 40


def parsed(line: str) -> dict[str, Any]:
    """Parse one row of a ledger; the line that a killed process was writing is no row."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}


def zarr_node(path: Path) -> dict[str, Any]:
    """Return the metadata of a Zarr group or array and, of an array, its decoded pixels' SHA-256."""
    metadata = json.loads(path.read_text())
    if metadata["node_type"] == "group":
        return {"metadata": metadata}
    pixels = np.ascontiguousarray(zarr.open_array(path.parent, mode="r")[...])
    values, counts = np.unique(pixels, return_counts=True)
    most = {str(value): int(number) for value, number in zip(values, counts, strict=True)} if len(values) <= 12 else len(values)
    found = {"shape": list(pixels.shape), "dtype": str(pixels.dtype), "sha256": sha256(pixels.tobytes()).hexdigest()}
    return {"metadata": metadata, **found, "values": most}


def history(path: Path) -> list[list[str]]:
    """Return the rows of a training's history, without its clocks."""
    rows = list(csv.reader(io.StringIO(path.read_text())))
    kept = [at for at, column in enumerate(rows[0]) if column not in CLOCKS_OF_HISTORY]
    return [[row[at] for at in kept] for row in rows]


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Walk two trees and give a line for each leaf that differs."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from differences(one.get(key, "(absent)"), other.get(key, "(absent)"), f"{place} > {key}" if place else key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for at, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differences(left, right, f"{place} > {at}")
    elif one != other:
        yield f"{place}:\n    - {short(one, other)}\n    + {short(other, one)}"


def short(value: Any, other: Any) -> str:
    """Return a value as text; of two long lists, what the other one lacks."""
    if isinstance(value, list) and isinstance(other, list):
        value = {"length": len(value), "only here": [item for item in value if item not in other]}
    text = json.dumps(value)
    return text if len(text) <= 2000 else f"{text[:2000]}..."


def record(path: Path, code: Path, root: Path, names: Sequence[str]) -> int:
    """Carry all cases out with one version and write what they leave."""
    began, cases = time.monotonic(), {}
    with inputs(root):
        scene = Scene(root, code)
        given = {
            str(file.relative_to(root)): sha256(file.read_bytes()).hexdigest() for file in sorted(root.rglob("*")) if is_input(file, root)
        }
        for name in names or CASES:
            start = time.monotonic()
            cases[name] = scene.carry_out(name, CASES[name])
            codes = [step["code"] for step in cases[name]["steps"].values()]
            print(f"{name}: exit codes {codes}, {time.monotonic() - start:.0f} s", flush=True)
    path.write_text(json.dumps({"root": str(root), "inputs": given, "cases": cases}, indent=1))
    print(f"{len(cases)} cases in {time.monotonic() - began:.0f} s: {path}")
    return 0


def is_input(path: Path, root: Path) -> bool:
    """Whether a file is one that :func:`draw` wrote."""
    return path.is_file() and path.relative_to(root).parts[0] not in ("out", "cache", "ray")


def compare(one: Path, other: Path) -> int:
    """Print every difference of two records; return 1 if there is any."""
    lines = list(differences(json.loads(one.read_text()), json.loads(other.read_text())))
    print("\n".join([*lines, f"{len(lines)} differences"]))
    return int(bool(lines))


def resume(before: Path, after: Path, root: Path, names: Sequence[str]) -> int:
    """Begin runs with one version, end them with the other, and print what an undisturbed one leaves otherwise."""
    lines: list[str] = []
    with inputs(root):
        old, new = Scene(root, before), Scene(root, after)
        for name in names or (*BEGUN, *GIVEN):
            pair = interrupted(old, new, name) if name in BEGUN else continued(old, new, name)
            found = list(differences(*pair, name))
            print("\n".join([f"{name}: {len(found)} differences", *found]), flush=True)
            lines += found
    print(f"{len(lines)} differences")
    return int(bool(lines))


def interrupted(old: Scene, new: Scene, name: str) -> tuple[Any, Any]:
    """Return what an undisturbed run of the old version leaves, and one that the old version began and the new one ended."""
    number, case = BEGUN[name]
    whole = ended_of(old.carry_out(name, case))
    old.clear(name)
    old.interrupt(case.steps[0], name, number)
    kept = receipts_of(old, name)
    found = ended_of(new.carry_out(name, case))
    lost = [row for row in kept if row not in receipts_of(new, name)]
    return whole | {"lost receipts": []}, found | {"lost receipts": lost}


def receipts_of(scene: Scene, name: str) -> list[Any]:
    """Return the receipts in the ledger of a run; a training has none."""
    return list(scene.ledger(scene.root / "out" / name / "ledger", name)["receipt"])


def continued(old: Scene, new: Scene, name: str) -> tuple[Any, Any]:
    """Return what all steps of the old version leave, and what is left where the new one carries out all but the first."""
    case = GIVEN[name]
    whole = old.carry_out(name, case)
    old.clear(name)
    old.carry_out(name, replace(case, steps=case.steps[:1]))
    found = new.carry_out(name, replace(case, steps=case.steps[1:]))
    expected = [said for at, said in enumerate(whole["steps"].values()) if at]
    return whole | {"steps": expected}, found | {"steps": list(found["steps"].values())}


def ended_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Take out what an interruption may change."""
    left = {key: value for key, value in found.items() if key != "ledger_files"}  # each process that held the run has some
    for name, content in left["content"].items():
        if name.endswith("run.json"):
            content.pop("notes", None)  # on how the recipe was chosen: said by the process that chose it
    return left


def main() -> int:
    """Parse the arguments and carry one command out."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden.behaviour", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    here = Path(__file__).parents[2]
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="carry all cases out and write what they leave")
    recording.add_argument("path", type=Path, metavar="OUT.json")
    recording.add_argument("--code", type=Path, default=here, help="folder that holds the packages; default: this checkout")
    comparing = commands.add_parser("compare", help="print what differs between two records; exit 1 if anything does")
    comparing.add_argument("one", type=Path, metavar="A.json")
    comparing.add_argument("other", type=Path, metavar="B.json")
    resuming = commands.add_parser("resume", help="begin runs with one version and end them with another")
    resuming.add_argument("--before", type=Path, required=True, help="folder of the version that begins")
    resuming.add_argument("--after", type=Path, default=here, help="folder of the version that ends; default: this checkout")
    writing = commands.add_parser("networks", help="write the networks among the inputs; the other commands do so in a process of its own")
    writing.add_argument("folder", type=Path, metavar="FOLDER")
    for one in (recording, resuming):
        one.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()) / "gigaseg-behaviour", help="folder to work in; removed")
        one.add_argument("--only", nargs="+", default=[], metavar="CASE", help="these cases only")
    asked = parser.parse_args()
    if asked.command == "record":
        return record(asked.path, asked.code.resolve(), asked.root.resolve(), asked.only)
    if asked.command == "compare":
        return compare(asked.one, asked.other)
    if asked.command == "networks":
        return write_networks(asked.folder)
    return resume(asked.before.resolve(), asked.after.resolve(), asked.root.resolve(), asked.only)


if __name__ == "__main__":
    sys.exit(main())
