"""What every metric promises; a new file in pipeline/metrics/ is tested with no edit here."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from pipeline.plugins import available, build
from pipeline.statistics import Counts, ObjectCounts, ObjectMatches
from tests.contracts.plugin_examples import example_in


def specs_of(name):
    """The specs that the docstring's example shows."""
    shown = example_in("metrics", name)["metrics"]
    return [{"name": one} if isinstance(one, str) else one for one in shown]


@pytest.fixture(params=available("metrics"))
def metric(request):
    """Each metric, as its example builds it."""
    (spec,) = [spec for spec in specs_of(request.param) if spec["name"] == request.param]
    return build("metrics", spec)


WITH_TRUTH = Counts(
    np.array([5, 3, 0]),
    confusion=np.array([[4, 1, 0], [1, 2, 0], [0, 0, 0]]),
    cross_entropy=2.5,
    cross_entropy_pixels=8,
    overlap_equal=9,
    overlap_pixels=10,
)
CASES = {
    "truth": WITH_TRUTH,
    "no truth": Counts(np.array([5, 3, 0]), no_prediction=4),
    "truth everywhere ignored": Counts(np.array([5, 3]), confusion=np.zeros((2, 2), np.int64), cross_entropy=0.0),
    "nothing predicted": Counts(np.zeros(3, np.int64), no_prediction=8),
    "one class": Counts(np.array([8]), confusion=np.array([[8]])),
    "past 2**53": Counts(np.array([2**61, 1]), confusion=np.array([[2**61, 0], [0, 1]])),
}
OBJECTS = {
    "no objects counted": None,
    "no class": {},
    "no truth": {1: ObjectCounts(predicted=2, sizes_predicted=(2,))},
    "no object": {1: ObjectCounts(matches=ObjectMatches())},
    "truth": {1: ObjectCounts(2, (0, 2), ObjectMatches(1, 2, (1, *[0] * 9), 1, 0.52, 2, 4, 2, 6, 1.5, 1.5, 2, 4, 0, 0, (0, 1)))},
}


@pytest.mark.parametrize("objects", OBJECTS)
@pytest.mark.parametrize("case", CASES)
def test_fields_are_plain_json(metric, case, objects):
    """Whatever was counted, the fields are JSON without NaN, and there is one row a class."""
    found = metric.compute(CASES[case], OBJECTS[objects])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert len(found.get("classes", CASES[case].predicted)) == len(CASES[case].predicted)


def test_fields_do_not_depend_on_the_counts(metric):
    """A report has the same fields with and without truth: what is undefined is None, not missing."""
    shapes = []
    for counts in CASES.values():
        found = metric.compute(counts)
        shapes.append((list(found), [list(one) for one in found.get("classes", [])][:1]))
    assert all(shape == shapes[0] for shape in shapes)


def test_a_metric_is_a_pure_value(metric):
    """The same counts give the same fields, before and after the way to another process, and stay as they are."""
    before = pickle.dumps(WITH_TRUTH)
    first = metric.compute(WITH_TRUTH)
    assert pickle.loads(pickle.dumps(metric)).compute(WITH_TRUTH) == first == metric.compute(WITH_TRUTH)
    assert pickle.dumps(WITH_TRUTH) == before
    with pytest.raises(ValueError, match="frozen"):
        metric.anything = 1
