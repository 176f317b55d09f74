"""JSON of receipts: short, exact, and readable in every form that was ever written."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import Receipt, read_rows
from pipeline.records.ledger import encode_row
from pipeline.statistics import CONFIDENCE_BINS, Counts
from tests.conftest import blobs, save_tiff

MOST_BYTES = 300  # a row of the ledger, of a block with truth of two classes
OLD = """{"phase":"predict","image":"img","block":"img:0.3.46","key":"c68f21235d03525a70051a00","count_key":"088ded249862d105c953d714",
"attempts":1,"seconds":{"read":0.004755,"stitch":9e-06},"peak_bytes":194637824,"digest":"71146420885ca9dd85c1a6b68a48152d",
"files":{"masks/img.ome.zarr/0/c/3/46":137},"counts":{"no_prediction":0,"cross_entropy_pixels":0,"overlap_equal":0,"overlap_pixels":0,
"skipped":0,"quarantined":0,"predicted":[147,109],"confusion":[[0,0,138],[1,0,9],[1,1,109]]}}"""

hexadecimal = st.binary(max_size=16).map(bytes.hex)
texts = st.text(max_size=8)
names = st.text("ab/:.~é", min_size=1, max_size=8)
numbers = st.integers(0, 2**60)


@st.composite
def confidences(draw):
    counts = np.zeros((3, CONFIDENCE_BINS), np.int64)
    for index in draw(st.sets(st.integers(0, CONFIDENCE_BINS - 1))):
        counts[:, index] = draw(st.integers(1, 2**40)), draw(numbers), draw(numbers)
    return counts


@st.composite
def all_counts(draw):
    k = draw(st.integers(1, 4))
    confusion = draw(st.none() | st.lists(numbers, min_size=k * k, max_size=k * k))
    return Counts(
        np.array(draw(st.lists(numbers, min_size=k, max_size=k)), np.int64),
        draw(numbers),
        None if confusion is None else np.array(confusion, np.int64).reshape(k, k),
        draw(st.none() | st.floats(0, 1e9)),
        *draw(st.tuples(*[numbers] * 5)),
        draw(st.none() | confidences()),
    )


@st.composite
def receipts(draw):
    image = draw(names)
    block = draw(st.sampled_from([f"{image}:0.1.2", "b:0.0.0", "c"]))
    keys = st.sampled_from([f"masks/{image}.ome.zarr/0/c/1/2", f"a/b/{image}", f"/{image}", "x//y", f"{image}/{image}/0", "masks/0"])
    return Receipt(
        draw(st.sampled_from(["predict", "count"])),
        image,
        block,
        *draw(st.tuples(hexadecimal | texts, hexadecimal | texts, hexadecimal | texts)),
        attempts=draw(st.integers(1, 3)),
        cause=draw(texts),
        seconds=draw(st.dictionaries(st.sampled_from(["read", "write", "stitch", "r", "s", "x"]), st.floats(0, 1e3))),
        peak_bytes=draw(numbers),
        digest=draw(hexadecimal | texts),
        files=draw(st.dictionaries(keys, numbers, max_size=3)),
        counts=draw(st.none() | all_counts()),
        notes=tuple(draw(st.lists(texts, max_size=2))),
        actor=draw(texts),
    )


def plain(receipt):
    """Return the fields of a receipt as values that can be compared."""
    values = {one.name: getattr(receipt, one.name) for one in fields(Receipt)}
    if receipt.counts is not None:
        counts = {one.name: getattr(receipt.counts, one.name) for one in fields(Counts)}
        values["counts"] = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in counts.items()}
    return values


def test_predicted_pixels_are_written_once():
    """Sums of the matrix that say them are not written again; pixels without truth make them differ."""
    confusion = np.array([[3, 1], [0, 4]])
    for predicted, written in ([3, 5], 2), ([3, 6], [3, 6]):
        receipt = Receipt("predict", "a", "a:0.0.0", counts=Counts(np.array(predicted), confusion=confusion))
        assert receipt.to_json()["n"]["p"] == written
        assert plain(Receipt.from_json(receipt.to_json())) == plain(receipt)


@given(receipts())
def test_a_receipt_comes_back_as_it_was(receipt):
    """Every field, whether it has a short form or not: keys that are no hashes, names that hold `/` and `:`, unrounded seconds."""
    row = json.loads(json.dumps(receipt.to_json()))
    for _ in range(2):  # reading changes nothing
        assert plain(Receipt.from_json(row)) == plain(receipt)


def test_receipts_of_earlier_versions_are_read():
    """A row with long names holds what one with short names does."""
    old = json.loads(OLD)
    receipt = Receipt.from_json(old)
    assert (receipt.image, receipt.key, receipt.digest, dict(receipt.files)) == ("img", old["key"], old["digest"], old["files"])
    assert receipt.counts is not None
    assert (receipt.counts.predicted.tolist(), receipt.counts.confusion.tolist()) == ([147, 109], [[138, 0], [9, 109]])
    assert plain(Receipt.from_json(receipt.to_json())) == plain(receipt)
    assert len(encode_row("receipt", receipt.to_json())) <= MOST_BYTES


def test_receipts_of_the_version_before_are_read():
    """Pairs of classes by truth and prediction, peaks in bytes, and counts by their whole names."""
    receipt = Receipt.from_json(json.loads(OLD))
    row = receipt.to_json()
    before = {**row, "m": 1024 * row["M"], "n": {"p": [147, 109], "t": [0, 0, 138, 1, 0, 9, 1, 1, 109], "no_prediction": 3}}
    del before["M"]
    found = Receipt.from_json(before)
    assert found.peak_bytes == receipt.peak_bytes
    assert found.counts is not None
    assert (found.counts.confusion.tolist(), found.counts.no_prediction) == ([[138, 0], [9, 109]], 3)


@pytest.mark.parametrize("truth", ["truth.tif", None])
def test_a_row_takes_few_bytes(tmp_path, engine, truth):
    """The rows of a run's blocks, with files, seconds, a digest and counts, take at most 300 bytes each."""
    pixels_YX = blobs((256, 256))
    save_tiff(tmp_path / "slide_01.tif", pixels_YX)
    save_tiff(tmp_path / "truth.tif", (pixels_YX > 100).astype(np.uint8))
    tiling = {"core": 32, "halo": 0, "block": 32}
    done = engine(images=["slide_01.tif"], truth=truth, model={"name": "tests.benchmarks.stub"}, normalize=None, tiling=tiling)
    rows = [line for line in (done.folder / "ledger" / "000001.jsonl").read_bytes().splitlines() if b'"receipt"' in line]
    assert sum(receipt.counts is not None for receipt in read_rows(done.folder / "ledger")) == 64
    assert sum(map(len, rows)) / len(rows) <= MOST_BYTES
