"""Joining labels of two regions: by shared pixels, by agreement, into sets, and without joining two objects of one block."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.tiling import agreeing_labels, connected_sets, overlapping_labels, without_conflicts

LABELS = hnp.arrays(np.uint32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.integers(0, 4))


@st.composite
def two_views(draw):
    """Labels of the same pixels by two regions, which mostly agree."""
    first_YX = draw(LABELS)
    second_YX = np.where(draw(hnp.arrays(bool, first_YX.shape)), first_YX, draw(st.integers(0, 4)))
    return first_YX, second_YX.astype(np.uint32)


def iou_of(first_YX, second_YX, one, other):
    mine, theirs = first_YX == one, second_YX == other
    return (mine & theirs).sum() / (mine | theirs).sum()


def pairs_that_meet(first_YX, second_YX):
    return {(int(a), int(b)) for a, b in zip(first_YX.ravel(), second_YX.ravel(), strict=True) if a and b}


@given(two_views())
def test_overlapping_labels_are_all_that_meet(views):
    """Every pair of labels that has a pixel in common, once, sorted; the agreement says nothing."""
    pairs_N2, agreement_N = overlapping_labels(*views)
    assert [tuple(pair) for pair in pairs_N2.tolist()] == sorted(pairs_that_meet(*views))
    assert agreement_N.tolist() == [1.0] * len(pairs_N2)


@given(two_views())
def test_agreeing_labels_take_the_best_partner_that_is_free(views):
    """By hand: the pairs in the order of their IoU, each label once, and none below 0.2."""
    ranked = sorted(pairs_that_meet(*views), key=lambda pair: (-iou_of(*views, *pair), pair))
    wanted, taken = [], set()
    for one, other in ranked:
        if iou_of(*views, one, other) >= 0.2 and not taken & {("first", one), ("second", other)}:
            taken |= {("first", one), ("second", other)}
            wanted.append((one, other))
    pairs_N2, iou_N = agreeing_labels(*views)
    assert [tuple(pair) for pair in pairs_N2.tolist()] == wanted
    assert iou_N.tolist() == [iou_of(*views, *pair) for pair in wanted]


@given(two_views())
def test_who_asks_does_not_matter(views):
    """Both neighbours find the same pairs, up to ties."""
    iou_N, other_N = agreeing_labels(*views)[1], agreeing_labels(*views[::-1])[1]
    if len(set(iou_N.tolist()) | set(other_N.tolist())) == len(iou_N) == len(other_N):
        assert np.array_equal(agreeing_labels(*views)[0], agreeing_labels(*views[::-1])[0][:, ::-1])


def test_objects_that_touch_share_nothing():
    """Two objects side by side, which both regions see, are two pairs and not one."""
    view_YX = np.repeat([[1, 1, 1, 2, 2, 2]], 3, axis=0)
    assert agreeing_labels(view_YX, view_YX + 4)[0].tolist() == [[1, 5], [2, 6]]
    assert agreeing_labels(view_YX, np.roll(view_YX, 1, axis=1))[0].tolist() == [[1, 1], [2, 2]]


def test_a_sliver_takes_nobody():
    """Agreement below 0.2 joins nothing, and the next best partner is found where the best one is taken."""
    view_YX = np.array([[1] * 10])
    assert agreeing_labels(view_YX, np.array([[3] + [0] * 9]))[0].tolist() == []
    assert agreeing_labels(view_YX, np.array([[3] * 2 + [0] * 8]))[0].tolist() == [[1, 3]]
    first_YX, second_YX = np.array([[1, 1, 1, 1, 1, 1, 2, 2]]), np.array([[5, 5, 5, 5, 5, 5, 5, 6]])
    assert agreeing_labels(first_YX, second_YX)[0].tolist() == [[1, 5], [2, 6]]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(31, 60)), max_size=30))
def test_sets_are_what_pairs_connect(pairs):
    """By hand: sets that grow until no pair connects two of them."""
    sets = [{one} for one in {member for pair in pairs for member in pair}]
    for one, other in pairs:
        joined = [found for found in sets if {one, other} & found]
        sets = [found for found in sets if found not in joined] + [set().union(*joined)]
    members, numbers = connected_sets(np.array(pairs, np.int64).reshape(-1, 2))
    assert members.tolist() == sorted(member for found in sets for member in found)
    found = {number: set(members[numbers == number].tolist()) for number in np.unique(numbers).tolist()}
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, sets))
    assert sorted(found) == list(range(len(sets)))


@st.composite
def matches(draw):
    """Labels of blocks, some of them whole, and pairs of labels of two blocks with their agreement."""
    count = draw(st.integers(2, 14))
    block_of = np.array(draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)), np.int64)
    is_whole = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    every = [(one, other) for one in range(count) for other in range(one + 1, count) if block_of[one] != block_of[other]]
    pairs = draw(st.lists(st.sampled_from(every), unique=True, max_size=20)) if every else []
    agreement = [draw(st.sampled_from([0.2, 0.5, 0.75, 1.0])) for _ in pairs]
    return np.array(pairs, np.int64).reshape(-1, 2), np.array(agreement), block_of, is_whole


def conflicts(pairs_N2, block_of, is_whole):
    """Pairs of labels of one block in one set of which one is whole."""
    members, sets = connected_sets(pairs_N2)
    return [
        (one, other)
        for at, one in enumerate(members.tolist())
        for by, other in enumerate(members.tolist())
        if at < by and sets[at] == sets[by] and block_of[one] == block_of[other] and (is_whole[one] or is_whole[other])
    ]


@settings(max_examples=200)
@given(matches(), st.randoms())
def test_no_block_is_contradicted(found, random):
    """No set has two labels that their block tells apart; each pair that is left out would make one; the order of pairs means nothing."""
    pairs_N2, agreement_N, block_of, is_whole = found
    keep_N = without_conflicts(pairs_N2, agreement_N, block_of, is_whole)
    assert not conflicts(pairs_N2[keep_N], block_of, is_whole)
    for left_out in np.flatnonzero(~keep_N):
        with_it = keep_N.copy()
        with_it[left_out] = True
        assert conflicts(pairs_N2[with_it], block_of, is_whole)
    order = list(range(len(pairs_N2)))
    random.shuffle(order)
    assert np.array_equal(without_conflicts(pairs_N2[order], agreement_N[order], block_of, is_whole), keep_N[order])


def test_the_worst_pair_gives_way():
    """Two whole cells of one block, joined by a chain through its neighbours, come apart where the regions agree least."""
    pairs_N2, agreement_N = np.array([[0, 2], [2, 3], [1, 3]]), np.array([0.9, 0.4, 0.8])
    block_of = np.array([0, 0, 1, 2])
    both_whole, none = np.array([True, True, False, False]), np.zeros(4, np.bool_)
    assert without_conflicts(pairs_N2, agreement_N, block_of, both_whole).tolist() == [True, False, True]
    assert without_conflicts(pairs_N2, agreement_N, block_of, none).all()  # one object that leaves the region and comes back
