"""Thresholds of a histogram, computed in float64 from exact counts, so that the size of the image does not change them.

A histogram is ``counts`` of pixels per bin, rising ``centers``, the values that bins stand for, and ``tops``, the largest value of each
bin. Values above a threshold belong to the higher class.

Otsu 1979, doi:10.1109/TSMC.1979.4310076; several thresholds: Liao, Chen and Chung 2001, J. Inf. Sci. Eng. 17, 713. Li and Lee 1993,
doi:10.1016/0031-3203(93)90115-D, by the iteration of Li and Tam 1998, doi:10.1016/S0167-8655(98)00057-9. Zack, Rogers and
Latt 1977, doi:10.1177/25.7.70454. The searches are our own because common libraries need all pixels at once, and some sum the
histogram in float32, which moves thresholds of large images by hundreds of grey levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["li_threshold", "otsu_thresholds", "triangle_threshold"]

_MAX_BINS = 4096  # of the search for two and more thresholds, whose cost is quadratic; 12-bit images stay exact
_FLOAT_BINS = 256  # of the triangle, which needs bins of equal width


def li_threshold(counts: NDArray[np.int64], centers: NDArray[np.float64]) -> float:
    """Find the threshold of least cross entropy between an image and its two means (Li and Lee 1993; Li and Tam 1998).

    0 for an empty histogram; the only value for a histogram of one value.
    """
    used = np.flatnonzero(counts)
    if used.size < 2:
        return float(centers[used[0]]) if used.size else 0.0
    weights, values = counts[used].astype(np.float64), centers[used] - centers[used[0]]
    pixels, total = np.cumsum(weights), np.cumsum(weights * values)
    tolerance = float(np.diff(centers).min()) / 2  # half a grey level for integers; less than any difference for floats
    guess, before = total[-1] / pixels[-1], -np.inf
    while abs(guess - before) > tolerance:
        before = guess
        last = int(np.searchsorted(values, guess, side="right")) - 1  # the last bin of class 0
        low, high = total[last] / pixels[last], (total[-1] - total[last]) / (pixels[-1] - pixels[last])
        if low == 0:
            break  # only the smallest value is left below; its logarithm is not defined
        guess = (low - high) / (np.log(low) - np.log(high))
    return float(guess + centers[used[0]])


def triangle_threshold(counts: NDArray[Any], centers: NDArray[np.float64], tops: NDArray[np.float64]) -> float:
    """Find the value whose count lies furthest below the line from the histogram's peak to the end of its longer tail (Zack 1977).

    Bins of different widths are first spread over 256 equal ones between the smallest and the largest value. 0 for an empty
    histogram; the only value for a histogram of one value.
    """
    used = np.flatnonzero(counts)
    if used.size < 2:
        return float(centers[used[0]]) if used.size else 0.0
    first, stop = used[0], used[-1] + 1
    counts, centers, tops = counts[first:stop], centers[first:stop], tops[first:stop]
    if not np.array_equal(centers, tops):
        edges = np.linspace(centers[0], tops[-1], _FLOAT_BINS + 1)
        counts = np.diff(np.interp(edges, tops, np.cumsum(counts), left=0))
        centers = (edges[:-1] + edges[1:]) / 2
    peak, size = int(np.argmax(counts)), len(counts)
    flip = peak < size - 1 - peak  # the line starts at the end of the longer tail
    if flip:
        counts, peak = counts[::-1], size - 1 - peak
    # Distance of each count below the line, up to a factor.
    distance = float(counts[peak]) * np.arange(peak) - peak * counts[:peak].astype(np.float64)
    furthest = int(np.argmax(distance))
    return float(centers[size - 1 - furthest if flip else furthest])


def otsu_thresholds(
    counts: NDArray[np.int64], centers: NDArray[np.float64], tops: NDArray[np.float64], classes: int
) -> NDArray[np.float64]:
    """Find the thresholds that maximise the variance between classes, exactly, by dynamic programming.

    Returns:
        Rising thresholds (classes - 1,): the largest value of each class but the last. The last threshold is repeated where
        there are fewer values than classes; zeros for an empty histogram.
    """
    used = np.flatnonzero(counts)
    if not used.size:
        return np.zeros(classes - 1)
    counts, centers, tops = counts[used], centers[used], tops[used]
    if classes > 2 and len(counts) > _MAX_BINS:
        counts, centers, tops = _coarsen(counts, centers, tops)
    if len(counts) <= classes:
        return tops[np.minimum(np.arange(classes - 1), len(tops) - 1)]
    return tops[_best_cuts(counts, centers, classes) - 1]


def _coarsen(
    counts: NDArray[np.int64], centers: NDArray[np.float64], tops: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Merge bins into bins of equal width between the smallest and the largest value; a merged bin stands for its mean."""
    share = (centers - centers[0]) / (centers[-1] - centers[0])
    group = np.minimum((share * _MAX_BINS).astype(np.intp), _MAX_BINS - 1)
    first = np.flatnonzero(np.diff(group, prepend=-1))
    last = np.append(first[1:], len(group)) - 1
    total = np.add.reduceat(counts, first)
    return total, np.add.reduceat(counts * centers, first) / total, tops[last]


def _best_cuts(counts: NDArray[np.int64], centers: NDArray[np.float64], classes: int) -> NDArray[np.intp]:
    """Return the first bin of each class but the first, from the best cuts of the first j bins into k classes for rising k."""
    size = len(counts)
    pixels = np.append(0, np.cumsum(counts)).astype(np.float64)
    total = np.append(0.0, np.cumsum(counts * (centers - centers.mean())))

    def score(start: Any, stop: Any) -> Any:
        # What bins start..stop add to the variance between classes: pixels times squared mean.
        return (total[stop] - total[start]) ** 2 / (pixels[stop] - pixels[start])

    best = np.append(-np.inf, score(0, np.arange(1, size + 1)))
    came_from = []
    for k in range(2, classes + 1):
        rise, origin = np.full(size + 1, -np.inf), np.zeros(size + 1, np.intp)
        for stop in range(k, size + 1) if k < classes else (size,):
            starts = np.arange(k - 1, stop)
            candidates = best[k - 1 : stop] + score(starts, stop)
            origin[stop] = starts[pick := int(np.argmax(candidates))]
            rise[stop] = candidates[pick]
        best = rise
        came_from.append(origin)
    cuts = [size]
    for origin in reversed(came_from):
        cuts.append(int(origin[cuts[-1]]))
    return np.array(cuts[:0:-1], np.intp)
