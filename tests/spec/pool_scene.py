"""A pool of actors without Ray: a run of one image, a cluster in name only, and all that the pool does to them."""

from __future__ import annotations

from types import SimpleNamespace

from pipeline.config import Compute, Recipe
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Block
from pipeline.scheduling import BlockQueue, Stage
from pipeline.scheduling.runners import Work
from pipeline.scheduling.runners.ray import authenticate

authenticate(None)  # Ray reads how when it is imported, once for this process
from pipeline.scheduling.runners import _pool  # noqa: E402 - imports Ray
from pipeline.scheduling.runners._watch import View  # noqa: E402

SIDE = 64


class Remote:
    """What Ray gives for an actor: it remembers what it was told."""

    def __init__(self):
        self.fed, self.drained, self.killed, self.asked = [], 0, 0, 0
        self.feed = SimpleNamespace(remote=self.fed.append)
        self.drain = SimpleNamespace(remote=self._drain)
        self.receipts = SimpleNamespace(remote=object)
        self.answer = SimpleNamespace(remote=object)
        self._actor_id = b"id"

    def _drain(self):
        self.drained += 1


class Run:
    """A run of one image, and all that its pool did to it."""

    def __init__(self, count=2, **compute):
        image = Image(0, "a", "a.tif", Header((SIDE, SIDE * count), 1, "uint8"), {})
        blocks = [Block("predict", image, 0, 0, col, Box(0, SIDE * col, SIDE, SIDE * col + SIDE)) for col in range(count)]
        self.queue = BlockQueue({"a": [Stage("predict", blocks)]})
        self.queue.begin()
        self.committed, self.log = [], []
        job = SimpleNamespace(recipe=Recipe(block=SIDE), model=None)
        self.work = Work(job, self.queue, self.book, lambda: False, Compute(**compute), lambda line, **_: self.log.append(line))
        self.numbers = iter(range(99))

    def book(self, block, receipt):
        self.committed.append(receipt)
        self.queue.settle(receipt)

    def actor(self, blocks=(), *, ready=True, **fields):
        handle = Remote()
        held = {(block.phase, block.id): block for block in blocks}
        fields = {"node": "node", **fields}
        return _pool._ActorHandle(held, number=next(self.numbers), handle=handle, receipts=object(), ready=ready, **fields)


class FakeCluster:
    """A cluster of nodes that exist in name only; ``others`` are the nodes besides ``node``."""

    spreads = False

    def __init__(self, num, others=()):
        self.num, self.others, self.started = num, list(others), []
        self.watch = SimpleNamespace(view=View(), raise_if_gone=lambda: None, gone="")

    def num_actors(self, avoided):
        return self.num

    def usable(self, avoided):
        return [node for node in ("node", *self.others) if node not in avoided]

    def needs_of(self, number, avoided):
        return {"CPU": 1}

    def is_full(self, avoided):
        return False

    def awaited(self):
        return "1 GPU: 4 of 4 are used"

    def node_of(self, actor):
        return "node"

    def is_lost(self, node, error):
        return False

    def start(self, actor, *args, **options):
        self.started.append(options)
        return Remote()


def make_pool(monkeypatch, count=2, num_actors=2, others=(), **compute):
    """A pool and its run of so many blocks; ``others`` are nodes besides the one called ``node``."""

    def kill(handle, *, no_restart):
        assert no_restart
        handle.killed += 1

    monkeypatch.setattr(_pool.ray, "kill", kill)
    run = Run(count, **compute)
    return _pool._Pool(run.work, FakeCluster(num_actors, others)), run
