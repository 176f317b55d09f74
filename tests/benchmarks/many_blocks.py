"""What a run of very many tiny blocks costs its driver: memory, bytes of the ledger, and the time to read it all again.

Run: ``python -m tests.benchmarks.many_blocks [empty] [ray] [segmented] [BLOCKS ...]`` (all three; 10000 100000), or ``... images
[COUNT]`` for a folder of many small images (10000). Each run is a process of its own. ``empty``: blocks that do nothing, in one process;
``ray``: the same through two actors; ``segmented``: an image with truth in blocks of 16 x 16 pixels, by a threshold. At most 300 bytes of
ledger and 100 bytes of the driver's memory a block, a ledger of 100,000 blocks read in 2 s, and 10,000 images planned in 20 s are wanted.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from pipeline.config import Compute, Recipe
from pipeline.engine import Job
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Blocks, CommittedReceipts, RunFolder
from pipeline.report import report_of
from pipeline.scheduling import RunSpec, Stage, Tally, execute
from pipeline.tiling import Grid
from tests.benchmarks.images import tile

SIDE = 16
CLASSES = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
MODEL = {"name": "tests.benchmarks.stub"}


def empty_run(output: Path, number: int, runner: str = "serial") -> RunSpec:
    """Return a run of so many blocks that do nothing."""
    shape = (SIDE, number * SIDE)
    image = Image(0, "blank", str(output), Header(shape, 1, "uint8"), {"name": "tests.benchmarks.scheduler"})
    stage = Stage("count", Blocks("count", image, Grid(shape, SIDE, 0, SIDE), "key"))
    one = {"name": "blank", "shape": list(shape), "planes": 1, "truth": None, "count_key": ""}
    plan = {"classes": CLASSES, "metrics": [], "model": {}, "images": [one], "rejected": [], "written": "", "block": SIDE}
    folder = RunFolder(output)
    job = Job(folder.storage, Recipe(core=SIDE, block=SIDE), classes=CLASSES)
    return RunSpec(folder, job, {"blank": [stage]}, plan, runner, Compute(actors=2))


def report_again(spec: RunSpec) -> dict[str, Any]:
    """Return the report of a run, from its ledger."""
    return report_of(spec.plan, Tally(spec.plan, CommittedReceipts(spec.folder.ledger)), "done")


def empty_blocks(output: Path, number: int, runner: str = "serial") -> None:
    """Schedule blocks that do nothing, resume the finished run, and report it; print the driver's peak memory after each."""
    spec = empty_run(output, number, runner)
    for what, work in (("run", execute), ("resume", execute), ("report", report_again)):
        before = time.process_time()
        seconds = timed(partial(work, spec))
        cpu = time.process_time() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(f"  {what:6}: {seconds:7.1f} s, {cpu:7.1f} s of CPU, driver at most {peak} MiB", flush=True)
    tell_ledger(output, number)


def segmented_blocks(folder: Path, number: int) -> None:
    """Segment an image of so many blocks with its truth, by the command line, and ask for its status and report."""
    rows = round(number**0.5)
    pixels_YX = np.tile(tile(1)[0], (rows * SIDE // 1024 + 1,) * 2)[: rows * SIDE, : rows * SIDE]
    for name, data in (("image", pixels_YX), ("truth", (pixels_YX >= 120).astype(np.uint8))):
        zarr.create_array(folder / f"{name}.zarr", data=data, chunks=(256, 256), compressors=None)
    tiling = {"core": SIDE, "halo": 0, "block": SIDE}
    inputs = {"images": ["image.zarr"], "truth": "truth.zarr"}
    commands(folder, {**inputs, "tiling": tiling}, ["run", "run", "status", "report"])
    tell_ledger(folder / "out", rows * rows)


def many_images(folder: Path, number: int) -> None:
    """Plan, segment, resume and report a folder of small images."""
    (folder / "images").mkdir()
    pixels_YX = tile(1)[0]
    for index in range(number):
        y, x = index * 37 % 960, index * 101 % 960
        tifffile.imwrite(folder / "images" / f"{index:06}.tif", pixels_YX[y : y + 64, x : x + 64], compression="zlib")
    commands(folder, {"images": ["images"], "writers": ["tiff"]}, ["plan", "run", "run", "status", "report"])
    tell_ledger(folder / "out", number)
    for name in ("report.json", "per_image.csv", "index.html"):
        print(f"  {name}: {(folder / 'out' / 'report' / name).stat().st_size / 1e6:.2f} MB", flush=True)


def commands(folder: Path, config: dict[str, Any], names: list[str]) -> None:
    """Carry out commands one after the other, each in a process of its own; print wall and CPU seconds, and memory."""
    yaml = folder / "run.yaml"
    yaml.write_text(json.dumps({"model": MODEL, "compute": {"runner": "serial"}, "output": "out", **config}))
    for name in names:
        target = yaml if name in ("plan", "run") else folder / "out"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "pipeline.cli", name, str(target)]
        seconds = timed(lambda command=command: subprocess.run(command, check=True, capture_output=True))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"  {name:6}: {seconds:7.1f} s, {cpu:7.1f} s of CPU, at most {after.ru_maxrss >> 10} MiB so far", flush=True)


def tell_ledger(output: Path, number: int) -> None:
    """Print the size of a ledger, and how long reading it takes."""
    size = sum(path.stat().st_size for path in (output / "ledger").glob("*.jsonl"))
    start = time.process_time()
    seconds = timed(lambda: sum(1 for _ in CommittedReceipts(output / "ledger").last))
    cpu = time.process_time() - start
    print(f"  ledger: {size / number:.0f} bytes a block, read in {seconds:.1f} s, {cpu:.1f} s of CPU", flush=True)


def timed(work: Callable[[], object]) -> float:
    """Return the wall seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def empty_blocks_by_ray(output: Path, number: int) -> None:
    """Do the same through two actors of Ray."""
    empty_blocks(output, number, "ray")


PARTS = {"empty": empty_blocks, "ray": empty_blocks_by_ray, "segmented": segmented_blocks, "images": many_images}


def main() -> None:
    """Print the figures of each number of blocks, or of images."""
    words = sys.argv[1:]
    if words[:1] == ["part"]:
        PARTS[words[1]](Path(words[2]), int(words[3]))
        return
    parts = [word for word in words if word in PARTS] or ["empty", "ray", "segmented"]
    numbers = [int(word) for word in words if word.isdecimal()] or ([10_000] if parts == ["images"] else [10_000, 100_000])
    for part in parts:
        for number in numbers:
            print(f"{part}, {number}:", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run([sys.executable, "-m", "tests.benchmarks.many_blocks", "part", part, folder, str(number)], check=True)


if __name__ == "__main__":
    main()
