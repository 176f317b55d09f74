"""Minimum cuts of a grid of pixels: alpha-expansion, of which two classes are the exact special case.

The move of Boykov, Veksler and Zabih 2001, doi:10.1109/34.969114, on the graph of Kolmogorov and Zabih 2004,
doi:10.1109/TPAMI.2004.1262177; the flow is scipy's. Energies are whole numbers, so that sums do not depend on their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Energy", "minimise", "steps"]

_Integers = NDArray[np.int64]
_ALL, _BUT_FIRST, _BUT_LAST = slice(None), slice(1, None), slice(None, -1)
# Pixels that have a neighbour to the right, below, below to the right, below to the left; and those neighbours.
_FIRST = ((_ALL, _BUT_LAST), (_BUT_LAST, _ALL), (_BUT_LAST, _BUT_LAST), (_BUT_LAST, _BUT_FIRST))
_SECOND = ((_ALL, _BUT_FIRST), (_BUT_FIRST, _ALL), (_BUT_FIRST, _BUT_FIRST), (_BUT_FIRST, _BUT_LAST))


@dataclass(frozen=True)
class Energy:
    """What a labelling costs: each pixel its class, and each pair of unlike neighbours its weight.

    Attributes:
        unary_KYX: cost of each class at each pixel, whole numbers.
        weights: cost of unlike classes, at least 0, whole numbers: of neighbours in a row (Y, X - 1), in a column (Y - 1, X), on a
            falling and on a rising diagonal (Y - 1, X - 1).
    """

    unary_KYX: _Integers
    weights: tuple[_Integers, _Integers, _Integers, _Integers]

    def of(self, labels_YX: NDArray[Any]) -> int:
        """Return the energy of a labelling."""
        total = int(np.take_along_axis(self.unary_KYX, labels_YX[None].astype(np.intp), axis=0).sum())
        for weights, first, second in zip(self.weights, _FIRST, _SECOND, strict=True):
            total += int(weights[labels_YX[first] != labels_YX[second]].sum())
        return total


def steps(values_CYX: NDArray[Any]) -> Iterator[tuple[NDArray[Any], float]]:
    """Give, for each of the four kinds of neighbours, how much values change from the first to the second, and how far apart they are.

    Example:
        >>> [(step_CYX.ravel().tolist(), round(apart, 2)) for step_CYX, apart in steps(np.array([[[1, 2], [4, 8]]]))]
        [([1, 4], 1.0), ([3, 6], 1.0), ([7], 1.41), ([2], 1.41)]
    """
    for first, second, apart in zip(_FIRST, _SECOND, (1.0, 1.0, 2**0.5, 2**0.5), strict=True):
        yield values_CYX[:, *second] - values_CYX[:, *first], apart


def minimise(energy: Energy, sweeps: int) -> NDArray[np.uint8]:
    """Find classes (Y, X) of low energy: the lowest there is of two classes, at most twice the lowest of more.

    Args:
        energy: of the tile.
        sweeps: how often every class may expand at most; it ends as soon as none of them lowers the energy.
    """
    classes = len(energy.unary_KYX)
    if classes == 2:  # a move of class 1 over class 0 everywhere chooses among all labellings
        return _expand(energy, np.zeros(energy.unary_KYX.shape[1:], np.uint8), 1)
    labels_YX: NDArray[np.uint8] = energy.unary_KYX.argmin(axis=0).astype(np.uint8)
    least, unchanged = energy.of(labels_YX), 0
    for step in range(sweeps * classes):
        moved_YX = _expand(energy, labels_YX, step % classes)
        now = energy.of(moved_YX)
        unchanged = 0 if now < least else unchanged + 1
        if now < least:
            labels_YX, least = moved_YX, now
        if unchanged >= classes:
            break
    return labels_YX


def _expand(energy: Energy, labels_YX: NDArray[np.uint8], alpha: int) -> NDArray[np.uint8]:
    """Let every pixel keep its class or take ``alpha``, whichever is cheapest together: the best of 2**pixels labellings."""
    kept_YX: _Integers = np.take_along_axis(energy.unary_KYX, labels_YX[None].astype(np.intp), axis=0)[0]
    pairs = []
    for weights, first, second in zip(energy.weights, _FIRST, _SECOND, strict=True):
        one, other = labels_YX[first], labels_YX[second]
        pairs.append(_Pairs(weights * (one != other), weights * (one != alpha), weights * (other != alpha)))
    moved_YX = labels_YX.copy()
    moved_YX[_cut(energy.unary_KYX[alpha] - kept_YX, pairs) == 1] = alpha
    return moved_YX


@dataclass(frozen=True)
class _Pairs:
    """Cost of two neighbours where both keep their class, only the second takes alpha, only the first; 0 where both take it."""

    none: _Integers
    second: _Integers
    first: _Integers


def _cut(gain_YX: _Integers, pairs: Sequence[_Pairs]) -> NDArray[np.int8]:
    """Choose 0 or 1 for each pixel at the least cost: ``gain_YX`` for a 1, and the pairs'; of equal choices the one of fewest ones.

    Most pixels are decided whatever their neighbours choose, and decide others in turn; only the rest goes to the flow.
    """
    choice_YX = np.full(gain_YX.shape, -1, np.int8)
    while True:
        low_YX, high_YX = gain_YX.copy(), gain_YX.copy()  # cost of a 1 over a 0, at the neighbours' kindest and at their worst
        for pair, first, second in zip(pairs, _FIRST, _SECOND, strict=True):
            for here, there, alone in ((first, second, pair.first), (second, first, pair.second)):
                beside, other = choice_YX[there], pair.second if alone is pair.first else pair.first
                low_YX[here] += np.where(beside == 0, alone - pair.none, -other)
                high_YX[here] += np.where(beside == 1, -other, alone - pair.none)
        free_YX = choice_YX < 0
        choice_YX[free_YX & (low_YX >= 0)] = 0
        choice_YX[free_YX & (high_YX < 0)] = 1
        left_YX = choice_YX < 0
        if not left_YX.any():
            return choice_YX
        if left_YX.sum() > 0.99 * free_YX.sum():
            choice_YX[left_YX] = _flow(_settled(gain_YX, pairs, choice_YX), pairs, left_YX)
            return choice_YX


def _settled(gain_YX: _Integers, pairs: Sequence[_Pairs], choice_YX: NDArray[np.int8]) -> _Integers:
    """Cost of a 1 over a 0, with what decided neighbours add and with the part of open pairs that is each pixel's own."""
    total_YX = gain_YX.copy()
    for pair, first, second in zip(pairs, _FIRST, _SECOND, strict=True):
        # An open pair costs none + (first - none) x_p - first x_q + (second + first - none) (1 - x_p) x_q.
        beside = choice_YX[second]
        total_YX[first] += np.where(beside == 1, -pair.second, pair.first - pair.none)
        beside = choice_YX[first]
        total_YX[second] += np.where(beside == 0, pair.second - pair.none, -pair.first)
    return total_YX


def _flow(gain_YX: _Integers, pairs: Sequence[_Pairs], open_YX: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Choose for the open pixels, in reading order, by the minimum cut between them."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    count = int(open_YX.sum())
    node_YX = np.cumsum(open_YX.ravel(), dtype=np.int32).reshape(open_YX.shape) - 1
    gain, nodes = gain_YX[open_YX], np.arange(count, dtype=np.int32)
    source, sink = count, count + 1
    tails, heads = [np.full(count, source, np.int32), nodes], [nodes, np.full(count, sink, np.int32)]
    costs = [np.maximum(gain, 0), np.maximum(-gain, 0)]
    for pair, first, second in zip(pairs, _FIRST, _SECOND, strict=True):
        both = open_YX[first] & open_YX[second]
        tails.append(node_YX[first][both])
        heads.append(node_YX[second][both])
        costs.append((pair.second + pair.first - pair.none)[both])
    tail, head, cost = np.concatenate(tails), np.concatenate(heads), np.concatenate(costs).astype(np.int32)
    real = cost > 0
    graph = csr_array((cost[real], (tail[real], head[real])), shape=(count + 2, count + 2))
    rest = graph - maximum_flow(graph, source, sink).flow
    rest.eliminate_zeros()
    takes = np.zeros(count + 2, np.int8)
    takes[breadth_first_order(rest.T.tocsr(), sink, return_predecessors=False)] = 1  # of equal cuts the one of fewest ones
    return takes[:count]
