"""How many blocks a second one driver schedules: blocks that do nothing, through actors, leases and the ledger.

Run: ``python -m tests.benchmarks.scheduler [BLOCKS] [ACTORS]`` (20000 2) with Ray; at least 1000 a second are wanted.
``python -m tests.benchmarks.scheduler --stubs [BLOCKS] [ACTORS]`` (100000 1000) with actors that exist in name only and take
half a second for a block: the driver's own work for a large cluster, without Ray's. Less than one core is wanted.
"""

from __future__ import annotations

import heapq
import itertools
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
from typing_extensions import override

from pipeline.config import Compute, Recipe
from pipeline.engine.job import Job
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header, Raster
from pipeline.readers import Reader
from pipeline.records import Block, Receipt, RunFolder
from pipeline.scheduling import RunSpec, Stage, execute

__all__ = ["Blank"]

READY = "ready"  # what an actor says once it has loaded the model
BLOCK_S = 0.5  # that a stub takes for a block
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


def spec_of(blocks: int, actors: int, runner: str, folder: RunFolder) -> RunSpec:
    """A run of so many blocks that do nothing."""
    image = Image(0, "blank", "blank", Header((SIDE, blocks * SIDE), 1, "uint8"), {"name": "tests.benchmarks.scheduler"})
    boxes = [Box(0, col * SIDE, SIDE, (col + 1) * SIDE) for col in range(blocks)]
    stage = Stage("count", [Block("count", image, 0, 0, col, box, "key") for col, box in enumerate(boxes)])
    one = {"name": "blank", "shape": [SIDE, blocks * SIDE], "planes": 1, "truth": None, "count_key": ""}
    plan = {"classes": CLASSES, "metrics": [], "model": {}, "images": [one], "rejected": []}
    job = Job(folder.storage, Recipe(core=SIDE, block=SIDE), classes=CLASSES)
    return RunSpec(folder, job, {"blank": [stage]}, plan, runner, Compute(actors=actors))


def seconds_of(blocks: int, actors: int, runner: str) -> float:
    """Wall seconds of such a run, start-up included."""
    with tempfile.TemporaryDirectory() as text:
        start = time.perf_counter()
        execute(spec_of(blocks, actors, runner, RunFolder(Path(text))))
        return time.perf_counter() - start


class StubRay:
    """What the pool needs of Ray, with actors that are entries of a heap. Ray's own cost for each message is left out."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Stub]] = []
        self._ready: dict[Stub, int] = {}
        self._order = itertools.count()

    def due(self, stub: Stub, at: float) -> None:
        """Let an actor have one more message at a time of the monotonic clock."""
        heapq.heappush(self._due, (at, next(self._order), stub))

    def wait(self, streams: Sequence[Any], *, num_returns: int, timeout: float, **_: Any) -> tuple[list[Any], list[Any]]:
        """Return the actors that have a message."""
        end = time.monotonic() + timeout
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                stub = heapq.heappop(self._due)[2]
                self._ready[stub] = self._ready.get(stub, 0) + 1
            if self._ready or now >= end:
                return list(self._ready)[:num_returns], []
            time.sleep(max(0.0, min(end, self._due[0][0] if self._due else end) - now))

    def taken(self, stub: Stub) -> None:
        """Forget a message that was taken."""
        self._ready[stub] -= 1
        if not self._ready[stub]:
            del self._ready[stub]

    get = staticmethod(lambda message: message)
    kill = staticmethod(lambda handle, **_: None)


class Stub:
    """An actor that takes half a second for a block and does nothing in it."""

    def __init__(self, ray: StubRay, name: int) -> None:
        self.ray, self.blocks, self.busy_until = ray, deque[Block | None]([None]), time.monotonic()
        self._actor_id = name.to_bytes(4, "big")
        self.receipts = SimpleNamespace(remote=lambda: self)
        self.feed = SimpleNamespace(remote=self._feed)
        self.answer = SimpleNamespace(remote=lambda: None)
        ray.due(self, self.busy_until)

    def _feed(self, blocks: Sequence[Block]) -> None:
        self.blocks.extend(blocks)
        self.busy_until = max(self.busy_until, time.monotonic())
        for _ in blocks:
            self.busy_until += BLOCK_S
            self.ray.due(self, self.busy_until)

    def __next__(self) -> Any:
        """The next message: that it is ready, then receipts."""
        self.ray.taken(self)
        block = self.blocks.popleft()
        if block is None:
            return READY
        return Receipt(block.phase, block.image.name, block.id, block.key, attempts=1, seconds={"compute": BLOCK_S}), ()


@contextmanager
def stub_actors(number: int) -> Iterator[None]:
    """Let the runner ``ray`` work with so many stubs instead of Ray."""
    from pipeline.scheduling.runners import _pool
    from pipeline.scheduling.runners._cluster import Cluster
    from pipeline.scheduling.runners._watch import View

    ray, names = StubRay(), itertools.count()

    def start(*_: Any, **__: Any) -> Stub:
        return Stub(ray, next(names))

    nodes = {f"{node:056x}": {"CPU": 8.0} for node in range(-(-number // 8))}
    view = View(nodes, free=nodes)
    watch = SimpleNamespace(view=view, gone="", raise_if_gone=lambda: None)

    @contextmanager
    def join(compute: Compute, recipe: Recipe, *_: Any, **__: Any) -> Iterator[Any]:
        cluster = Cluster(compute, recipe, watch)  # type: ignore[arg-type]
        with patch.object(cluster, "start", start):
            yield cluster

    with patch.object(_pool, "ray", ray), patch.object(_pool, "join", join):
        yield


def measure_stubs(blocks: int, actors: int) -> dict[str, float]:
    """Run on stubs; return blocks a second, cores that the driver used, and bytes of the ledger a block and of the process."""
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as text, stub_actors(actors):
        spec = spec_of(blocks, actors, "ray", RunFolder(Path(text)))
        before, start, cpu = process.memory_info().rss, time.perf_counter(), time.process_time()
        execute(spec)
        wall, used = time.perf_counter() - start, time.process_time() - cpu
        ledger = sum(file.stat().st_size for file in Path(text, "ledger").glob("*.jsonl"))
    grown = process.memory_info().rss - before
    return {"blocks a second": blocks / wall, "cores": used / wall, "ledger bytes a block": ledger / blocks, "MiB more": grown / 2**20}


def main() -> None:
    """Print blocks a second, start-up left out by taking the difference of a long and a short run; or what stubs tell."""
    is_stubs = "--stubs" in sys.argv
    given = [int(text) for text in sys.argv[1:] if text != "--stubs"]
    blocks, actors = (*given, *((100_000, 1000) if is_stubs else (20_000, 2))[len(given) :])
    if is_stubs:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        print(", ".join(f"{value:.2f} {name}" for name, value in measure_stubs(blocks, actors).items()))
        return
    few = blocks // 10
    for runner in ("serial", "ray"):
        short, long = seconds_of(few, actors, runner), seconds_of(blocks, actors, runner)
        rate = (blocks - few) / (long - short)
        print(f"{runner:6}: {rate:6.0f} blocks a second; start-up {short - few / rate:.1f} s", flush=True)


if __name__ == "__main__":
    main()
