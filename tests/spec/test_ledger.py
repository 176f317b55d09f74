"""What the ledger promises: committed rows outlive any crash, damage costs one row, one process writes at a time."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time

import numpy as np
import pytest

from pipeline.errors import LockLost, StoreError
from pipeline.records import Ledger, latest, read_rows, read_rows_of
from pipeline.records.ledger import encode_row
from pipeline.records.run_lock import hold_run
from pipeline.statistics.pixel_counts import Counts
from pipeline.storage import LocalStorage, MemoryStorage
from tests.spec.ledgers import blocks, losing, receipt, write

# commit


def test_a_quiet_ledger_commits_by_itself(tmp_path):
    """A row reaches the disk soon after it was appended, though nothing follows it."""
    with Ledger.open(tmp_path) as ledger:
        ledger.append(receipt(1))
        deadline = time.monotonic() + 20
        while not list(read_rows(tmp_path)):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_rows_are_committed_in_groups(tmp_path, monkeypatch):
    """Many rows cost few writes to the disk."""
    writes = []
    real = LocalStorage.append
    monkeypatch.setattr(LocalStorage, "append", lambda *args: (writes.append(args), real(*args)))
    write(tmp_path, *range(1000))
    assert len(list(read_rows(tmp_path))) == 1000
    assert len(writes) < 20


def test_rows_from_many_threads_are_all_kept(tmp_path):
    """Threads that append while others commit lose no row."""
    with Ledger.open(tmp_path) as ledger:

        def work(thread):
            for number in range(200):
                ledger.append(receipt(f"{thread}.{number}"))
                if number % 20 == 0:
                    ledger.flush()

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(latest(ledger.rows())) == 800


def test_rows_appended_before_an_error_are_committed(tmp_path):
    """An interrupted run keeps what was appended before."""

    def interrupted():
        with Ledger.open(tmp_path) as ledger:
            ledger.append(receipt(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert blocks(read_rows(tmp_path)) == ["a:0.0.1"]


def test_a_background_error_reaches_the_next_append_and_heals(tmp_path, monkeypatch):
    """A failed commit refuses further rows; once the disk is back, nothing that was taken is missing."""
    real = os.pwrite

    def half(file, data, at):
        if len(data) < 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data[: len(data) // 2], at)

    with Ledger.open(tmp_path) as ledger:
        monkeypatch.setattr(os, "pwrite", half)
        taken = []

        def go_on():
            while True:
                ledger.append(receipt(len(taken)))
                taken.append(f"a:0.0.{len(taken)}")
                time.sleep(0.01)

        with pytest.raises(StoreError, match="free space and run again: it resumes"):
            go_on()
        with pytest.raises(StoreError):
            ledger.flush()
        monkeypatch.setattr(os, "pwrite", real)
        ledger.flush()
        ledger.append(receipt("more"))
        assert blocks(ledger.rows()) == [*taken, "a:0.0.more"]


# epochs


def test_a_resumed_run_sees_all_rows_in_order(tmp_path):
    """Rows of earlier epochs come first, in the order of their commit, and a live reader sees the same."""
    write(tmp_path, 1, 2)
    write(tmp_path, 3)
    with Ledger.open(tmp_path) as ledger:
        ledger.append(receipt(4))
        assert ledger.epoch == 3
        assert blocks(ledger.rows()) == ["a:0.0.1", "a:0.0.2", "a:0.0.3", "a:0.0.4"]
        assert list(read_rows(tmp_path)) == list(ledger.rows())
    headers = list(read_rows_of(tmp_path, "header"))
    assert [(header["epoch"], header["pid"]) for header in headers] == [(epoch, os.getpid()) for epoch in (1, 2, 3)]
    assert headers[2]["accepts"] == {name: (tmp_path / name).stat().st_size for name in ("000001.jsonl", "000002.jsonl")}


def test_rows_of_a_superseded_holder_are_ignored(tmp_path):
    """A holder that was taken over writes no more rows, though it committed before; it learns that it lost."""
    with losing(tmp_path) as old:
        old.append(receipt(1))
        old.flush()
        with Ledger.open(tmp_path, take_over=True) as new:
            old.append(receipt("late"))
            with pytest.raises(LockLost):
                old.flush()
            with pytest.raises(LockLost):
                old.check()
            new.append(receipt(2))
            assert blocks(new.rows()) == ["a:0.0.1", "a:0.0.2"]
    assert b"late" not in (tmp_path / "000001.jsonl").read_bytes()
    write(tmp_path, 3)
    assert blocks(read_rows(tmp_path)) == ["a:0.0.1", "a:0.0.2", "a:0.0.3"]


def test_a_commit_that_a_take_over_crosses_is_not_acknowledged(tmp_path, monkeypatch):
    """Rows written after the next holder took its measure are not said to be committed."""
    real = LocalStorage.append

    def after_a_take_over(*args):
        monkeypatch.setattr(LocalStorage, "append", real)
        write(tmp_path, 1, take_over=True)
        real(*args)

    with losing(tmp_path) as old:
        old.append(receipt("late"))
        monkeypatch.setattr(LocalStorage, "append", after_a_take_over)
        with pytest.raises(LockLost):
            old.flush()
    assert blocks(read_rows(tmp_path)) == ["a:0.0.1"]


def test_a_holder_superseded_before_its_first_row_is_ignored(tmp_path):
    """A process that claims the run, sleeps and is taken over cannot bring in rows when it wakes."""
    write(tmp_path, 1)
    storage = LocalStorage(tmp_path)
    with hold_run(storage) as slept:
        write(tmp_path, 2, take_over=True)
        with pytest.raises(LockLost):
            Ledger(storage, slept)
    assert not (tmp_path / "000002.jsonl").exists()
    late = b"".join(encode_row("receipt", receipt(number).to_json()) for number in ("late", "later"))
    with (tmp_path / "000002.jsonl").open("ab") as file:
        file.write(late)
    assert blocks(read_rows(tmp_path)) == ["a:0.0.1", "a:0.0.2"]
    write(tmp_path, 3)
    assert blocks(read_rows(tmp_path)) == ["a:0.0.1", "a:0.0.2", "a:0.0.3"]


def test_a_lost_claim_never_costs_a_segment(tmp_path):
    """A segment is not written again, even when the files that name its holder were removed."""
    write(tmp_path, 1)
    (tmp_path / "epoch-000001.json").unlink()
    write(tmp_path, 2)
    assert blocks(read_rows(tmp_path)) == ["a:0.0.1", "a:0.0.2"]


# storages that cannot append


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """A storage that writes a whole file again to append to it, and therefore wants short segments."""
    monkeypatch.setattr(MemoryStorage, "segment_bytes", 200)
    return MemoryStorage(f"memory://{tmp_path.name}")


def test_a_storage_that_cannot_append_gets_short_segments(memory):
    """Where appending writes a file again, a holder goes on in a new segment, and all are read in the order of commit."""
    for numbers in (range(9), range(9, 20)):
        with Ledger.open(memory) as ledger:
            for number in numbers:
                ledger.append(receipt(number))
                ledger.flush()
    names = [name for name in memory.list() if name.endswith(".jsonl")]
    assert names[:3] == ["000001.jsonl", "000001.next-000001.jsonl", "000001.next-000002.jsonl"]
    assert "000002.next-000001.jsonl" in names
    assert all(memory.size(name) < 1000 for name in names[1:])
    assert blocks(read_rows(memory)) == [f"a:0.0.{number}" for number in range(20)]
    assert [header["epoch"] for header in read_rows_of(memory, "header")] == [1, 2]


def test_short_segments_of_a_superseded_holder_are_ignored(memory):
    """What a holder writes into a new segment after it was taken over is never read."""
    with losing(memory) as old:
        for number in range(5):
            old.append(receipt(number))
            old.flush()
        with Ledger.open(memory, take_over=True) as new:
            for _ in range(9):
                old.append(receipt("late"))
                with pytest.raises(LockLost):
                    old.flush()
            memory.put("000001.next-000099.jsonl", encode_row("receipt", receipt("later").to_json()))
            new.append(receipt("new"))
            expected = [*(f"a:0.0.{number}" for number in range(5)), "a:0.0.new"]
            assert blocks(new.rows()) == expected
    assert blocks(read_rows(memory)) == expected


@pytest.mark.benchmark
def test_rows_a_second(tmp_path):
    """Writing and reading cost the driver microseconds a row: prints how many."""
    counts = Counts(np.full(4, 1000), confusion=np.full((4, 4), 7), cross_entropy=1234.5, cross_entropy_pixels=4194304)
    rows = [
        receipt(number, key="k" * 32, digest="d" * 32, seconds={"read": 0.1234, "compute": 1.5}, counts=counts) for number in range(20_000)
    ]
    start = time.perf_counter()
    with Ledger.open(tmp_path) as ledger:
        for row in rows:
            ledger.append(row)
        ledger.flush()
        written = time.perf_counter()
        assert blocks(ledger.rows()) == blocks(rows)
    read = time.perf_counter()
    sys.stdout.write(f"\ncommitted {len(rows) / (written - start):,.0f} rows/s, read {len(rows) / (read - written):,.0f} rows/s\n")
