"""Blocks and receipts: small values that say who they are, travel, and come back from JSON as they were."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest

from pipeline.errors import GigasegError
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Block, Ledger, Receipt, place_of, read_rows
from pipeline.statistics import Counts

COUNTS = Counts(np.array([3, 4]), no_prediction=2, confusion=np.array([[3, 0], [1, 3]]), cross_entropy=0.5, cross_entropy_pixels=7)


def receipt(number, **options):
    return Receipt("predict", "a", f"a:0.0.{number}", **options)


def same_counts(one, other):
    """Whether two counts are equal, arrays included."""
    return all(np.array_equal(getattr(one, name.name), getattr(other, name.name)) for name in fields(Counts))


def test_a_receipt_comes_back_as_it_was(tmp_path):
    """Every field of a receipt, counts included, survives the ledger."""
    counts = Counts(
        np.array([3, 4]), no_prediction=2, confusion=np.array([[3, 0], [1, 3]]), cross_entropy=0.1 + 0.2, cross_entropy_pixels=7
    )
    row = receipt(1, key="k", seconds={"read": 0.1}, files={"masks/ä\udcff\n.zarr": 9}, counts=counts, notes=("halved",), warnings=("far",))
    with Ledger.open(tmp_path) as ledger:
        ledger.append(row)
    (back,) = read_rows(tmp_path)
    assert back.to_json() == row.to_json()


def test_json_holds_what_is_not_the_default():
    """A receipt of a block that was done without a word is two names; JSON of older receipts, with fewer fields, still loads."""
    assert receipt(1).to_json() == {"phase": "predict", "block": "a:0.0.1"}
    assert Receipt.from_json({"phase": "predict", "image": "a", "block": "a:0.0.1"}) == receipt(1)


def test_counts_come_back_with_their_types():
    """Through JSON text, matrices are integer arrays of the same values; a confusion of zeros is not one that is missing."""
    empty = replace(COUNTS, confusion=np.zeros((2, 2), np.int64), cross_entropy=None)
    for counts in (COUNTS, empty, replace(COUNTS, confusion=None)):
        back = Receipt.from_json(json.loads(json.dumps(receipt(1, counts=counts).to_json()))).counts
        assert same_counts(back, counts)
        assert back.predicted.dtype == np.int64


def test_a_brief_receipt_keeps_what_a_list_of_failures_needs():
    """Failures, wrong truth, notes and warnings stay; what is summed, and what only a resuming run needs, goes."""
    loud = {
        "failed": receipt(1, cause="no memory", attempts=3),
        "truth": receipt(1, truth_error="7 at (y=0, x=0)"),
        "noted": receipt(1, notes=("halved",)),
        "warned": receipt(1, warnings=("far",)),
    }
    for row in loud.values():
        brief = replace(row, key="k", digest="d", files={"a": 1}, seconds={"read": 1.0}, counts=COUNTS).brief()
        assert (brief.key, brief.digest, brief.counts, dict(brief.files), dict(brief.seconds)) == ("", "", None, {}, {})
        kept = ("block", "cause", "attempts", "truth_error", "notes", "warnings")
        assert [getattr(brief, name) for name in kept] == [getattr(row, name) for name in kept]


def test_a_receipt_is_well_unless_it_names_a_cause():
    """A truth that could not be counted, or another try, is no failure."""
    assert receipt(1, truth_error="7 at (y=0, x=0)", attempts=3).ok
    assert not receipt(1, cause="no memory").ok


def test_blocks_and_receipts_travel():
    """Both are values: a pickled one equals itself, and a block's id names image, plane, row and column."""
    image = Image(0, "slides/a", "/data/a.tif", Header((40, 40), 1, "uint8"), {"name": "auto"})
    block = Block("predict", image, 2, 3, 4, Box(0, 0, 10, 10), "k", {"model": {"thresholds": [3.0]}}, 1, ("slides/a:2.0.0",))
    assert block.id == "slides/a:2.3.4"
    row = receipt(1, cause="no memory")
    assert pickle.loads(pickle.dumps((block, row))) == (block, row)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"zz": 1}, "'a:0.0.1' (got an unexpected keyword argument 'zz')"), ({"block": 7}, "block 7 ("), ({"n": {}}, "('p')")],
)
def test_a_row_of_another_version_is_told_in_one_line(tmp_path, changes, told):
    """With the files, the block, what is odd and the way out: its checksum is right, so it was written as it is."""
    with Ledger.open(tmp_path) as ledger:
        ledger.append_row("receipt", {**receipt(1).to_json(), **changes})
    with pytest.raises(GigasegError) as refused:
        list(read_rows(tmp_path))
    line = str(refused.value)
    assert told in line
    assert line.startswith("ledger/*.jsonl: this version cannot read the row of block ")
    assert "\n" not in line
    assert "the version of gigaseg that wrote it" in line


@pytest.mark.parametrize("name", ["odd", "a:0.0", "a:0.0.x"])
def test_a_block_of_another_version_is_told_in_one_line(name):
    """Its name has no place in a plan."""
    with pytest.raises(GigasegError, match=r"row of block .* \(expected NAME:plane\.row\.col\): read it with"):
        place_of(name, (1, 1, 1))
