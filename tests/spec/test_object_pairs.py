"""Pixels of pairs of ids: exact counts that add, and which of them a block can count alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.statistics import ObjectCounts, count_objects, pair_ids, repeated_ids, rows_of_whole_objects, sum_pairs

SIDES = hnp.arrays(np.int64, st.tuples(st.just(3), st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4))
"""Predicted ids, truth ids, and pixels, which count where above 0."""


def by_force(predicted_YX, truth_YX, counted_YX):
    pairs = zip(predicted_YX[counted_YX].tolist(), truth_YX[counted_YX].tolist(), strict=True)
    found = {}
    for pair in pairs:
        found[pair] = found.get(pair, 0) + 1
    found.pop((0, 0), None)
    return [[*pair, pixels] for pair, pixels in sorted(found.items())]


def blocks_of(sides, block):
    for y in range(0, sides.shape[1], block):
        for x in range(0, sides.shape[2], block):
            yield sides[:, y : y + block, x : x + block]


def pairs_of(sides):
    return pair_ids(sides[0], sides[1], sides[2] > 0)


def counts_of(pairs_N3):
    """Every object is of class 1, and the odd ones are of class 3."""
    ids = [np.unique(column[column > 0]) for column in pairs_N3[:, :2].T]
    return count_objects(pairs_N3, *((one, 1 + 2 * (one % 2)) for one in ids))


@settings(deadline=None)
@given(SIDES)
def test_pairs_are_counted_pixel_by_pixel(sides):
    """Rows are those of a loop over pixels, sorted, for any types of ids."""
    expected = by_force(sides[0], sides[1], sides[2] > 0)
    assert pairs_of(sides).tolist() == expected
    assert pair_ids(sides[0].astype(np.uint8), sides[1].astype(np.uint64), sides[2] > 0).tolist() == expected


@settings(deadline=None)
@given(SIDES, st.integers(1, 5))
def test_pairs_add_over_blocks(sides, block):
    """The sum over any cut is the count of the whole."""
    assert sum_pairs([pairs_of(part) for part in blocks_of(sides, block)]).tolist() == pairs_of(sides).tolist()


@settings(deadline=None, max_examples=300)
@given(SIDES, st.integers(1, 5))
def test_whole_objects_are_counted_by_their_block(sides, block):
    """What blocks count alone, and what is left of all blocks together, add up to the counts of the whole."""
    parts = [pairs_of(part) for part in blocks_of(sides, block)]
    shared = [repeated_ids([np.unique(part[part[:, side] > 0, side]) for part in parts]) for side in (0, 1)]
    rows = [rows_of_whole_objects(part, *shared) for part in parts]
    total = {}
    left = sum_pairs([part[~whole] for part, whole in zip(parts, rows, strict=True)])
    for part in [*(part[whole] for part, whole in zip(parts, rows, strict=True)), left]:
        for class_id, counts in counts_of(part).items():
            total[class_id] = total.get(class_id, ObjectCounts()) + counts
    assert total == counts_of(pairs_of(sides))


def test_only_what_crosses_a_seam_waits():
    """An object in one block that touches one of two blocks waits with it; all others are counted at once."""
    pairs_N3 = np.array([[1, 7, 3], [2, 7, 1], [2, 0, 5], [3, 8, 2], [0, 9, 4]])
    whole = rows_of_whole_objects(pairs_N3, np.array([2]), np.array([9]))
    assert whole.tolist() == [False, False, False, True, False]
    assert rows_of_whole_objects(pairs_N3[:0], np.array([2]), np.array([9])).tolist() == []
