"""What runs inside an actor: it looks around, says when it is ready, does what it is fed in order, and ends when it is drained."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from pipeline.config import Recipe
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Block, Receipt
from pipeline.scheduling.runners.ray import authenticate

IMAGE = Image(0, "a", "/gone/a.tif", Header((1, 6), 1, "uint8"), {})
BLOCKS = [Block("predict", IMAGE, 0, 0, at, Box(0, at, 1, at + 1)) for at in range(6)]


@pytest.fixture
def actor(monkeypatch):
    """An actor whose blocks all succeed but the last one; ``events`` tell of its model, ``problems`` of its node."""
    authenticate(None)  # Ray reads how when it is imported, once for this process
    import ray

    from pipeline.scheduling.runners import _actor as module

    events, problems = [], []

    @contextmanager
    def open_resources(job):
        events.append(f"opened {job.name}")
        try:
            yield "resources"
        finally:
            events.append("closed")

    def process(following, resources, *threads):
        assert (resources, threads) == ("resources", Recipe().io_threads)
        while (block := following()) is not None:
            yield Receipt(block.phase, "a", block.id, cause="" if block is not BLOCKS[-1] else "cannot be opened")

    monkeypatch.setattr(module, "open_resources", open_resources)
    monkeypatch.setattr(module, "process", process)
    monkeypatch.setattr(module, "check_node", lambda node, job, expected: SimpleNamespace(node=node, problems=problems))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node 7"))
    made = module.Actor(SimpleNamespace(name="job", recipe=Recipe()), "expected")
    made.events, made.problems = events, problems
    return made


def ready(actor):
    """The stream of an actor that is ready."""
    receipts = actor.receipts()
    assert next(receipts).node == "node 7"
    assert next(receipts) == "ready"
    return receipts


def done(receipts, number):
    """The next blocks that were done, by id."""
    return [next(receipts)[0].block for _ in range(number)]


def test_it_reports_on_its_node_before_the_model_is_open(actor):
    """Nothing is loaded before the node was looked at; it is ready once the model is open."""
    receipts = actor.receipts()
    assert actor.events == []
    assert next(receipts).node == "node 7"
    assert actor.events == []
    assert next(receipts) == "ready"
    assert actor.events == ["opened job"]
    receipts.close()
    assert actor.events == ["opened job", "closed"]


def test_on_a_node_with_problems_it_loads_nothing(actor):
    """Its stream ends with the report."""
    actor.problems.append("/data is not there")
    assert [message.problems for message in actor.receipts()] == [["/data is not there"]]
    assert actor.events == []


def test_blocks_are_done_in_the_order_of_the_feed(actor):
    """However many at a time: one receipt each, also of what is fed while it works."""
    receipts = ready(actor)
    actor.feed(BLOCKS[:2])
    assert done(receipts, 2) == [block.id for block in BLOCKS[:2]]
    actor.feed(BLOCKS[2:4])
    actor.feed(BLOCKS[4:5])
    assert done(receipts, 3) == [block.id for block in BLOCKS[2:5]]


def test_a_failed_block_comes_with_the_files_that_are_not_there(actor):
    """So that the driver can tell a node that does not see a file from a file that is damaged."""
    receipts = ready(actor)
    actor.feed([BLOCKS[0], BLOCKS[-1]])
    assert next(receipts)[1] == ()
    assert next(receipts)[1] == ("/gone/a.tif",)


def test_it_waits_for_blocks(actor):
    """Where nothing is fed it waits, and does not end."""
    receipts = ready(actor)
    timer = threading.Timer(0.05, actor.feed, [BLOCKS[:1]])
    timer.start()
    assert done(receipts, 1) == [BLOCKS[0].id]
    timer.join()


def test_a_drained_actor_begins_no_other_block(actor):
    """Blocks that it was fed and has not begun stay undone, its stream ends, and the model is closed."""
    receipts = ready(actor)
    actor.feed(BLOCKS)
    next(receipts)
    actor.drain()
    assert list(receipts) == []
    assert actor.events == ["opened job", "closed"]


def test_an_idle_actor_can_be_drained(actor):
    """One that waits for blocks ends at once."""
    receipts = ready(actor)
    threading.Timer(0.05, actor.drain).start()
    assert list(receipts) == []
