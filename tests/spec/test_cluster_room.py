"""Which room a cluster has for actors: shares of GPUs, GPUs that stay idle, a run that may not wait. No Ray is started."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from pipeline.config import Compute, Recipe
from pipeline.errors import GigasegError, InputError
from pipeline.scheduling.runners.ray import authenticate

authenticate(None)  # Ray reads how when it is imported, once for this process
module = pytest.importorskip("pipeline.scheduling.runners._cluster")
from pipeline.scheduling.runners._watch import View  # noqa: E402 - imports Ray, as above

TWO = {"head": {"CPU": 2.0}, "a": {"CPU": 4.0, "GPU": 2.0}, "b": {"CPU": 4.0, "GPU": 2.0}}


def cluster(computes_on="cuda", nodes=TWO, free=None, **compute):
    """A cluster of these nodes, of which so much is free; None: all."""
    view = View(nodes, free=nodes if free is None else free)
    return module.Cluster(Compute(**compute), Recipe(device=computes_on), SimpleNamespace(view=view))


@pytest.mark.parametrize(
    ("number", "share", "expected"),
    [(1, 0.5, 1), (4, 0.5, 1), (5, 0.5, 0.5), (8, 0.5, 0.5), (9, 0.5, 0.5), (4, 0.25, 1), (8, 0.25, 0.5), (4, 1.0, 1)],
)
def test_as_few_actors_as_possible_share_a_gpu(number, share, expected):
    """Ray fills a GPU with parts before it uses the next: so each asks for as much as leaves room for all."""
    assert cluster(gpus_per_actor=share).needs_of(number)["GPU"] == expected


def test_only_gpus_that_are_free_and_not_avoided_are_shared_out():
    """Where others use the rest, an actor asks for its own part."""
    busy = cluster(gpus_per_actor=0.5, free={"a": {"CPU": 4.0, "GPU": 2.0}})
    assert [busy.needs_of(number)["GPU"] for number in (2, 3)] == [1, 0.5]
    assert busy.needs_of(2, ["a"])["GPU"] == 0.5
    busy.spreads = False
    assert busy.needs_of(2)["GPU"] == 0.5
    assert cluster("cpu").needs_of(3) == {"CPU": 1.0}


def test_actors_fill_the_cluster_or_are_as_many_as_the_yaml_says():
    """Without a node there is one, which waits; of those that the YAML asks for the rest waits for nodes to join."""
    assert cluster().num_actors() == 4
    assert cluster().num_actors(["a"]) == 2
    assert cluster(nodes={}).num_actors() == 1
    assert cluster(actors=9).num_actors() == 9
    assert cluster().usable([]) == ["a", "b"]
    assert cluster().usable(["a"]) == ["b"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"computes_on": "cpu"}, "4 GPU of the cluster stay idle: this model or backend does not use them"),
        ({"computes_on": "cpu", "device": "cpu"}, "4 GPU of the cluster stay idle: compute.device is cpu"),
        ({"actors": 3}, "1 of 4 GPU of the cluster stay idle: compute.actors is 3"),
        ({"nodes": {"a": {"CPU": 1.0, "GPU": 2.0}}}, "1 of 2 GPU of the cluster stay idle: there is room for 1 of 1 GPU, 1 CPU each"),
        ({}, ""),
        ({"gpus_per_actor": 0.5}, ""),
        ({"computes_on": "cpu", "nodes": {"a": {"CPU": 8.0}}}, ""),
    ],
)
def test_gpus_that_stay_idle_are_told(given, told, capsys):
    """With the reason, in the log and on stderr, before the first block."""
    lines = []
    cluster(**given).check(lines.append, queues=True)
    assert "\n".join(lines) == told
    assert capsys.readouterr().err.strip() == told


def test_a_run_that_may_not_wait_is_refused():
    """With what is free and what would do; one that may wait is not."""
    none, some = {"a": {"CPU": 4.0}}, {"a": {"CPU": 4.0, "GPU": 1.0}}
    cluster(free=none).check(lambda line: None, queues=True)
    cluster(free=some).check(lambda line: None, queues=False)
    with pytest.raises(
        InputError, match=r"room for 0 of 1 actor now: each needs 1 GPU, 1 CPU, and 0 of 4 GPU, 4 of 10 CPU are free\. Leave"
    ):
        cluster(free=none).check(lambda line: None, queues=False)
    with pytest.raises(InputError, match=r"room for 1 of 3 actors now.*Use compute\.actors: 1, or leave out --no-queue"):
        cluster(free=some, actors=3).check(lambda line: None, queues=False)


@pytest.mark.parametrize(
    ("nodes", "free", "expected"),
    [
        (TWO, {}, "1 GPU: 4 of 4 are used"),
        (TWO, {"a": {"GPU": 2.0}}, "1 CPU: 10 of 10 are used"),
        ({"head": {"CPU": 2.0}}, {"head": {"CPU": 2.0}}, "1 GPU: the cluster has none yet"),
        (TWO, {"a": {"GPU": 1.0}, "b": {"CPU": 1.0}}, "1 GPU, 1 CPU on one node"),
    ],
)
def test_what_is_waited_for_is_named(nodes, free, expected):
    """The resource that is short, and who has it."""
    assert cluster(nodes=nodes, free=free).awaited() == expected


def test_a_ray_of_our_own_notices_dead_nodes_in_seconds(monkeypatch):
    """By Ray's own settings it takes a minute; what the user has set stays, and a cluster that is there has settings of its own."""
    name = "RAY_health_check_timeout_ms"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv(name, raising=False)
    authenticate("head:6379")
    assert name not in os.environ
    authenticate(None)
    assert os.environ[name] == "2000"
    monkeypatch.setenv(name, "7")
    authenticate(None)
    assert os.environ[name] == "7"


def test_a_machine_too_busy_to_start_ray_is_told(monkeypatch):
    """Ray gives up after half a minute, with an exception that has no class of its own; any other error stays what it is."""

    def fail(**_):
        raise Exception(text)  # noqa: TRY002 - as Ray does

    monkeypatch.setattr(module.ray, "init", fail)
    text = "The current node timed out during startup. This could happen because"
    with pytest.raises(GigasegError, match="Ray did not start on this machine within 30 s"):
        module.start(None, 1)
    text = "something else"
    with pytest.raises(Exception, match="something else") as raised:
        module.start(None, 1)
    assert not isinstance(raised.value, GigasegError)
