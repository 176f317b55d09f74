"""Counts of objects: additive over images, independent of ids, order and cut, small, and refused where the lists are wrong."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.statistics import ObjectCounts, ObjectMatches, count_objects

NOTHING, ONES = np.zeros(0, np.int64), np.ones(60, np.int64)
IMAGES = st.integers(1, 8).flatmap(lambda side: hnp.arrays(np.int64, (2, side, 6), elements=st.integers(0, 5)))


def pairs_of(sides):
    """Rows (predicted id, truth id, pixels) of a predicted and a truth label image."""
    pairs, pixels = np.unique(sides.reshape(2, -1), axis=1, return_counts=True)
    return np.column_stack([pairs.T, pixels])


def counted(sides, classes=ONES):
    """Counts by class, where the class of an object follows from its label."""
    ids = [np.unique(side[side > 0]) for side in sides]
    return count_objects(pairs_of(sides), *((one, classes[one]) for one in ids))


def total(counts):
    return sum(counts, start=ObjectCounts(matches=ObjectMatches()))


@settings(deadline=None)
@given(st.lists(IMAGES, max_size=4))
def test_images_add_up(images):
    """The sum over images is what their objects give side by side in one image, and its order does not matter."""
    counts = [counted(sides).get(1, ObjectCounts(matches=ObjectMatches())) for sides in images]
    apart = [np.where(sides > 0, sides + 10 * place, 0).reshape(2, 1, -1) for place, sides in enumerate(images)]
    joined = np.concatenate(apart, axis=2) if apart else np.zeros((2, 1, 1), np.int64)
    whole = counted(joined).get(1, ObjectCounts(matches=ObjectMatches()))
    assert total(counts) == total(reversed(counts)) == whole


@settings(deadline=None)
@given(IMAGES, st.permutations(range(1, 6)), st.integers(0, 2**32 - 1))
def test_ids_and_the_order_of_rows_mean_nothing(sides, places, seed):
    """Rows in any order count alike to the last bit, and so do other ids, but for partners that score the same."""
    pairs_N3 = pairs_of(sides)
    ids = [np.unique(side[side > 0]) for side in sides]
    objects = [(one, np.ones(len(one), np.int64)) for one in ids]
    counts = count_objects(pairs_N3, *objects)
    assert count_objects(np.random.default_rng(seed).permutation(pairs_N3), *objects) == counts
    other = np.append(0, np.array(places) * 2**40)
    renamed_N3 = np.column_stack([other[pairs_N3[:, 0]], other[pairs_N3[:, 1]], pairs_N3[:, 2]])
    renamed = count_objects(renamed_N3, *((np.sort(other[one]), np.ones(len(one), np.int64)) for one in ids))
    assert renamed.keys() == counts.keys()
    for class_id, found in counts.items():
        first, second = found.matches, renamed[class_id].matches
        for name in ("matched", "above_half", "iou", "shared", "shared_areas", "best_shared", "splits", "merges", "sizes_truth"):
            assert getattr(first, name) == getattr(second, name), name


@settings(deadline=None)
@given(IMAGES, hnp.arrays(np.int64, 6, elements=st.integers(1, 3)))
def test_classes_never_match(sides, classes):
    """Each class is counted as if the objects of the others were background."""
    counts = counted(sides, classes)
    for class_id in range(1, 4):
        alone = counted(np.where(classes[sides] == class_id, sides, 0)).get(1)
        assert counts.get(class_id) == alone


def test_an_object_of_another_class_is_no_match():
    """The same object under another class is missed there and false here."""
    counts = count_objects(np.array([[1, 1, 9]]), (np.array([1]), np.array([1])), (np.array([1]), np.array([2])))
    assert [counts[1].matches.predicted, counts[1].matches.truth, counts[1].matches.matched[0]] == [1, 0, 0]
    assert [counts[2].matches.predicted, counts[2].matches.truth, counts[2].matches.matched[0]] == [0, 1, 0]


def test_without_truth_only_predictions_are_counted():
    """No truth is not a truth without objects, and adds nothing to the truth of other images."""
    pairs_N3, predicted = np.array([[0, 0, 5], [3, 0, 4], [4, 0, 1]]), (np.array([3, 4]), np.array([1, 1]))
    without = count_objects(pairs_N3, predicted, None)[1]
    assert without == ObjectCounts(predicted=2, sizes_predicted=(1, 0, 1))
    empty = count_objects(pairs_N3, predicted, (NOTHING, NOTHING))[1]
    assert empty.matches == ObjectMatches(truth=0, predicted=2, best_union=5, predicted_pixels=5)
    assert (without + empty).predicted == 4
    assert (without + empty).matches == (empty + without).matches == empty.matches


def test_nothing_at_all():
    """Without objects there are no classes."""
    assert count_objects(np.array([[0, 0, 16]]), (NOTHING, NOTHING), (NOTHING, NOTHING)) == {}
    assert count_objects(np.zeros((0, 3), np.int64), (NOTHING, NOTHING), None) == {}


def test_everything_is_one_object():
    """One predicted object over 16 truth objects: 15 merges, and one object of the largest size."""
    sides = np.stack([np.ones((4, 4), np.int64), np.arange(1, 17).reshape(4, 4)])
    found = counted(sides)[1]
    assert (found.matches.merges, found.matches.splits, found.matches.matched[0]) == (15, 0, 0)
    assert (found.sizes_predicted, found.matches.sizes_truth) == ((0, 0, 0, 0, 1), (16,))
    mirrored = counted(sides[::-1])[1]
    assert (mirrored.matches.merges, mirrored.matches.splits) == (0, 15)


@pytest.mark.parametrize("area", [1, 2, 3, 4, 7, 8, 2**31 - 1, 2**31, 2**52 - 1, 2**52])
def test_sizes_are_octaves(area):
    """An object of 2**n to 2**(n+1) - 1 pixels is in place n."""
    one = (np.array([1]), np.array([1]))
    sizes = count_objects(np.array([[1, 0, area]]), one, None)[1].sizes_predicted
    assert sizes == (0,) * (area.bit_length() - 1) + (1,)


def test_two_halves_are_one_match():
    """An object and its two halves: each has an IoU of 0.5, and one of them matches; panoptic quality counts neither."""
    matches = counted(np.array([[[1, 1, 2, 2]], [[3, 3, 3, 3]]]))[1].matches
    assert (matches.matched, matches.above_half, matches.splits) == ((1, *[0] * 9), 0, 1)
    mirrored = counted(np.array([[[3, 3, 3, 3]], [[1, 1, 2, 2]]]))[1].matches
    assert (mirrored.matched, mirrored.above_half, mirrored.merges) == ((1, *[0] * 9), 0, 1)


@settings(deadline=None)
@given(IMAGES, st.booleans())
def test_counts_travel(sides, truth):
    """Counts come back from JSON and from another process as they were."""
    for found in counted(sides).values():
        sent = found if truth else replace(found, matches=None)
        assert ObjectCounts.from_json(json.loads(json.dumps(sent.to_json(), allow_nan=False))) == sent
        assert pickle.loads(pickle.dumps(sent)) == sent


def test_a_row_of_the_ledger_stays_small():
    """The counts of 200,000 objects of all sizes take less than 2 kB of JSON."""
    rng = np.random.default_rng(0)
    ids = np.arange(1, 200_001)
    own, shared = 2 ** rng.integers(0, 40, (2, len(ids)))
    pairs_N3 = np.concatenate([np.column_stack([ids, ids, shared]), np.column_stack([ids, 0 * ids, own])])
    found = count_objects(pairs_N3, (ids, np.ones_like(ids)), (ids, np.ones_like(ids)))[1]
    assert len(json.dumps(found.to_json())) < 2000


def test_sums_of_floats_do_not_depend_on_the_order_of_rows():
    """The IoU and Dice of 5,000 objects add up to the same last bit in any order."""
    rng = np.random.default_rng(0)
    ids = np.arange(1, 5_001)
    pairs_N3 = np.concatenate([np.column_stack([ids, ids, rng.integers(50, 99, 5_000)]), np.column_stack([ids, 0 * ids, 1 + ids % 7])])
    objects = (ids, np.ones_like(ids))
    counts = count_objects(pairs_N3, objects, objects)
    for _ in range(3):
        assert count_objects(rng.permutation(pairs_N3), objects, objects) == counts


def test_ids_that_are_not_listed_are_refused():
    """An id in the pairs that no list has is named, on either side."""
    one, two = (np.array([1]), np.array([1])), np.array([[1, 2, 5]])
    with pytest.raises(ValueError, match="truth object 2 is in the pairs, but not in the list of 1 objects"):
        count_objects(two, one, one)
    with pytest.raises(ValueError, match="predicted object 1 is in the pairs, but not in the list of 0 objects"):
        count_objects(two, (NOTHING, NOTHING), one)


def test_objects_without_pixels_are_refused():
    """A listed object that no row has is named."""
    with pytest.raises(ValueError, match="predicted object 2 has no pixel"):
        count_objects(np.array([[1, 0, 5]]), (np.array([1, 2]), np.array([1, 1])), None)
