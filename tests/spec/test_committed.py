"""The receipts of a ledger, gone over again and again: the last one of each block holds, and what is committed later is not seen."""

from __future__ import annotations

from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import CommittedReceipts, Ledger, Receipt, latest, read_rows
from pipeline.storage import MemoryStorage


@given(st.lists(st.lists(st.tuples(st.sampled_from(["fit", "predict"]), st.integers(0, 3)), max_size=9), max_size=3))
def test_the_last_receipt_of_a_block_holds(epochs):
    """Over all epochs, in the order of commit, as often as one asks."""
    storage = MemoryStorage(f"memory://{uuid4()}")
    for number, rows in enumerate(epochs):
        with Ledger.open(storage) as ledger:
            for at, (phase, col) in enumerate(rows):
                ledger.append(Receipt(phase, "a", f"a:0.0.{col}", attempts=1 + at + 10 * number))
    committed = CommittedReceipts(storage)
    for _ in range(2):
        assert [row for row, _ in committed] == list(read_rows(storage))
        assert list(committed.last) == list(latest(read_rows(storage)).values())


def test_later_rows_are_not_seen():
    """What is committed while one goes over the receipts changes nothing, in this segment or in one of another epoch."""
    storage = MemoryStorage(f"memory://{uuid4()}")
    with Ledger.open(storage) as ledger:
        ledger.append(Receipt("predict", "a", "a:0.0.0"))
        ledger.flush()
        committed = CommittedReceipts(storage)
        ledger.append(Receipt("predict", "a", "a:0.0.0", attempts=2))
    with Ledger.open(storage) as ledger:
        ledger.append(Receipt("predict", "a", "a:0.0.1"))
    assert [(row.attempts, is_last) for row, is_last in committed] == [(1, True)]
    assert [row.attempts for row in CommittedReceipts(storage).last] == [2, 1]


def test_a_ledger_that_is_not_there_has_none(tmp_path):
    """A run that has not begun has no receipts."""
    assert list(CommittedReceipts(tmp_path / "gone")) == []
