"""How rows lie in the ledger's files: JSON lines with a checksum, of which damage costs one and changes none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records import Ledger, read_rows, read_rows_of
from pipeline.records.ledger import accepted_sizes, encode_row, segment_name
from pipeline.storage import LocalStorage
from tests.spec.ledgers import blocks, receipt, write


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.floats(allow_nan=False)))))
def test_rows_of_any_kind_come_back_in_order(rows, tmp_path_factory):
    """Plain JSON of any kind comes back equal, in the order of appending, apart from other kinds."""
    folder = tmp_path_factory.mktemp("rows")
    with Ledger.open(folder) as ledger:
        for row in rows:
            ledger.append_row("image", row)
            ledger.append_row("fit", {"crc": row})
    assert list(read_rows_of(folder, "image")) == rows
    assert list(read_rows_of(folder, "fit")) == [{"crc": row} for row in rows]
    assert list(read_rows(folder)) == []


def test_a_line_is_json_for_other_tools(tmp_path):
    """A segment is JSON lines that any tool reads."""
    write(tmp_path, 1)
    header, row = (json.loads(line) for line in (tmp_path / "000001.jsonl").read_text().splitlines())
    assert header["header"]["epoch"] == 1
    assert row["receipt"]["block"] == "a:0.0.1"


def test_a_segment_longer_than_one_piece_is_read_whole(tmp_path, monkeypatch):
    """Rows that lie across the pieces in which a segment is read are not lost."""
    monkeypatch.setattr("pipeline.records.ledger.PIECE_BYTES", 37)
    write(tmp_path, *range(50))
    assert blocks(read_rows(tmp_path)) == [f"a:0.0.{number}" for number in range(50)]


def test_a_torn_tail_is_dropped_wherever_it_tears(tmp_path):
    """Cut at any byte, a segment gives exactly the rows that lie before the cut."""
    write(tmp_path, 1, 2, 3)
    segment = tmp_path / "000001.jsonl"
    whole = segment.read_bytes()
    ends = np.cumsum([len(line) + 1 for line in whole.splitlines()]) - 1  # a row is whole without its end of line
    for cut in range(len(whole)):
        segment.write_bytes(whole[:cut])
        assert blocks(read_rows(tmp_path)) == [f"a:0.0.{number}" for number in (1, 2, 3) if ends[number] <= cut], cut


def test_rows_after_a_torn_tail_are_read(tmp_path):
    """A run resumed on a torn segment loses only the torn row."""
    write(tmp_path, 1, 2)
    segment = tmp_path / "000001.jsonl"
    segment.write_bytes(segment.read_bytes()[:-9])
    write(tmp_path, 3)
    assert blocks(read_rows(tmp_path)) == ["a:0.0.1", "a:0.0.3"]


def test_a_flipped_bit_costs_one_row_and_never_changes_one(tmp_path):
    """Whatever bit flips, at most one row is lost and no other row is altered."""
    write(tmp_path, 1, 2, 3)
    segment = tmp_path / "000001.jsonl"
    whole = segment.read_bytes()
    kept = list(read_rows(tmp_path))
    lost = 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        segment.write_bytes(damaged)
        rows = list(read_rows(tmp_path))
        assert len(rows) >= 2
        assert [row for row in kept if row in rows] == rows
        lost += len(rows) == 2
    assert lost == 8 * len(whole[whole.index(b"\n") + 1 :])  # every flip in a row or its end was noticed


def test_names_sort_in_the_order_of_writing():
    """Segments of a later holder come after all of an earlier one, however many either has written."""
    written = [segment_name(epoch, number) for epoch in (1, 2, 9, 10, 99_999) for number in (0, 1, 9, 10, 99_999)]
    assert sorted(written) == written
    assert len(set(written)) == len(written)


def test_later_rows_of_earlier_holders_do_not_count(tmp_path):
    """The newest header says how many bytes of each earlier segment count: what is written there afterwards is not read."""
    write(tmp_path, 1)
    write(tmp_path, 2)
    with (tmp_path / "000001.jsonl").open("ab") as late:
        late.write(encode_row("receipt", receipt("late").to_json()))
    assert blocks(read_rows(tmp_path)) == ["a:0.0.1", "a:0.0.2"]
    accepted = accepted_sizes(LocalStorage(tmp_path), 3)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.jsonl")}
    assert accepted["000001.jsonl"] < sizes["000001.jsonl"]
    assert accepted["000002.jsonl"] == sizes["000002.jsonl"]


def test_what_is_no_segment_is_not_read(tmp_path):
    """Other files of the folder, and lines of other programs, hold no rows."""
    write(tmp_path, 1)
    (tmp_path / "notes.txt").write_bytes((tmp_path / "000001.jsonl").read_bytes())
    with (tmp_path / "000001.jsonl").open("ab") as file:
        file.write(b'{"receipt":{"block":"no checksum"}}\n\nplain text\n')
    assert blocks(read_rows(tmp_path)) == ["a:0.0.1"]


@pytest.mark.parametrize("kind", ["receipt", "plan"])
def test_a_kind_is_read_alone(tmp_path, kind):
    """Rows of one kind come without those of others, though one holds the other's name."""
    with Ledger.open(tmp_path) as ledger:
        ledger.append_row("plan", {"receipt": 1})
        ledger.append(receipt(1))
    (row,) = read_rows_of(tmp_path, kind)
    assert row == ({"receipt": 1} if kind == "plan" else receipt(1).to_json())
