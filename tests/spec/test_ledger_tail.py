"""Looks at a growing ledger: together they are the ledger, and each reads only what is new."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import LockLost
from pipeline.records import Ledger, LedgerTail, read_rows_of
from pipeline.records.ledger import encode_row, segment_name
from pipeline.records.ledger_tail import PIECE_BYTES
from pipeline.storage import LocalStorage, open_storage
from tests.spec.ledgers import losing, receipt, write


class Counting(LocalStorage):
    """Counts what it is asked for."""

    def __init__(self, folder):
        super().__init__(folder)
        self.bytes = self.requests = 0

    def get(self, key, start=0, stop=None):
        data = super().get(key, start, stop)
        self.bytes += len(data or b"")
        self.requests += 1
        return data

    def list(self, prefix=""):
        self.requests += 1
        return super().list(prefix)


class Watched:
    """The rows that count after any number of looks."""

    def __init__(self, where):
        self.tail, self.rows, self.restarts = LedgerTail(where), [], 0

    def look(self):
        for kind, row in self.tail.new_rows():
            if kind == "restart":
                self.rows, self.restarts = [], self.restarts + 1
            else:
                self.rows.append((kind, row))
        return [row["block"] for kind, row in self.rows if kind == "receipt"]


def blocks_of(where):
    return [row["block"] for row in read_rows_of(where, "receipt")]


def test_looks_add_up_to_the_ledger(tmp_path):
    """Rows of a live holder, of the one before and of the one after appear once each, in the order of commit."""
    watched = Watched(tmp_path / "ledger")
    assert watched.look() == []
    for numbers in ((0, 1), (2,), (3, 4, 5)):
        with Ledger.open(tmp_path / "ledger") as ledger:
            for number in numbers:
                ledger.append(receipt(number))
                ledger.flush()
                assert watched.look() == blocks_of(tmp_path / "ledger")
    assert watched.look() == [f"a:0.0.{number}" for number in range(6)]
    assert watched.restarts == 0


def test_a_look_reads_only_what_is_new(tmp_path):
    """With a hundred segments of rows, a look reads as many bytes as were written since the last one, in three requests."""
    storage = Counting(tmp_path)
    rows = [encode_row("receipt", receipt(number).to_json()) for number in range(20)]
    storage.put(segment_name(1, 0), encode_row("header", {"accepts": {}}) + b"".join(rows))
    for number in range(1, 100):
        storage.put(segment_name(1, number), b"".join(rows))
    watched = Watched(storage)
    assert len(watched.look()) == 2000
    watched.look()  # finds that the earlier segments have ended
    for _ in range(3):
        size, storage.bytes, storage.requests = storage.size(segment_name(1, 99)), 0, 0
        storage.append(segment_name(1, 99), rows[0] + rows[1], size)
        storage.bytes = storage.requests = 0
        watched.look()
        assert storage.bytes == len(rows[0] + rows[1])
        assert storage.requests <= 5  # is it there, list, the new bytes, nothing more
    storage.bytes = 0
    watched.look()
    assert storage.bytes == 0
    assert len(watched.rows) == 2006 + 1


def test_an_unfinished_row_is_read_when_it_is_whole(tmp_path):
    """Whatever part of a row a look finds, the row counts once, when all of it is there."""
    storage = open_storage(tmp_path)
    data = encode_row("header", {"accepts": {}}) + b"".join(encode_row("receipt", receipt(number).to_json()) for number in range(3))
    watched = Watched(storage)
    for size in range(0, len(data) + 1, 7):
        storage.put(segment_name(1, 0), data[:size])
        assert watched.look() == blocks_of(tmp_path)
    storage.put(segment_name(1, 0), data)
    assert watched.look() == ["a:0.0.0", "a:0.0.1", "a:0.0.2"]


@settings(max_examples=30)
@given(st.data())
def test_damage_costs_the_same_rows_as_elsewhere(data):
    """A byte of any place overwritten before the first look: the rows that count are those of `read_rows_of`."""
    storage = open_storage(f"memory://tail-{data.draw(st.uuids())}")
    rows = bytearray(encode_row("header", {"accepts": {}}) + b"".join(encode_row("receipt", receipt(n).to_json()) for n in range(4)))
    rows[data.draw(st.integers(0, len(rows) - 1))] = data.draw(st.integers(0, 255))
    storage.put(segment_name(1, 0), bytes(rows))
    assert Watched(storage).look() == blocks_of(storage)


def test_late_rows_of_a_lost_run_are_taken_back(tmp_path):
    """A row that was read, and that a later header does not accept, is gone after a restart; so is what comes after it there."""
    storage, watched = open_storage(tmp_path), Watched(tmp_path)
    row = [encode_row("receipt", receipt(number).to_json()) for number in range(4)]
    header = encode_row("header", {"accepts": {}})
    storage.put(segment_name(1, 0), header + row[0] + row[1])
    assert watched.look() == ["a:0.0.0", "a:0.0.1"]
    storage.put(segment_name(2, 0), encode_row("header", {"accepts": {segment_name(1, 0): len(header + row[0])}}) + row[2])
    storage.put(segment_name(1, 0), header + row[0] + row[1] + row[3])
    assert watched.look() == blocks_of(tmp_path) == ["a:0.0.0", "a:0.0.2"]
    assert watched.restarts == 1
    assert watched.look() == ["a:0.0.0", "a:0.0.2"]


def test_a_fresh_run_begins_anew(tmp_path):
    """Where segments have been removed, nothing that was read of them counts."""
    watched = Watched(tmp_path)
    write(tmp_path, 0, 1)
    assert watched.look() == ["a:0.0.0", "a:0.0.1"]
    open_storage(tmp_path).delete(segment_name(1, 0))
    write(tmp_path, 2)
    assert watched.look() == ["a:0.0.2"]


def test_a_process_that_lost_the_run_adds_nothing(tmp_path):
    """Rows that a live process commits after another one took over are never seen."""
    watched = Watched(tmp_path)
    with losing(tmp_path) as ledger:
        ledger.append(receipt(0))
        ledger.flush()
        assert watched.look() == ["a:0.0.0"]
        write(tmp_path, 1, take_over=True, holder=replace(ledger._lock.holder, birth="another"))
        ledger.append(receipt(2))
        with pytest.raises(LockLost):
            ledger.flush()
        assert watched.look() == blocks_of(tmp_path) == ["a:0.0.0", "a:0.0.1"]


def test_segments_longer_than_a_piece_are_read_whole(tmp_path):
    """Rows that lie across the borders of pieces are read as others are."""
    notes = ("x" * 5000,)
    count = 2 * PIECE_BYTES // 5000
    write(tmp_path, *range(3))
    rows = b"".join(encode_row("receipt", receipt(number, notes=notes).to_json()) for number in range(3, count))
    storage = open_storage(tmp_path)
    storage.append(segment_name(1, 0), rows)
    assert storage.size(segment_name(1, 0)) > 1.9 * PIECE_BYTES
    assert Watched(tmp_path).look() == [f"a:0.0.{number}" for number in range(count)]
