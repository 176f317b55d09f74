"""What runs inside an actor: it says when it is ready, does what it is fed in order, and ends when it is drained."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from pipeline.config import Recipe
from pipeline.scheduling.runners.ray import authenticate

BLOCKS = [f"block {at}" for at in range(6)]


@pytest.fixture
def actor(monkeypatch):
    """An actor that answers each block with its name; ``opened`` and ``closed`` tell of its model."""
    authenticate(None)  # Ray reads how when it is imported, once for this process
    import ray

    from pipeline.scheduling.runners import _actor as module

    events = []

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
            yield f"receipt of {block}"

    monkeypatch.setattr(module, "open_resources", open_resources)
    monkeypatch.setattr(module, "process", process)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node 7"))
    made = module.Actor(SimpleNamespace(name="job", recipe=Recipe()))
    made.events = events
    return made


def test_it_names_its_node_once_the_model_is_open(actor):
    """Nothing is loaded before the stream is asked for; its first message is the node, and comes after the model was opened."""
    receipts = actor.receipts()
    assert actor.events == []
    assert next(receipts) == "node 7"
    assert actor.events == ["opened job"]
    receipts.close()
    assert actor.events == ["opened job", "closed"]


def test_blocks_are_done_in_the_order_of_the_feed(actor):
    """However many at a time: one receipt each, also of what is fed while it works."""
    receipts = actor.receipts()
    next(receipts)
    actor.feed(BLOCKS[:2])
    assert [next(receipts) for _ in range(2)] == [f"receipt of {block}" for block in BLOCKS[:2]]
    actor.feed(BLOCKS[2:5])
    actor.feed(BLOCKS[5:])
    assert [next(receipts) for _ in range(4)] == [f"receipt of {block}" for block in BLOCKS[2:]]


def test_it_waits_for_blocks(actor):
    """Where nothing is fed it waits, and does not end."""
    receipts = actor.receipts()
    next(receipts)
    timer = threading.Timer(0.05, actor.feed, [BLOCKS[:1]])
    timer.start()
    assert next(receipts) == "receipt of block 0"
    timer.join()


def test_a_drained_actor_begins_no_other_block(actor):
    """Blocks that it was fed and has not begun stay undone, its stream ends, and the model is closed."""
    receipts = actor.receipts()
    next(receipts)
    actor.feed(BLOCKS)
    next(receipts)
    actor.drain()
    assert list(receipts) == []
    assert actor.events == ["opened job", "closed"]


def test_an_idle_actor_can_be_drained(actor):
    """One that waits for blocks ends at once."""
    receipts = actor.receipts()
    next(receipts)
    threading.Timer(0.05, actor.drain).start()
    assert list(receipts) == []
