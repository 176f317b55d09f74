"""The loop that feeds actors, as nodes come and go: no files, no room, deaths, a drain, silence. No Ray is started."""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace

import pytest

from pipeline.errors import InputError, StoreError
from pipeline.records import Receipt
from pipeline.scheduling.runners._node_check import NodeReport
from tests.spec.pool_scene import View, _pool, make_pool


@pytest.fixture
def made(monkeypatch):
    """A pool and its run: ``made(count, **compute)``."""
    return partial(make_pool, monkeypatch)


def test_a_node_without_the_files_gets_no_block(made):
    """Its actor reports, and is ended; the next one is started elsewhere. Where no node is left, the run ends with every problem."""
    pool, run = made(others=["other"])
    pool._start_missing()
    blind = pool.actors[0]
    pool._take(blind, NodeReport("node", "host", "Xeon", ("/data is not there",)))
    assert (blind.handle.killed, blind in pool.actors, list(pool.nodes.avoided)) == (1, False, ["node"])
    pool._start_missing()
    assert pool.cluster.started[-1]["avoided"] == ["node"]
    second, waits = pool.actors
    pool._take(second, NodeReport("other", "second", "Xeon", ("/data is not there",)))
    assert pool.actors == [waits], "it has no place, and would get one on these nodes alone"
    with pytest.raises(InputError, match=r"node host \(node\): /data is not there\nnode second \(other\): /data is not there"):
        pool._start_missing()
    assert (run.committed, run.queue.num_ready) == ([], 2)


def test_a_file_that_is_missing_on_one_node_is_tried_on_another(made):
    """The first node is left, its other blocks go back; a second node without the file shows that it is the file's fault."""
    pool, run = made(3, others=["other"])
    first, second = run.actor(run.queue.lease(10**9, 2)), run.actor(run.queue.lease(10**9, 1), node="other")
    pool.actors = [first, second]
    failed = Receipt("predict", "a", "a:0.0.0", attempts=1, cause="a.tif: cannot be opened")
    pool._take(first, (failed, ["/data/a.tif"]))
    assert (run.committed, run.queue.num_ready, first.handle.drained, list(pool.nodes.avoided)) == ([], 1, 1, ["node"])
    pool._feed_all()
    assert first.handle.fed == [], "it begins no other block"
    pool._let_go(first)
    assert run.queue.num_ready + len(second.held) == 3
    second.held |= {(block.phase, block.id): block for block in run.queue.lease(10**9, 3)}
    pool._take(second, (failed, ["/data/a.tif"]))
    assert [receipt.block for receipt in run.committed] == ["a:0.0.0"]
    assert not pool.nodes.avoided


def test_a_node_whose_actors_die_is_avoided_while_others_work(made):
    """Three deaths without a receipt; where no other node works, they are counted as before."""
    pool, run = made(9, others=["other"])
    works = run.actor(run.queue.lease(10**9, 1), node="other")
    for _ in range(3):
        pool.actors = [works, actor := run.actor(ready=False, node="")]
        pool._died(actor, "its process died", node_lost=False)
    assert list(pool.nodes.avoided) == ["node"]
    assert pool.failed_starts == 2
    pool._start_missing()
    assert pool.cluster.started[-1]["avoided"] == ["node"]


def test_actors_on_a_node_that_will_go_away_are_drained(made):
    """Blocks in flight are finished, what they have not begun goes to others, and no death is counted."""
    pool, run = made(4)
    leaving, staying = run.actor(run.queue.lease(10**9, 2)), run.actor(node="other")
    pool.actors = [leaving, staying]
    pool.cluster.watch.view = View(draining=frozenset(["node"]))
    for _ in range(2):
        pool._leave_draining_nodes()
    assert (leaving.handle.drained, staying.handle.drained) == (1, 0)
    pool._take(leaving, (Receipt("predict", "a", "a:0.0.0"), ()))
    pool._let_go(leaving)
    assert (leaving.handle.killed, pool.actors, run.queue.num_ready) == (1, [staying], 3)
    assert [receipt.block for receipt in run.committed] == ["a:0.0.0"]


def test_actors_without_a_place_wait_without_a_deadline(made, monkeypatch, capsys):
    """What they wait for is told once a minute while nobody works, once where somebody does; their time to start has not begun."""
    pool, run = made()
    now = time.monotonic()
    monkeypatch.setattr(_pool.time, "monotonic", lambda: now)
    waiting = run.actor(ready=False, node="", id="7")
    pool.actors = [waiting]
    pool.cluster.watch.view = View(unplaced=frozenset("7"))
    for seconds in (5, 10, 30, 30, 30, 3600):
        now += seconds
        pool._look_at_unplaced()
        pool._kill_late_actors()
    assert pool.actors == [waiting]
    assert capsys.readouterr().err == "waiting for 1 GPU: 4 of 4 are used\n" * 3
    pool.actors.append(run.actor())
    for _ in range(3):
        now += 100
        pool._look_at_unplaced()
    assert capsys.readouterr().err == "waiting for 1 GPU: 4 of 4 are used; going on with 1 actor until then\n"


def test_actors_that_are_only_slow_to_start_are_not_told(made, monkeypatch, capsys):
    """There was room for them: what Ray does is to start their processes."""
    pool, _ = made()
    monkeypatch.setattr(pool.cluster.watch, "view", View({"node": {"CPU": 1}}, free={"node": {"CPU": 1}}))
    pool._start_missing()
    assert [actor.has_room for actor in pool.actors] == [True, False]
    pool.cluster.watch.view = View(unplaced=frozenset([pool.actors[0].id]))
    slow = pool.actors.pop(0)
    pool.actors = [slow]
    slow.begun -= 100
    pool._look_at_unplaced()
    assert capsys.readouterr().err == ""
    pool._take(slow, NodeReport("node", "host", "Xeon"))
    pool._died(slow, "its process died", node_lost=False)
    pool.cluster.watch.view = View({"node": {"CPU": 1}}, free={"node": {}})
    pool._start_missing()
    assert [actor.has_room for actor in pool.actors] == [True, False], "the place of the dead one is free soon"


def test_actors_that_wait_for_more_of_a_gpu_are_content_with_less(made, monkeypatch):
    """They were asked for with more than their part, so that none shares a GPU; others use it, so they are started again."""
    pool, run = made()
    pool.cluster.spreads = True
    placed, waiting = run.actor(), run.actor(ready=False, node="", id="7")
    waiting.begun -= 11
    pool.actors = [placed, waiting]
    pool.cluster.watch.view = View(unplaced=frozenset("7"))
    pool._look_at_unplaced()
    assert (pool.actors, waiting.handle.killed, pool.cluster.spreads) == ([placed], 1, False)


def test_the_first_result_of_a_block_that_runs_twice_counts(made):
    """One row in the ledger, whoever is first; a failure counts only where nobody else has the block, and a death gives back nothing."""
    pool, run = made(3, attempts=1)
    slow = run.actor(run.queue.lease(10**9, 3))
    fast = run.actor(slow.held.values())
    pool.actors = [slow, fast]
    pool._take(fast, (Receipt("predict", "a", "a:0.0.0"), ()))
    pool._take(slow, (Receipt("predict", "a", "a:0.0.0"), ()))
    pool._take(slow, (Receipt("predict", "a", "a:0.0.1", cause="its disk is gone"), ()))
    assert [receipt.block for receipt in run.committed] == ["a:0.0.0"]
    pool._died(slow, "its process died", node_lost=False)
    assert (run.queue.num_ready, run.queue.has_suspects) == (0, False)
    pool._take(fast, (Receipt("predict", "a", "a:0.0.1"), ()))
    pool._take(fast, (Receipt("predict", "a", "a:0.0.2"), ()))
    assert [(receipt.block, receipt.ok) for receipt in run.committed] == [(f"a:0.0.{col}", True) for col in range(3)]
    assert run.queue.is_finished


def test_an_actor_that_was_late_is_not_given_its_own_blocks(made):
    """Once it sends a message it is fed again, but not with blocks that it holds."""
    pool, run = made(2)
    late = run.actor(run.queue.lease(10**9, 2), is_late=True)
    pool.actors = [late]
    pool.second_runs._give_back(late, list(late.held.values()), "is slow")
    pool._feed_all()
    assert late.handle.fed == []
    pool._take(late, (Receipt("predict", "a", "a:0.0.0"), ()))
    while run.queue.num_ready:
        pool._feed_all()
    assert late.handle.fed == []
    assert len(late.held) == 1


def test_a_node_that_loses_the_output_is_left_to_others(made):
    """What its actors hold goes to others; where no other node is left, the error ends the run as one of the store."""
    pool, run = made(others=["other"])
    pool.actors = [first := run.actor(run.queue.lease(10**9, 2)), second := run.actor(node="other")]
    pool._raised(first, SimpleNamespace(cause=StoreError("/out: the folder is gone")))
    assert (pool.actors, run.queue.num_ready, list(pool.nodes.avoided)) == ([second], 2, ["node"])
    with pytest.raises(StoreError, match="the folder is gone"):
        pool._raised(second, SimpleNamespace(cause=StoreError("/out: the folder is gone")))


@pytest.mark.parametrize("ready", [False, True])
def test_a_node_that_cannot_open_the_model_is_left_to_others(made, ready):
    """While it starts, wrong input is the node's where there is another node; a model that does not fit an image ends the run."""
    pool, run = made(others=["other"])
    pool.actors = [actor := run.actor(run.queue.lease(10**9, 2) if ready else (), ready=ready)]
    error = SimpleNamespace(cause=InputError("no GPU here"))
    if ready:
        with pytest.raises(InputError, match="no GPU here"):
            pool._raised(actor, error)
    else:
        pool._raised(actor, error)
        assert pool.nodes.avoided == {"node": ("no GPU here",)}
        pool.cluster.others = []
        with pytest.raises(InputError, match="no GPU here"):
            pool._start_missing()
