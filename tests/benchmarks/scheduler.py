"""How many blocks a second one driver schedules: blocks that do nothing, through Ray actors, leases and the ledger.

Run: ``python -m tests.benchmarks.scheduler [BLOCKS] [ACTORS]`` (20000 2). At least 1000 a second are wanted.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from typing_extensions import override

from pipeline.config import Compute, Recipe
from pipeline.engine.job import Job
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header, Raster
from pipeline.readers import Reader
from pipeline.records import Block, RunFolder
from pipeline.scheduling.block_queue import Stage
from pipeline.scheduling.execution import RunSpec, execute

__all__ = ["Blank"]

SIDE = 16
CLASSES = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]


class Blank(Reader):
    """An image of 16 x 16 zeros without a file.

    Example::

        reader: {name: tests.benchmarks.scheduler}
    """

    @contextmanager
    @override
    def open(self, path: str) -> Iterator[Raster]:
        yield _Zeros()


class _Zeros(Raster):
    header = Header((1, 1), 1, "uint8")

    def read(self, box: Box, plane: int = 0) -> np.ndarray:
        return np.zeros((1, *box.shape), np.uint8)


def seconds_of(blocks: int, actors: int, runner: str) -> float:
    """Wall seconds of a run of so many blocks that do nothing, start-up included."""
    image = Image(0, "blank", "blank", Header((SIDE, blocks * SIDE), 1, "uint8"), {"name": "tests.benchmarks.scheduler"})
    boxes = [Box(0, col * SIDE, SIDE, (col + 1) * SIDE) for col in range(blocks)]
    stage = Stage("count", [Block("count", image, 0, 0, col, box, "key") for col, box in enumerate(boxes)])
    one = {"name": "blank", "shape": [SIDE, blocks * SIDE], "planes": 1, "truth": None, "count_key": ""}
    plan = {"classes": CLASSES, "metrics": [], "model": {}, "images": [one], "rejected": []}
    with tempfile.TemporaryDirectory() as text:
        folder = RunFolder(Path(text))
        job = Job(folder.storage, Recipe(core=SIDE, block=SIDE), classes=CLASSES)
        start = time.perf_counter()
        execute(RunSpec(folder, job, {"blank": [stage]}, plan, runner, Compute(actors=actors)))
        return time.perf_counter() - start


def main() -> None:
    """Print blocks a second, start-up left out by taking the difference of a long and a short run."""
    blocks, actors = (int(text) for text in (*sys.argv[1:], *("20000", "2")[len(sys.argv) - 1 :]))
    few = blocks // 10
    for runner in ("serial", "ray"):
        short, long = seconds_of(few, actors, runner), seconds_of(blocks, actors, runner)
        rate = (blocks - few) / (long - short)
        print(f"{runner:6}: {rate:6.0f} blocks a second; start-up {short - few / rate:.1f} s", flush=True)


if __name__ == "__main__":
    main()
