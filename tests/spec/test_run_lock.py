"""Who holds a run: one process at a time, and the next one as soon as it is safe."""

from __future__ import annotations

import errno
import json
import os
import pickle
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import InputError, LockLost
from pipeline.records import Holder, Ledger, Receipt, current_holder, read_rows, run_lock
from pipeline.records.run_lock import hold_run
from pipeline.storage import LocalStorage
from tests.spec.ledgers import losing


def write(folder, **options):
    with Ledger.open(folder, **options) as ledger:
        ledger.append(Receipt("predict", "a", "a:0.0.0"))


def elsewhere():
    """A holder on a host that this process cannot look into."""
    return replace(Holder.here(), host="far", boot="another machine")


def fail_with(number):
    """A system call that fails."""

    def fail(*_args, **_options):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_live_holder_is_named_and_the_way_out_told(tmp_path):
    """A second process is refused with an exit code of its own, host, pid, since when and `--take-over`."""
    with Ledger.open(tmp_path), pytest.raises(InputError) as refused:
        write(tmp_path)
    assert refused.value.exit_code == 4
    me = Holder.here()
    for part in (str(tmp_path), f"host {me.host}", f"pid {me.pid}", "since 20", "--take-over"):
        assert part in str(refused.value)
    assert list(read_rows(tmp_path)) == []


def test_a_released_run_is_taken_at_once(tmp_path):
    """After an orderly end nobody waits, whatever host it was on."""
    write(tmp_path, holder=elsewhere())
    write(tmp_path, stale_s=600)
    assert current_holder(tmp_path) is None


@pytest.mark.parametrize("change", [{"birth": "1"}, {"pid": 2**22 + 1}], ids=["pid reused", "no such pid"])
def test_a_holder_that_ended_on_this_host_is_followed_at_once(tmp_path, change):
    """A process that is gone, even if its number was given away, is taken over without waiting."""
    gone = replace(Holder.here(), **change)
    run_lock._claim(LocalStorage(tmp_path), gone, take_over=False, stale_s=600)
    assert current_holder(tmp_path) == gone
    write(tmp_path, stale_s=600)


@pytest.mark.parametrize("claim", [json.dumps(vars(elsewhere())).encode(), b'{"host": "ha'], ids=["other host", "damaged claim"])
def test_a_silent_holder_elsewhere_is_followed_after_a_while(tmp_path, claim, caplog):
    """A holder that cannot be looked at is taken over once its counter has stood still, and the wait is announced."""
    storage = LocalStorage(tmp_path)
    storage.put("epoch-000001.json", claim)
    storage.put("beat-000001", b"12")
    start = time.monotonic()
    write(tmp_path, stale_s=0.4)
    assert time.monotonic() - start >= 0.4
    assert "waiting up to" in caplog.text


def test_a_holder_elsewhere_that_counts_is_refused(tmp_path, monkeypatch):
    """A holder on another host lives as long as its counter moves."""
    monkeypatch.setattr(run_lock, "BEAT_S", 0.1)
    with Ledger.open(tmp_path, holder=elsewhere()), pytest.raises(InputError, match="host far"):
        write(tmp_path, stale_s=60)


def test_a_holder_elsewhere_that_ends_while_watched_is_followed_at_once(tmp_path, monkeypatch):
    """Whoever waits for a holder's end does not wait longer than that."""
    monkeypatch.setattr(run_lock, "BEAT_S", 3600)
    with Ledger.open(tmp_path, holder=elsewhere()) as ledger:
        ended = threading.Timer(0.5, lambda: ledger._storage.create("released-000001", b""))
        ended.start()
        run_lock._wait_for_end(ledger._storage, 1, Holder.here(), stale_s=3600)
        assert ledger._storage.size("released-000001") == 0
        ended.join()


def test_of_two_that_take_over_the_slower_one_is_refused(tmp_path, monkeypatch):
    """`--take-over` is meant for the holder that was seen, never for another process that was faster."""
    me = Holder.here()
    real = LocalStorage.create

    def slower(self, name, data):
        if name == "epoch-000002.json":
            faster = replace(me, host="faster")
            real(self, name, json.dumps(vars(faster)).encode())
            run_lock._end_earlier(self, 1, faster)
        return real(self, name, data)

    with losing(tmp_path):
        monkeypatch.setattr(LocalStorage, "create", slower)
        with pytest.raises(InputError, match="host faster"):
            write(tmp_path, take_over=True)


def test_a_host_without_proc_still_tells_holders_apart(tmp_path, monkeypatch):
    """Without /proc a dead process is still recognised and a live one still refused, by its counter."""
    monkeypatch.setattr(run_lock, "BEAT_S", 0.1)
    for method in ("read_text", "readlink"):
        monkeypatch.setattr(Path, method, fail_with(errno.ENOENT))
    me = Holder.here()
    assert (me.space, me.birth) == ("", "")
    assert replace(me, pid=2**22 + 1).is_gone(me) is True
    with Ledger.open(tmp_path), pytest.raises(InputError, match=f"pid {me.pid}"):
        write(tmp_path)


def test_every_process_of_an_earlier_holder_loses_the_right_to_write(tmp_path):
    """A guard that travelled to another process raises as soon as the run is taken over, released before or not."""
    storage = LocalStorage(tmp_path)
    with hold_run(storage) as first:
        guard = pickle.loads(pickle.dumps(first.check))
        guard()
        with hold_run(storage, take_over=True) as second:
            second.check()
            with pytest.raises(LockLost, match=f"pid {os.getpid()}"):
                guard()
    second.check()
    with hold_run(storage) as third:
        third.check()
        with pytest.raises(LockLost):
            second.check()


def test_no_number_is_given_again_after_a_ledger_is_emptied(tmp_path):
    """An earlier holder that wakes up late neither writes rows, nor ends the run of the process that started over."""
    storage = LocalStorage(tmp_path)
    with suppress(LockLost), Ledger.open(storage) as slept:
        with hold_run(storage, take_over=True):
            pass
        run_lock.forget_rows(storage)
        assert storage.list() == ["epoch-000002.json", "released-000002"]
        with Ledger.open(storage) as fresh:
            fresh.append(Receipt("predict", "a", "a:0.0.0"))
            slept.append(Receipt("predict", "old", "old:0.0.0"))
            with pytest.raises(LockLost):
                slept.flush()
            with pytest.raises(LockLost):
                slept.guard()
            assert (fresh.epoch, [row.image for row in fresh.rows()]) == (3, ["a"])
    assert "released-000001" not in storage.list()
    assert [row.image for row in read_rows(storage)] == ["a"]
