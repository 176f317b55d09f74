"""A ledger that is made shorter: what counts stays, and nothing is lost whenever the process dies."""

from __future__ import annotations

import shutil

import pytest

from pipeline.errors import AlreadyRunning
from pipeline.records import Ledger, LedgerTail, compact_ledger, latest, read_rows, read_rows_of
from pipeline.storage import LocalStorage
from tests.spec.ledgers import receipt, write


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "ledger"
    for number in range(30):
        with Ledger.open(folder) as ledger:
            ledger.append_row("plan", {"images": [number]})
            ledger.append(receipt(number % 7, key=str(number)))
    return folder


@pytest.fixture
def long(made, tmp_path):
    """A ledger of 30 holders that did some blocks again and changed the plan each time."""
    return LocalStorage(shutil.copytree(made, tmp_path / "ledger"))


def what_counts(storage):
    return list(latest(read_rows(storage)).values()), list(read_rows_of(storage, "plan"))[-1]


def test_what_counts_stays_and_the_rest_goes(long):
    """The last receipt of each block in the order of commit, and the last plan; one segment, and files of one holder."""
    before = what_counts(long)
    assert compact_ledger(long)
    assert what_counts(long) == before
    assert len(list(read_rows(long))) == 7
    assert sorted(long.list()) == ["000031.jsonl", "beat-000031", "epoch-000031.json", "released-000031"]
    write(long.url, 99)
    assert [row.block for row in read_rows(long)][-1] == "a:0.0.99"


def test_a_short_ledger_is_left_alone(tmp_path):
    """It costs a reading of the whole ledger."""
    write(tmp_path, 1)
    assert not compact_ledger(tmp_path)
    assert not compact_ledger(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("num_deleted", [0, 1, 40])
def test_a_process_that_dies_meanwhile_loses_nothing(long, num_deleted, monkeypatch):
    """Rows may be there twice, which count once; the next time it is done."""
    before = what_counts(long)
    deleted, committed = [], []
    real = LocalStorage.delete

    def delete(self, key):
        committed.append(what_counts(LocalStorage(long.url)) == before and len(list(read_rows(long))) >= 7)
        if not deleted:
            assert len(list(read_rows(long))) == 30 + 7  # the new rows are on the disk before an old one goes
        if len(deleted) == num_deleted:
            raise KeyboardInterrupt
        deleted.append(key)
        real(self, key)

    monkeypatch.setattr(LocalStorage, "delete", delete)
    with pytest.raises(KeyboardInterrupt):
        compact_ledger(long)
    monkeypatch.undo()
    assert all(committed)
    assert what_counts(long) == before
    compact_ledger(long, 1)
    assert what_counts(long) == before


def test_a_run_that_goes_on_is_left_alone(long):
    """Its holder writes."""
    with Ledger.open(long), pytest.raises(AlreadyRunning):
        compact_ledger(long)


def test_whoever_follows_the_ledger_starts_again(long):
    """A tail that has read the old segments then yields the rows that count."""
    tail = LedgerTail(long)
    list(tail.new_rows())
    compact_ledger(long)
    kinds = [kind for kind, _ in tail.new_rows()]
    assert kinds[0] == "restart"
    assert kinds.count("receipt") == 7
