"""Pixels of each pair of a predicted and a truth object: sparse counts that add over blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["pair_ids", "repeated_ids", "rows_of_whole_objects", "sum_pairs"]


def pair_ids(predicted_YX: NDArray[Any], truth_YX: NDArray[Any], counted_YX: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the pixels of each pair of ids, as sorted rows (predicted id, truth id, pixels); id 0 = no object; (0, 0) is left out.

    Args:
        predicted_YX: ids, any integer type.
        truth_YX: ids of the same shape.
        counted_YX: pixels that count.

    Example:
        >>> pair_ids(np.array([[1, 1, 0]]), np.array([[7, 0, 0]]), np.ones((1, 3), bool)).tolist()
        [[1, 0, 1], [1, 7, 1]]
    """
    predicted_N, truth_N = predicted_YX.ravel(), truth_YX.ravel()
    counted_N = counted_YX.ravel() & ((predicted_N != 0) | (truth_N != 0))
    # Neighbouring pixels are mostly of one pair: such a run is one row to sort.
    changes_N = np.ones(len(counted_N), np.bool_)
    changes_N[1:] = (predicted_N[1:] != predicted_N[:-1]) | (truth_N[1:] != truth_N[:-1]) | (counted_N[1:] != counted_N[:-1])
    starts = np.flatnonzero(changes_N)
    pixels = np.diff(np.append(starts, len(counted_N)))
    kept = counted_N[starts]
    starts, pixels = starts[kept], pixels[kept]
    return sum_pairs([np.stack([predicted_N[starts].astype(np.int64), truth_N[starts].astype(np.int64), pixels], axis=1)])


def sum_pairs(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Add up the rows of several blocks; return each pair once, sorted."""
    rows_N3 = np.concatenate([np.zeros((0, 3), np.int64), *parts])
    rows_N3 = rows_N3[np.lexsort((rows_N3[:, 1], rows_N3[:, 0]))]
    if not len(rows_N3):
        return rows_N3
    starts = np.flatnonzero(np.append(True, (np.diff(rows_N3[:, :2], axis=0) != 0).any(axis=1)))
    return np.column_stack([rows_N3[starts, :2], np.add.reduceat(rows_N3[:, 2], starts)])


def repeated_ids(of_blocks: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the sorted ids that lie in several blocks; each block lists an id once."""
    ids_N, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *of_blocks]), return_counts=True)
    return ids_N[counts > 1]


def rows_of_whole_objects(pairs_N3: NDArray[np.int64], predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Find the rows of a block that can be counted at once: their objects, and all that overlap these, lie in no other block.

    Args:
        pairs_N3: rows (predicted id, truth id, pixels).
        predicted: predicted ids that lie in other blocks as well.
        truth: truth ids that lie in other blocks as well.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs_N3):
        return np.zeros(0, np.bool_)
    guesses, guess_N = np.unique(pairs_N3[:, 0], return_inverse=True)
    reals, real_N = np.unique(pairs_N3[:, 1], return_inverse=True)
    count = len(guesses) + len(reals)
    real_N = real_N + len(guesses)
    both_N = (pairs_N3[:, 0] != 0) & (pairs_N3[:, 1] != 0)
    graph = coo_array((np.ones(int(both_N.sum()), np.int8), (guess_N[both_N], real_N[both_N])), shape=(count, count))
    group_of = connected_components(graph, directed=False)[1]
    is_shared = np.concatenate([np.isin(guesses, predicted), np.isin(reals, truth)])
    has_shared = np.bincount(group_of, weights=is_shared) > 0
    row_group = group_of[np.where(pairs_N3[:, 0] != 0, guess_N, real_N)]
    kept: NDArray[np.bool_] = ~has_shared[row_group]
    return kept
