"""Normalisation by the values at edges: numbers that do not depend on how much flat background, glass or padding an image has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.statistics.fitters import Fitter, Histogram, Summary

__all__ = ["ContrastFitter"]

REACH = 2  # pixels: the contrast of a pixel is the range of the values within this distance, a square of 5 x 5
FLAT = 8  # pixels: a square of this side with one value is padding, or saturated
POWER = 3  # a pixel weighs its contrast to this power: edges weigh far more than noise
LOW, HIGH = 2.0, 98.0  # weighted percentiles that become 0 and 1
OCTAVES = 5  # of contrast that share one unit of weight, so that weights of all sizes are integers that add
STEPS = 256  # units of the smallest weight of a group: weights are rounded by less than 1/500
LARGEST = float(np.finfo(np.float32).max)  # size of a value: bins hold no larger ones, and powers of their ranges stay finite


@dataclass(frozen=True)
class ContrastFitter(Fitter):
    """Fits each channel to the values at its edges: the dark side becomes 0, the bright side 1.

    Each pixel weighs the cube of its contrast, which is the range of the values around it (:data:`REACH`). A low weighted percentile
    becomes 0 and a high one 1. An even background has no weight and noise has little, so their areas change little. Squares of one
    value (:data:`FLAT`) are treated as pixels without data: constant padding of any value, at least so wide, changes nothing.

    The values have the bins of :class:`~pipeline.statistics.histogram.Histogram`: exact for 8- and 16-bit integers. If nothing but
    flat areas is found, the least and the greatest value become 0 and 1. A constant channel gets std 1.
    """

    @property
    def halo(self) -> int:
        """A square of one value that contains the farthest pixel of a pixel's surroundings."""
        return REACH + FLAT - 1

    def observe(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box, plane: int) -> Summary:
        """Add up the weights of each value, and count values, for each channel of one block.

        Returns:
            ``DTYPE``: counts of the valid values (C, V); ``DTYPE.GROUP``: sums of weights in units of the group (C, V).
        """
        del plane
        dtype = str(pixels_CYX.dtype)
        if dtype == "float64":
            pixels_CYX = np.clip(pixels_CYX, -LARGEST, LARGEST)
        bins = Histogram(dtype)
        rows, cols = (slice(self.halo, self.halo + side) for side in box.shape)
        known_YX = np.ones(pixels_CYX.shape[1:], np.bool_) if valid_YX is None else valid_YX
        counts, sums = [], dict[int, list[NDArray[np.int64]]]()
        for channel, values_YX in enumerate(pixels_CYX):
            counts.append(bins.counts(values_YX[rows, cols][known_YX[rows, cols]]))
            kept_YX = known_YX & ~_flat(values_YX)
            contrast_YX = _ranges(values_YX, kept_YX)[rows, cols]
            counted_YX = kept_YX[rows, cols] & (contrast_YX > 0)
            at_N, contrast_N = bins.bins(values_YX[rows, cols][counted_YX]), contrast_YX[counted_YX]
            groups_N = (np.frexp(contrast_N)[1] - 1) // OCTAVES
            for group in np.unique(groups_N).tolist():
                weights_N = np.rint(np.ldexp(contrast_N, -OCTAVES * group) ** POWER * STEPS)
                weights_N[groups_N != group] = 0
                # Sums of integers below 2**53 are exact in float64.
                of_group = sums.setdefault(group, [np.zeros(bins.size, np.int64)] * len(pixels_CYX))
                of_group[channel] = np.bincount(at_N, weights_N, bins.size).astype(np.int64)
        return {dtype: np.stack(counts), **{f"{dtype}.{group}": np.stack(one) for group, one in sums.items()}}

    def merge(self, first: Summary, second: Summary) -> Summary:
        """Add two summaries, which may hold different groups of weights."""
        shared = {name: first[name] + second[name] for name in first.keys() & second.keys()}
        return {**first, **second, **shared}

    def fit(self, summary: Summary) -> dict[str, Any]:
        """Return ``{"mean": [..], "std": [..]}``, one a channel, raw units."""
        dtype = next(name for name in summary if "." not in name)
        values_V, weights_CV = Histogram(dtype).centers(), np.zeros(summary[dtype].shape)
        for group, name in sorted((int(name.split(".")[1]), name) for name in summary if "." in name):
            weights_CV += summary[name] * 2.0 ** (OCTAVES * POWER * group)
        ends = [_ends(counts_V, weights_V, values_V) for counts_V, weights_V in zip(summary[dtype], weights_CV, strict=True)]
        return {"mean": [low for low, _ in ends], "std": [high - low or 1.0 for low, high in ends]}


def _ends(counts_V: NDArray[np.int64], weights_V: NDArray[np.float64], values_V: NDArray[np.float64]) -> tuple[float, float]:
    """Return the values that become 0 and 1."""
    used = np.flatnonzero(counts_V)
    if not used.size:
        return 0.0, 1.0
    below_V = np.cumsum(weights_V)
    if below_V[-1] > 0:
        low, high = (np.searchsorted(below_V, share / 100 * below_V[-1]) for share in (LOW, HIGH))
        if low < high:
            return float(values_V[low]), float(values_V[high])
    return float(values_V[used[0]]), float(values_V[used[-1]])


def _flat(values_YX: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels of every square of :data:`FLAT` pixels a side that has one value."""
    same_YX = _slide(np.logical_and, values_YX[:, 1:] == values_YX[:, :-1], (1, FLAT - 1))
    same_YX = _slide(np.logical_and, same_YX, (FLAT, 1))
    down_YX = _slide(np.logical_and, values_YX[1:] == values_YX[:-1], (FLAT - 1, 1))[:, : same_YX.shape[1]]
    is_square_YX = same_YX & down_YX  # rows of one value each, whose first column has one value
    return _slide(np.logical_or, np.pad(is_square_YX, FLAT - 1), (FLAT, FLAT))


def _ranges(values_YX: NDArray[Any], kept_YX: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return greatest minus least of the values that are kept within :data:`REACH` of each pixel; any number where none is kept."""
    if values_YX.dtype.kind == "b":
        values_YX = values_YX.astype(np.uint8)
    is_float = values_YX.dtype.kind == "f"
    limits = np.finfo(values_YX.dtype) if is_float else np.iinfo(values_YX.dtype)
    least, greatest = values_YX.dtype.type(limits.min), values_YX.dtype.type(limits.max)
    window = (2 * REACH + 1, 2 * REACH + 1)
    high_YX = _slide(np.maximum, np.pad(np.where(kept_YX, values_YX, least), REACH, constant_values=least), window)
    low_YX = _slide(np.minimum, np.pad(np.where(kept_YX, values_YX, greatest), REACH, constant_values=greatest), window)
    return high_YX.astype(np.float64) - low_YX.astype(np.float64)


def _slide(reduce: Callable[..., NDArray[Any]], values_YX: NDArray[Any], window: tuple[int, int]) -> NDArray[Any]:
    """Reduce each window of an array; there is one result for each window that lies inside. Widths are doubled, so few passes do."""
    for axis, width in enumerate(window):
        done = 1
        while done < width:
            step = min(done, width - done)
            before = [slice(None), slice(None)]
            after = list(before)
            before[axis], after[axis] = slice(None, -step), slice(step, None)
            values_YX = reduce(values_YX[tuple(before)], values_YX[tuple(after)])
            done += step
    return values_YX
