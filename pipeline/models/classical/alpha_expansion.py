"""Minimum cuts of a grid of pixels by alpha-expansion, which is exact for two classes.

The move is that of Boykov, Veksler and Zabih 2001, doi:10.1109/34.969114, on the graph of Kolmogorov and Zabih 2004,
doi:10.1109/TPAMI.2004.1262177; scipy computes the flow. Energies are integers, so that sums do not depend on their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Energy", "minimise", "neighbour_steps"]

_Integers = NDArray[np.int64]
_ALL, _BUT_FIRST, _BUT_LAST = slice(None), slice(1, None), slice(None, -1)
# Pixels that have a neighbour to the right, below, below right, below left; _SECOND selects those neighbours.
_FIRST = ((_ALL, _BUT_LAST), (_BUT_LAST, _ALL), (_BUT_LAST, _BUT_LAST), (_BUT_LAST, _BUT_FIRST))
_SECOND = ((_ALL, _BUT_FIRST), (_BUT_FIRST, _ALL), (_BUT_FIRST, _BUT_FIRST), (_BUT_FIRST, _BUT_LAST))


@dataclass(frozen=True)
class Energy:
    """The cost of a labelling: each pixel costs by its class, each pair of neighbours of different classes costs its weight.

    Attributes:
        unary_KYX: cost of each class at each pixel, integers.
        weights: cost of a pair of different classes, integers of at least 0: for neighbours in a row (Y, X - 1), in a
            column (Y - 1, X), on a falling and on a rising diagonal (Y - 1, X - 1).
    """

    unary_KYX: _Integers
    weights: tuple[_Integers, _Integers, _Integers, _Integers]

    def of(self, labels_YX: NDArray[Any]) -> int:
        """Add up the costs of a labelling (Y, X)."""
        total = int(np.take_along_axis(self.unary_KYX, labels_YX[None].astype(np.intp), axis=0).sum())
        for weights, first, second in zip(self.weights, _FIRST, _SECOND, strict=True):
            total += int(weights[labels_YX[first] != labels_YX[second]].sum())
        return total


def neighbour_steps(values_CYX: NDArray[Any]) -> Iterator[tuple[NDArray[Any], float]]:
    """Yield, for each of the four kinds of neighbours, second value minus first value (C, ...) and their distance in pixels."""
    for first, second, apart in zip(_FIRST, _SECOND, (1.0, 1.0, 2**0.5, 2**0.5), strict=True):
        yield values_CYX[:, *second] - values_CYX[:, *first], apart


def minimise(energy: Energy, sweeps: int) -> NDArray[np.uint8]:
    """Find class ids (Y, X) of low energy: the minimum for two classes, at most twice the minimum for more.

    The search ends as soon as no class lowers the energy, at the latest after ``sweeps`` expansions of every class.
    """
    classes = len(energy.unary_KYX)
    if classes == 2:  # expanding class 1 over class 0 chooses among all labellings
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
    """Return the cheapest labelling in which every pixel keeps its class or takes ``alpha``."""
    kept_YX: _Integers = np.take_along_axis(energy.unary_KYX, labels_YX[None].astype(np.intp), axis=0)[0]
    pairs = []
    for weights, first, second in zip(energy.weights, _FIRST, _SECOND, strict=True):
        first_ids, second_ids = labels_YX[first], labels_YX[second]
        pairs.append(_Pairs(weights * (first_ids != second_ids), weights * (first_ids != alpha), weights * (second_ids != alpha)))
    moved_YX = labels_YX.copy()
    moved_YX[_cut(energy.unary_KYX[alpha] - kept_YX, pairs) == 1] = alpha
    return moved_YX


@dataclass(frozen=True)
class _Pairs:
    """Costs of pairs of neighbours, by who takes alpha: none, only the second, only the first; a pair that both take costs 0."""

    none: _Integers
    second: _Integers
    first: _Integers


def _cut(gain_YX: _Integers, pairs: Sequence[_Pairs]) -> NDArray[np.int8]:
    """Choose 0 or 1 for each pixel at the least total cost; of equal choices, the one with the fewest ones.

    Most pixels have one best choice whatever their neighbours choose, and then decide others. Only the rest goes to the flow.
    ``gain_YX`` is the cost of choosing 1 instead of 0, without the pairs.
    """
    choice_YX = np.full(gain_YX.shape, -1, np.int8)
    while True:
        low_YX, high_YX = gain_YX.copy(), gain_YX.copy()  # bounds of the cost of 1 over 0, over all choices of the neighbours
        for pair, first, second in zip(pairs, _FIRST, _SECOND, strict=True):
            for here, there, alone in ((first, second, pair.first), (second, first, pair.second)):
                neighbour, lost = choice_YX[there], pair.second if alone is pair.first else pair.first
                low_YX[here] += np.where(neighbour == 0, alone - pair.none, -lost)
                high_YX[here] += np.where(neighbour == 1, -lost, alone - pair.none)
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
    """Return the cost of 1 over 0, including what decided neighbours add and each pixel's own share of undecided pairs."""
    total_YX = gain_YX.copy()
    for pair, first, second in zip(pairs, _FIRST, _SECOND, strict=True):
        # An undecided pair costs none + (first - none) x_p - first x_q + (second + first - none) (1 - x_p) x_q.
        neighbour = choice_YX[second]
        total_YX[first] += np.where(neighbour == 1, -pair.second, pair.first - pair.none)
        neighbour = choice_YX[first]
        total_YX[second] += np.where(neighbour == 0, pair.second - pair.none, -pair.first)
    return total_YX


def _flow(gain_YX: _Integers, pairs: Sequence[_Pairs], open_YX: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Choose for the undecided pixels, row by row, by the minimum cut between them."""
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
    takes[breadth_first_order(rest.T.tocsr(), sink, return_predecessors=False)] = 1  # of equal cuts, the one with the fewest ones
    return takes[:count]
