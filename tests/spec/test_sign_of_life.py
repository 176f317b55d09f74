"""Signs of life of the process that holds a run: seen at once on this machine, by its counter from any other."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from pipeline.records import Holder, Ledger, Pulse, wait_for_sign
from pipeline.records.run_lock import current_beat
from pipeline.storage import open_storage
from tests.spec.ledgers import write

ELSEWHERE = replace(Holder.here(), host="n1", boot="another", pid=7)


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when it is told to, and when somebody sleeps."""

    class Clock:
        now = 1000.0

        def sleep(self, seconds):
            self.now += seconds

    it = Clock()
    monkeypatch.setattr("pipeline.records.sign_of_life.time.monotonic", lambda: it.now)
    monkeypatch.setattr("pipeline.records.sign_of_life.time.sleep", it.sleep)
    return it


def held(folder, *, counter=1):
    """A run that a process of another machine holds, or held until it died."""
    storage = open_storage(folder)
    with Ledger.open(folder, holder=ELSEWHERE):
        pass
    storage.delete("released-000001")
    storage.put("beat-000001", b"%d" % counter)
    return storage


def test_a_process_of_this_machine_is_seen_at_once(tmp_path):
    """While it holds the run it lives; when the run is released, nobody holds it."""
    with Ledger.open(tmp_path) as ledger:
        sign = Pulse(tmp_path).look()
        assert (sign.is_alive, sign.is_process, sign.holder) == (True, True, ledger._lock.holder)
    assert Pulse(tmp_path).look() is None
    assert Pulse(tmp_path / "never").look() is None


def test_a_dead_process_of_this_machine_is_known_at_once(tmp_path):
    """A reused process id does not hide that the holder is gone."""
    with Ledger.open(tmp_path, holder=replace(Holder.here(), birth="long ago")):
        sign = Pulse(tmp_path).look()
    assert (sign.is_alive, sign.is_process) == (False, True)


def test_a_process_elsewhere_lives_as_long_as_its_counter_moves(tmp_path, clock):
    """The age of the last sign is measured here: 0 when the counter moves, growing while it stands still, dead after 30 s."""
    storage, pulse = held(tmp_path), Pulse(tmp_path)
    assert (pulse.look().is_alive, pulse.look().age_s) == (None, 0.0)
    clock.now += 2
    storage.put("beat-000001", b"2")
    assert (pulse.look().is_alive, pulse.look().age_s) == (True, 0.0)
    clock.now += 12
    assert (pulse.look().is_alive, pulse.look().age_s, pulse.look().holder.host) == (True, 12.0, "n1")
    clock.now += 18
    assert (pulse.look().is_alive, pulse.look().age_s) == (False, 30.0)
    storage.put("beat-000001", b"3")
    assert pulse.look().is_alive is True


def test_one_look_takes_no_longer_than_a_beat_and_a_second(tmp_path, clock):
    """A counter that does not move says nothing after 4 s, and nothing is waited for on this machine."""
    held(tmp_path)
    sign = wait_for_sign(Pulse(tmp_path))
    assert sign.is_alive is None
    assert 4.0 <= sign.age_s < 4.5
    before = clock.now
    with Ledger.open(tmp_path / "here"):
        assert wait_for_sign(Pulse(tmp_path / "here")).is_alive is True
    assert clock.now == before


def test_a_sign_ends_the_wait(tmp_path, monkeypatch):
    """The wait is over as soon as the counter moves."""
    storage = held(tmp_path)
    monkeypatch.setattr("pipeline.records.sign_of_life.time.sleep", lambda _: storage.put("beat-000001", b"2"))
    started = time.monotonic()
    assert wait_for_sign(Pulse(tmp_path)).is_alive is True
    assert time.monotonic() - started < 2


def test_another_holder_is_another_counter(tmp_path, clock):
    """A process that takes over is not taken for the old one, even where both counters say the same."""
    held(tmp_path)
    pulse = Pulse(tmp_path)
    pulse.look()
    clock.now += 40
    assert pulse.look().is_alive is False
    before = current_beat(tmp_path)
    write(tmp_path, 0, take_over=True, holder=replace(ELSEWHERE, host="n2"))
    open_storage(tmp_path).delete("released-000002")
    assert current_beat(tmp_path) != before
    assert (pulse.look().holder.host, pulse.look().is_alive) == ("n2", True)
