"""The loop that feeds actors: who is fed what, what a death costs, and when it gives up. No Ray is started."""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace

import pytest

from pipeline.errors import GigasegError, StoreError
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Block, Receipt
from pipeline.scheduling.runners import LEASE_BLOCKS
from tests.spec.pool_scene import _pool, make_pool


@pytest.fixture
def made(monkeypatch):
    """A pool and its run: ``made(count, **compute)``."""
    return partial(make_pool, monkeypatch)


def test_a_block_that_takes_machines_down_is_charged_in_the_end(made):
    """A machine that goes away charges no block, but for one that was in hand alone each time: the third loss is its own."""
    pool, run = made(attempts=1)

    def lose(taken, alone):
        actor = run.actor(taken, alone=alone)
        pool.actors = [actor]
        pool._died(actor, "its machine is gone", node_lost=True)

    for _ in range(2):
        lose(run.queue.lease(10**9, 2), alone=False)
        assert run.queue.num_ready == 2
        assert not run.queue.has_suspects
    lose(run.queue.lease(10**9, 1), alone=False)
    assert run.queue.num_ready == 1
    lose([run.queue.suspect()], alone=True)
    assert [(receipt.block, receipt.attempts) for receipt in run.committed] == [("a:0.0.0", 1)]
    assert run.queue.num_ready == 1


def test_what_an_actor_held_runs_again_alone(made):
    """Any of its blocks may have killed it: none is charged, and each goes to an actor of its own."""
    pool, run = made(4, attempts=1)
    dead, other = run.actor(run.queue.lease(10**9, 2)), run.actor()
    pool.actors = [dead, other]
    pool._died(dead, "its process died", node_lost=False)
    assert (run.committed, pool.actors, dead.handle.killed) == ([], [other], 1)
    assert "actor 0 lost with 2 blocks: its process died" in run.log
    for expected in ("a:0.0.0", "a:0.0.1"):
        pool._feed_all()
        assert other.alone
        assert [[block.id for block in blocks] for blocks in other.handle.fed[-1:]] == [[expected]]
        pool._feed_all()
        assert len(other.held) == 1, "while it runs a suspect it is given nothing else"
        pool._take(other, (Receipt("predict", "a", expected), ()))
        assert not other.alone
    pool._feed_all()
    assert {block.id for block in other.held.values()} <= {"a:0.0.2", "a:0.0.3"}


def test_a_block_that_dies_alone_is_charged(made):
    """It is tried alone as often as the YAML says, then quarantined with the cause."""
    pool, run = made(1, attempts=3)
    run.queue.give_back(run.queue.lease(10**9, 1), alone=True)
    for attempt in range(3):
        assert run.committed == []
        actor = run.actor([block := run.queue.suspect()], alone=True)
        assert block.attempt == attempt
        pool.actors = [actor]
        pool._died(actor, "its process died", node_lost=False)
    assert [(receipt.block, receipt.cause, receipt.attempts) for receipt in run.committed] == [("a:0.0.0", "its process died", 3)]


def test_a_suspect_waits_for_an_actor_with_empty_hands(made):
    """The last actor is fed no more until it is free; the others go on."""
    pool, run = made(9)
    (suspect,) = run.queue.lease(10**9, 1)
    run.queue.give_back([suspect], alone=True)
    busy, last = run.actor(run.queue.lease(10**9, 1)), run.actor(run.queue.lease(10**9, 1))
    pool.actors = [busy, last]
    pool._feed_all()
    assert busy.handle.fed
    assert last.handle.fed == []
    last.held.clear()
    pool._feed_all()
    assert last.handle.fed == [[suspect]]


def test_blocks_are_shared_out(made):
    """No actor takes all that is ready, or more than a lease holds: the others have work to the end, also those that start later."""
    pool, run = made(8)
    pool.actors = [run.actor(), run.actor()]
    pool._feed_all()
    assert [len(actor.held) for actor in pool.actors] == [2, 2]
    pool, run = made(32)
    pool.actors = [run.actor(), run.actor(ready=False, has_room=True)]
    for _ in range(9):
        pool._feed_all()
    assert [len(actor.held) for actor in pool.actors] == [8, 0]
    pool, run = made(10 * LEASE_BLOCKS)
    pool.actors = [run.actor()]
    pool._feed_all()
    assert len(pool.actors[0].held) == LEASE_BLOCKS


def test_the_last_blocks_are_dealt_one_by_one(made):
    """Each actor gets one before any gets a second, which it reads while it computes the first."""
    pool, run = made(3)
    pool.actors = [run.actor(), run.actor()]
    held = []
    for _ in range(2):
        pool._feed_all()
        held.append([len(actor.held) for actor in pool.actors])
    assert held == [[1, 1], [2, 1]]


def test_no_more_actors_than_blocks_are_started(made):
    """Nor more than the cluster has room for; those that are not ready are fed nothing."""
    for count, expected in ((1, 1), (9, 3)):
        pool, _ = made(count, num_actors=3)
        pool._start_missing()
        pool._start_missing()
        assert len(pool.actors) == expected
        pool._feed_all()
        assert not any(actor.held for actor in pool.actors)


def test_actors_that_die_at_the_start_end_the_run(made):
    """Three in a row with nothing in hand, and none that works: it is not a block that kills them."""
    pool, run = made()

    def die_at_the_start():
        pool.actors = [actor := run.actor(ready=False)]
        pool._died(actor, "its process died", node_lost=False)

    die_at_the_start()
    die_at_the_start()
    with pytest.raises(GigasegError, match="3 actors in a row died before they did a block; the last one because its process died"):
        die_at_the_start()
    assert len(run.log) == 3
    assert run.queue.num_ready == 2


def test_a_run_goes_on_with_the_actors_that_live(made):
    """Where one actor works, others that die at the start end nothing, and no more are started; a receipt clears the count."""
    pool, run = made(9, num_actors=3)
    works = run.actor(run.queue.lease(10**9, 1))
    for _ in range(5):
        pool.actors = [works, actor := run.actor(ready=False)]
        pool._died(actor, "its process died", node_lost=False)
    pool._start_missing()
    assert pool.actors == [works]
    pool._take(works, (Receipt("predict", "a", "a:0.0.0"), ()))
    pool._start_missing()
    assert len(pool.actors) == 3


def test_an_actor_past_its_deadline_is_killed(made):
    """The deadline counts from its last message, and only while it holds a block or loads its model."""
    pool, run = made(3, deadline=5.0, attempts=1)
    late, idle, fresh = run.actor(run.queue.lease(10**9, 1), alone=True), run.actor(), run.actor(run.queue.lease(10**9, 1))
    late.since = idle.since = time.monotonic() - 6
    pool.actors = [late, idle, fresh]
    pool._kill_late_actors()
    assert pool.actors == [idle, fresh]
    assert [receipt.cause for receipt in run.committed] == ["it ran past its deadline of 5 s"]


def test_finishing_an_image_has_time_that_grows_with_it():
    """A deadline is a block's: an image of a hundred gigapixels is given hours to be finished, its blocks no more than they had."""
    image = Image(0, "a", "a.tif", Header((400_000, 250_000), 1, "uint8"), {})
    finish, predict = (
        Block(phase, image, 0, 0, 0, box) for phase, box in (("finish", Box(0, 0, 400_000, 250_000)), ("predict", Box(0, 0, 64, 64)))
    )
    actor = _pool._ActorHandle({("predict", predict.id): predict})
    assert actor.limit(60) == _pool.START_S
    actor.ready = True
    assert actor.limit(60) == 60
    actor.held["finish", finish.id] = finish
    assert 60 + 5 * 3600 < actor.limit(60) < 60 + 24 * 3600


def test_a_run_that_stops_lets_actors_finish(made, monkeypatch):
    """Those that hold blocks are asked once to finish them, the others are killed; after two minutes it waits no longer."""
    pool, run = made()
    busy, idle = run.actor(run.queue.lease(10**9, 1)), run.actor()
    pool.actors = [busy, idle]
    assert not pool._stopped()
    assert not pool._stopped()
    assert (busy.handle.drained, idle.handle.drained, idle.handle.killed, pool.actors) == (1, 0, 1, [busy])
    now = time.monotonic()
    monkeypatch.setattr(_pool.time, "monotonic", lambda: now + _pool.STOP_S + 1)
    assert pool._stopped()
    pool.kill_all()
    assert (busy.handle.killed, pool.actors) == (1, [])


@pytest.mark.parametrize("ours", [True, False])
def test_an_error_that_leaves_an_actor_is_no_blocks(made, ours):
    """Our own error, such as a full disk, ends the run; any other fails the actor, and its blocks run again."""
    pool, run = made()
    actor = run.actor(run.queue.lease(10**9, 2))
    pool.actors = [actor]
    error = SimpleNamespace(cause=StoreError("disk full") if ours else ValueError("odd"))
    if ours:
        with pytest.raises(StoreError, match="disk full"):
            pool._raised(actor, error)
    else:
        pool._raised(actor, error)
        assert pool.actors == []
        assert "its actor failed: ValueError: odd" in run.log[0]
        assert run.queue.has_suspects


def test_the_telling_line_of_rays_message_is_kept():
    """Of a dozen lines with advice, the log has the one that says how the process ended."""
    message = """The actor died unexpectedly before finishing this task.
        class_name: Actor
        Worker exit type: SYSTEM_ERROR Worker exit detail: connection error code 2. Some common causes include: (1) the OOM killer
        pid: 7"""
    assert _pool._brief(RuntimeError(message)) == "Worker exit type: SYSTEM_ERROR Worker exit detail: connection error code 2."
    assert _pool._brief(RuntimeError("odd")) == "odd"
    assert _pool._brief(RuntimeError("")) == "no message"
