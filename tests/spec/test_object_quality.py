"""Instance metrics: what is undefined is None, never 0, and what is merely bad is 0, never None."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.metrics.instances import ObjectQuality
from pipeline.statistics import Counts, ObjectCounts, ObjectMatches, count_objects

NO_PIXELS = Counts(np.zeros(2, np.int64))
SCORES = ["ap50", "ap75", "mean_ap", "ap", "precision50", "recall50", "f1_50", "pq", "sq", "rq", "aji", "object_dice", "glas_dice"]
ONE, NONE = (np.array([1]), np.array([1])), (np.zeros(0, np.int64), np.zeros(0, np.int64))


def row_of(counts):
    """The report's row of one class."""
    (row,) = ObjectQuality().compute(NO_PIXELS, {1: counts})["instances"]
    return row


def test_only_predictions():
    """All objects are false: precision is 0, recall has no truth to be measured on, and nothing matches that SQ could average."""
    row = row_of(count_objects(np.array([[1, 0, 9], [0, 0, 7]]), ONE, NONE)[1])
    assert row["ap"] == [0.0] * 10
    undefined = {"recall50": None, "sq": None}
    assert {name: row[name] for name in SCORES if name != "ap"} == {name: undefined.get(name, 0.0) for name in SCORES if name != "ap"}
    assert (row["truth"], row["predicted"], row["count_error"]) == (0, 1, 1)


def test_only_truth():
    """All objects are missed: recall is 0, and nothing was predicted that could be precise."""
    row = row_of(count_objects(np.array([[0, 1, 9]]), NONE, ONE)[1])
    assert (row["recall50"], row["precision50"], row["sq"], row["pq"], row["aji"], row["object_dice"]) == (0.0, None, None, 0.0, 0.0, 0.0)
    assert (row["truth"], row["predicted"], row["count_error"]) == (1, 0, -1)


def test_no_objects():
    """Where there was truth and neither side has an object, no score is defined; the numbers of objects are."""
    row = row_of(ObjectCounts(matches=ObjectMatches()))
    assert [row[name] for name in SCORES] == [None] * len(SCORES)
    assert [row[name] for name in ("truth", "predicted", "count_error", "splits", "merges")] == [0] * 5
    assert (row["sizes_truth"], row["sizes_predicted"]) == ([], [])


def test_no_truth():
    """Without truth only the number and the sizes of predicted objects are known."""
    row = row_of(ObjectCounts(predicted=4, sizes_predicted=(0, 0, 3, 0, 1)))
    assert row.pop("predicted") == 4
    assert row.pop("sizes_predicted") == [[4, 3], [8, 0], [16, 1]]
    assert row.pop("class") == 1
    assert set(row.values()) == {None}


def test_a_perfect_prediction():
    """Every score of a prediction equal to the truth is 1."""
    row = row_of(count_objects(np.array([[1, 1, 9], [0, 0, 7]]), ONE, ONE)[1])
    assert row["ap"] == [1.0] * 10
    assert [row[name] for name in SCORES if name != "ap"] == [1.0] * (len(SCORES) - 1)


def test_images_without_truth_do_not_change_scores():
    """Objects of an image without truth are counted, but are no false ones."""
    scored = count_objects(np.array([[1, 1, 9]]), ONE, ONE)[1]
    row = row_of(scored + ObjectCounts(predicted=5, sizes_predicted=(5,)))
    assert (row["predicted"], row["truth"], row["count_error"], row["precision50"]) == (6, 1, 0, 1.0)


def test_classes_are_in_order_and_rows_are_json():
    """Rows come in the order of class ids, each with the same fields, in plain JSON without NaN."""
    with_truth, without = count_objects(np.array([[1, 1, 9]]), ONE, ONE)[1], ObjectCounts(predicted=1, sizes_predicted=(1,))
    found = ObjectQuality().compute(NO_PIXELS, {3: with_truth, 1: without})
    assert [row["class"] for row in found["instances"]] == [1, 3]
    assert list(found["instances"][0]) == list(found["instances"][1])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("objects", [None, {}])
def test_runs_without_objects_have_no_rows(objects):
    """Where no objects were counted, there is nothing to report."""
    assert ObjectQuality().compute(NO_PIXELS, objects) == {"instances": []}


def test_documented_fields_are_the_fields():
    """The docstring's table names every field of a row but the class itself."""
    row = row_of(ObjectCounts(matches=ObjectMatches()))
    assert [name for name in row if name != "class" and name not in ObjectQuality.__doc__] == []
