"""What a run sees of its cluster: room on nodes, and a head that is gone. No Ray is started."""

from __future__ import annotations

import socket

import pytest

from pipeline.errors import GigasegError
from pipeline.scheduling.runners.ray import authenticate

authenticate(None)  # Ray reads how when it is imported, once for this process
module = pytest.importorskip("pipeline.scheduling.runners._watch")
View = module.View


def test_room_counts_whole_actors_on_each_node():
    """What is left over on two nodes makes no room for a third actor; nodes that drain or are avoided have none."""
    view = View({"a": {"CPU": 3.0}, "b": {"CPU": 3.0, "GPU": 1.0}}, free={"a": {"CPU": 1.0}, "b": {"CPU": 3.0}, "dead": {"CPU": 9.0}})
    assert view.room({"CPU": 2.0}) == 2
    assert view.room({"CPU": 1.0, "GPU": 0.25}) == 3
    assert view.room({"CPU": 1.0}, ["a"]) == 3
    assert view.room({"CPU": 1.0}, free=True) == 4
    assert View(view.nodes, draining=frozenset("b")).room({"CPU": 1.0}) == 3
    assert (view.total("CPU"), view.total("GPU"), view.total("TPU")) == (6.0, 1.0, 0.0)


@pytest.fixture
def door():
    """A port where something listens, until it is closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def watch(door, monkeypatch):
    """A watch that does not wait between its looks."""
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    host, port = door.getsockname()
    return module.Watch({"the head is gone": f"{host}:{port}"}, View)


def test_a_door_that_stays_closed_ends_the_run(door, monkeypatch):
    """After several knocks in a row, with the sentence that belongs to the door."""
    made = watch(door, monkeypatch)
    made.raise_if_gone(at_once=True)
    door.close()
    made.raise_if_gone()
    with pytest.raises(GigasegError, match="the head is gone; what is committed stays"):
        made.raise_if_gone(at_once=True)


def test_the_thread_knocks_until_it_is_stopped(door, monkeypatch):
    """It ends once it is stopped, and sets the sentence when nobody answers."""
    made = watch(door, monkeypatch)
    looks = []
    monkeypatch.setattr(made, "_over", type("Over", (), {"wait": lambda self, _: looks.append(0) or len(looks) > 8})())
    made.knock_again()
    assert made.gone == ""
    door.close()
    looks.clear()
    made.knock_again()
    assert made.gone == "the head is gone"


def test_a_look_that_fails_leaves_the_last_view(door, monkeypatch):
    """A head that is gone is the other thread's to tell."""
    made = watch(door, monkeypatch)
    looks, first = [], made.view

    def fail():
        raise RuntimeError("no answer")

    monkeypatch.setattr(made, "_over", type("Over", (), {"wait": lambda self, _: looks.append(0) or len(looks) > 1})())
    monkeypatch.setattr(made, "_look", fail)
    made.look_again()
    assert made.view is first
