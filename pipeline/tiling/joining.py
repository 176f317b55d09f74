"""Joining labels: which labels of two overlapping regions are one object, and which labels of all regions of an image.

Labels are compared in the pixels that both regions see, and nowhere else: both regions see two objects that touch on the border
between their blocks, and see them as two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["agreeing_labels", "connected_sets", "overlapping_labels", "without_conflicts"]

LEAST_IOU = 0.2  # two views of one object may differ, as each region sees other surroundings; two objects hardly share a pixel


def shared_pixels(first_YX: NDArray[Any], second_YX: NDArray[Any]) -> NDArray[np.int64]:
    """Count the pixels that two labels share: rows (label of the first, of the second, pixels), sorted; label 0 is no object.

    Example:
        >>> shared_pixels(np.array([[1, 1, 0, 2]]), np.array([[5, 5, 5, 0]])).tolist()
        [[1, 5, 2]]
    """
    both_N = np.flatnonzero((first_YX != 0).ravel() & (second_YX != 0).ravel())
    if not both_N.size:
        return np.zeros((0, 3), np.int64)
    first_N, second_N = first_YX.ravel()[both_N].astype(np.int64), second_YX.ravel()[both_N].astype(np.int64)
    codes, pixels = np.unique(first_N << 32 | second_N, return_counts=True)
    return np.stack([codes >> 32, codes & 0xFFFFFFFF, pixels], axis=1)


def overlapping_labels(first_YX: NDArray[Any], second_YX: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return all pairs of labels (N, 2) that share a pixel, and 1 as the agreement of each."""
    shared_N3 = shared_pixels(first_YX, second_YX)
    return shared_N3[:, :2], np.ones(len(shared_N3))


def agreeing_labels(first_YX: NDArray[Any], second_YX: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return pairs of labels (N, 2) that cover the same pixels, each label once, and their IoU over the shared pixels.

    The best pair is taken first; a label whose partner is taken gets the next best one, down to an IoU of 0.2.
    """
    shared_N3 = shared_pixels(first_YX, second_YX)
    areas = [np.bincount(labels_YX.ravel()) for labels_YX in (first_YX, second_YX)]
    iou_N = shared_N3[:, 2] / (areas[0][shared_N3[:, 0]] + areas[1][shared_N3[:, 1]] - shared_N3[:, 2])
    order = np.lexsort((shared_N3[:, 1], shared_N3[:, 0], -iou_N))
    taken: tuple[set[int], set[int]] = set(), set()
    kept = []
    for index in order[iou_N[order] >= LEAST_IOU].tolist():
        first, second = int(shared_N3[index, 0]), int(shared_N3[index, 1])
        if first not in taken[0] and second not in taken[1]:
            taken[0].add(first)
            taken[1].add(second)
            kept.append(index)
    return shared_N3[kept, :2], iou_N[kept]


def connected_sets(pairs_N2: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Join pairs into sets: return the sorted members of all pairs, and for each the number of its set, from 0.

    Example:
        >>> connected_sets(np.array([[7, 9], [2, 3], [9, 11]]))
        (array([ 2,  3,  7,  9, 11]), array([0, 0, 1, 1, 1]))
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs_N2):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    members_N, ends = np.unique(pairs_N2, return_inverse=True)
    ends = ends.reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(len(members_N),) * 2)
    return members_N, connected_components(graph, directed=False)[1].astype(np.int64)


def without_conflicts(
    pairs_N2: NDArray[np.int64], agreement_N: NDArray[np.float64], block_of: NDArray[np.int64], is_whole: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Find the pairs to keep, so that no two objects of one block are joined.

    Two labels of one block are two objects if at least one is whole. Otherwise they may be one: an object that leaves a region and
    comes back has two labels there. A set with such a conflict is joined anew, pair by pair, the best agreement first.

    Args:
        pairs_N2: positions of two labels in ``block_of`` and ``is_whole``.
        agreement_N: of each pair.
        block_of: block of each label.
        is_whole: whether the label's region holds the whole object.

    Returns:
        For each pair, whether it stays.
    """
    keep_N = np.ones(len(pairs_N2), np.bool_)
    if not len(pairs_N2):
        return keep_N
    members_N, set_of = connected_sets(pairs_N2)
    set_of_pair = set_of[np.searchsorted(members_N, pairs_N2[:, 0])]
    by_set = np.argsort(set_of_pair, kind="stable")
    for conflict in _conflicts(set_of, block_of[members_N], is_whole[members_N]):
        first, stop = np.searchsorted(set_of_pair, [conflict, conflict + 1], sorter=by_set)
        chosen = by_set[first:stop]
        sets = _Sets(block_of, is_whole)
        for index in chosen[np.lexsort((pairs_N2[chosen, 1], pairs_N2[chosen, 0], -agreement_N[chosen]))].tolist():
            keep_N[index] = sets.join(*pairs_N2[index].tolist())
    return keep_N


def _conflicts(set_of: NDArray[np.int64], block_of: NDArray[np.int64], is_whole: NDArray[np.bool_]) -> Iterator[int]:
    """Yield the sets that hold two labels of one block, at least one of them whole."""
    order = np.lexsort((block_of, set_of))
    sets, blocks = set_of[order], block_of[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(sets) != 0) | (np.diff(blocks) != 0)])
    labels, whole = np.diff(np.r_[starts, len(order)]), np.add.reduceat(is_whole[order].astype(np.int64), starts)
    yield from np.unique(sets[starts][(labels > 1) & (whole > 0)]).tolist()


class _Sets:
    """Disjoint sets of labels, each with the blocks of its labels, and whether its label in a block is whole."""

    def __init__(self, block_of: NDArray[np.int64], is_whole: NDArray[np.bool_]) -> None:
        self.block_of, self.is_whole = block_of, is_whole
        self.parents: dict[int, int] = {}
        self.blocks: dict[int, dict[int, bool]] = {}

    def find(self, label: int) -> int:
        """Return the representative of a label's set."""
        if label not in self.parents:
            self.parents[label] = label
            self.blocks[label] = {int(self.block_of[label]): bool(self.is_whole[label])}
        while self.parents[label] != label:
            self.parents[label] = self.parents[self.parents[label]]
            label = self.parents[label]
        return label

    def join(self, first: int, second: int) -> bool:
        """Join the sets of two labels, unless that joins two objects of one block; return whether they are one set now."""
        first, second = self.find(first), self.find(second)
        if first == second:
            return True
        mine, other = self.blocks[first], self.blocks[second]
        if any(mine[block] or other[block] for block in mine.keys() & other.keys()):
            return False
        self.parents[second] = first
        mine.update(self.blocks.pop(second))
        return True
