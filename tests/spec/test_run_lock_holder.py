"""A process that holds a run is told apart from every other one: of another machine, container, boot, or life of its number."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest

from pipeline.records import Holder, run_lock


def fail_with(number):
    """A system call that fails."""

    def fail(*_args, **_options):
        raise OSError(number, os.strerror(number))

    return fail


def test_this_process_is_there():
    """It knows itself, names host, number and time for people, and travels."""
    me = Holder.here()
    assert me.is_gone(Holder.here()) is False
    assert str(me) == f"host {os.uname().nodename}, pid {os.getpid()}, since {me.since}"
    assert pickle.loads(pickle.dumps(me)) == me


def test_a_process_that_has_ended_is_gone():
    """At once, whether its number is free, or its parent has not noticed yet."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    held = replace(Holder.here(), pid=child.pid, birth=run_lock.birth_of(child.pid))
    assert held.is_gone(Holder.here()) is False
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert held.is_gone(Holder.here()) is True
    child.wait()
    assert held.is_gone(Holder.here()) is True


def test_a_number_that_was_given_again_is_another_process():
    """A process that began at another time is not the holder, though it has the same number."""
    assert replace(Holder.here(), birth="1").is_gone(Holder.here()) is True


@pytest.mark.parametrize("change", [{"boot": "another machine"}, {"space": "another container"}])
def test_elsewhere_nothing_is_known(change):
    """Of a process on another machine, boot or in another container, only its counter tells; its number means nothing here."""
    assert replace(Holder.here(), **change).is_gone(Holder.here()) is None


def test_another_users_process_is_not_taken_for_dead(monkeypatch):
    """A process that may not be signalled or looked at is there; only its counter tells more."""
    me = Holder.here()
    monkeypatch.setattr(run_lock, "birth_of", lambda _: "")
    monkeypatch.setattr(os, "kill", fail_with(errno.EPERM))
    assert me.is_gone(me) is None
