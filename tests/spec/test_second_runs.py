"""Blocks that run a second time: when they are offered to others, and what the second result is worth."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Block, Receipt
from pipeline.scheduling import BlockQueue, Stage
from pipeline.scheduling.runners.ray import authenticate

authenticate(None)  # Ray reads how when it is imported, once for this process
module = pytest.importorskip("pipeline.scheduling.runners._second_runs")


@dataclass
class Holder(module.Held):
    """An actor in name only."""

    number: int = 0
    ready: bool = True
    alone: bool = False


class Scene:
    """A queue of blocks of one image, and a clock."""

    def __init__(self, monkeypatch, phase="predict"):
        self.now, self.log, self.calls, self.answered = 100.0, [], 0, False
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        image = Image(0, "a", "a.tif", Header((64, 640), 1, "uint8"), {})
        self.blocks = [Block(phase, image, 0, 0, col, Box(0, 64 * col, 64, 64 * col + 64)) for col in range(10)]
        self.queue = BlockQueue({"a": [Stage(phase, self.blocks)]})
        self.queue.begin()
        self.runs = module.SecondRuns(self.queue, self.log.append, self.ask, lambda call: self.answered)

    def ask(self, actor):
        self.calls += 1
        return "call"

    def actor(self, number):
        """An actor that takes so many blocks now."""
        return Holder({module.key_of(block): block for block in self.queue.lease(10**9, number)}, since=self.now)

    def offered(self, actors, *, wait):
        """The blocks that are in the queue after so many seconds."""
        self.now += wait
        self.runs.offer(actors)
        return self.queue.num_ready

    def measure(self, seconds):
        for block in self.blocks[:5]:
            self.runs.measure(block, Receipt(block.phase, "a", block.id, seconds={"compute": seconds}))


@pytest.fixture
def scene(monkeypatch):
    return Scene(monkeypatch)


def test_a_silent_actor_is_asked_and_its_blocks_go_to_others(scene):
    """It is asked after five seconds; one that answers keeps its blocks, one that does not is late five seconds later."""
    busy, idle = scene.actor(10), scene.actor(0)
    assert (scene.offered([busy, idle], wait=4), scene.calls) == (0, 0)
    assert (scene.offered([busy, idle], wait=2), scene.calls) == (0, 1)
    scene.answered = True
    assert scene.offered([busy, idle], wait=9) == 0
    scene.answered = False
    assert (scene.offered([busy, idle], wait=2), scene.calls) == (0, 2)
    assert scene.offered([busy, idle], wait=4) == 0
    assert scene.offered([busy, idle], wait=2) == 10
    assert busy.is_late
    assert len(busy.held) == 10, "the first result counts, also if it comes from here"
    assert "actor 0 has not answered for 23 s: 10 of its blocks run a second time" in scene.log[0]


def test_nothing_runs_twice_while_all_have_work(scene):
    """Nor while the queue has blocks: those come first."""
    silent, busy, idle = scene.actor(4), scene.actor(4), scene.actor(0)
    assert scene.offered([silent, busy, idle], wait=60) == 2
    scene.queue.lease(10**9, 2)
    assert scene.offered([silent, busy], wait=60) == 0
    assert scene.calls == 0


def test_a_block_that_takes_three_times_the_median_is_slow(scene):
    """But never one of less than ten seconds, nor before there is a median."""
    slow, idle = scene.actor(10), scene.actor(0)
    scene.answered = True
    assert scene.offered([slow, idle], wait=100) == 0
    scene.measure(seconds=8.0)
    slow.since = scene.now
    assert scene.offered([slow, idle], wait=23) == 0
    assert scene.offered([slow, idle], wait=2) == 10
    assert "has run predict a:0.0.0 for 25 s" in scene.log[0]


def test_work_on_a_whole_image_is_not_run_twice(monkeypatch):
    """It takes long by nature, and its exports are many files."""
    scene = Scene(monkeypatch, phase="finish")
    silent, idle = scene.actor(10), scene.actor(0)
    for _ in range(4):
        assert scene.offered([silent, idle], wait=20) == 0


def test_what_was_done_in_the_meantime_is_not_leased(scene):
    """An offered block whose first actor was faster leaves the queue; of the others, each belongs to someone."""
    late, idle = scene.actor(10), scene.actor(0)
    for _ in range(2):
        scene.offered([late, idle], wait=6)
    first, second = scene.blocks[:2]
    assert not scene.runs.is_open(first, []), "it is in the queue"
    scene.queue.settle(Receipt("predict", "a", first.id))
    assert [block.id for block in scene.runs.lease(10**9, 2)] == [second.id]
    assert not scene.runs.is_open(first, []), "it is done"
    assert scene.runs.is_open(second, [])
    assert not scene.runs.is_open(second, [late])


def test_a_suspect_block_that_was_done_is_passed_over(scene):
    """Where a silent actor runs one alone, the next actor runs it alone, unless it was done first."""
    late, idle = scene.actor(2), scene.actor(0)
    scene.queue.lease(10**9, 8)
    late.alone = True
    for _ in range(2):
        scene.offered([late, idle], wait=6)
    scene.queue.settle(Receipt("predict", "a", scene.blocks[0].id))
    assert scene.runs.suspect().id == scene.blocks[1].id
    assert scene.runs.suspect() is None
