"""A watershed that depends on the pixels of an object alone, not on where the array begins: one basin per peak, shallow ones merged.

A climb leads from each pixel to the highest of its eight neighbours until no neighbour is higher; pixels that end on the same peak are one
basin. Two basins are merged if the pass between them is hardly lower than the lower peak, the highest passes first, as the h-maxima
transform does (Soille 2003, Morphological Image Analysis, 6.3.4). This is faster than ``skimage.morphology.h_maxima`` and
``skimage.segmentation.watershed``, and equal heights need no queue: the pixel that comes first in row-major order counts as higher,
wherever the array begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Basins", "climb", "distance_to_outside", "smoothed"]

_CODES = 15  # mask of the lowest bits of a float's pattern, which hold the direction of a neighbour


@dataclass(frozen=True)
class Basins:
    """The basins of a height.

    Attributes:
        basins_YX: int32, number of the basin of each pixel, 1..N in row-major order of the peaks; 0 outside.
        heights_YX: float32, the heights, rounded down by at most 1 part in 500,000; 0 outside.
        peaks_N2: row and column of each peak.
    """

    basins_YX: NDArray[np.int32]
    heights_YX: NDArray[np.float32]
    peaks_N2: NDArray[np.intp]

    def merged(self, is_one: Callable[[float, float, float], bool]) -> NDArray[np.int32]:
        """Return the number of each pixel's object (Y, X), 0 outside; numbers are not dense.

        Args:
            is_one: whether two neighbouring basins are one object, from the height of the lower peak, the height of the highest pass
                between the two, and the distance of their peaks in pixels.
        """
        rows, cols = self.peaks_N2.T
        tops = [0.0, *self.heights_YX[rows, cols].tolist()]
        places = [(0, 0), *self.peaks_N2.tolist()]
        parents = list(range(len(tops)))

        def root(basin: int) -> int:
            while parents[basin] != basin:
                parents[basin] = basin = parents[parents[basin]]
            return basin

        for first, second, height in zip(*(values.tolist() for values in self._passes()), strict=True):
            low, high = sorted((root(first), root(second)), key=lambda basin: (tops[basin], -basin))
            if low == high:
                continue
            distance = float(np.hypot(places[low][0] - places[high][0], places[low][1] - places[high][1]))
            if is_one(tops[low], height, distance):
                parents[low] = high
        return np.array([root(basin) for basin in range(len(parents))], np.int32)[self.basins_YX]

    def _passes(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return pairs of neighbouring basins and the height of the highest pass between them, from the highest pass down."""
        num = len(self.peaks_N2) + 1
        pairs, heights = [], []
        for one, other in _neighbours(self.basins_YX.shape):
            first, second = self.basins_YX[one], self.basins_YX[other]
            between = np.nonzero((first != second) & (first > 0) & (second > 0))
            low, high = np.minimum(first[between], second[between]), np.maximum(first[between], second[between])
            pairs.append(low.astype(np.int64) * num + high)
            heights.append(np.minimum(self.heights_YX[one][between], self.heights_YX[other][between]))
        found, places = np.unique(np.concatenate(pairs), return_inverse=True)
        passes = np.zeros(len(found), np.float32)
        np.maximum.at(passes, places, np.concatenate(heights))
        order = np.argsort(-passes, kind="stable")
        return found[order] // num, found[order] % num, passes[order]


def climb(heights_YX: NDArray[np.floating[Any]], mask_YX: NDArray[np.bool_]) -> Basins:
    """Divide the pixels of a mask into basins, one for each peak.

    Args:
        heights_YX: at least 0 in the mask.
        mask_YX: pixels outside are in no basin.

    Example:
        >>> heights_YX = np.array([[1, 3, 1, 2, 5, 0]])
        >>> climb(heights_YX, heights_YX > 0).basins_YX.tolist()
        [[1, 1, 1, 2, 2, 0]]
    """
    height, width = mask_YX.shape
    # Patterns of positive floats are in the order of the floats; adding 1 makes a height of 0 differ from outside.
    levels_YX = np.where(mask_YX, heights_YX + 1, 0).astype(np.float32).view(np.int32) & ~_CODES
    padded_YX = np.pad(levels_YX, 1)
    best_YX = np.zeros(mask_YX.shape, np.int32)
    steps = [(row, col) for row in range(3) for col in range(3)]
    for code, (row, col) in enumerate(steps):
        # Where heights are equal, the neighbour that comes first has the greater code.
        np.maximum(best_YX, padded_YX[row : row + height, col : col + width] | (8 - code), out=best_YX)
    strides = np.zeros(_CODES + 1, np.int32)
    strides[: len(steps)] = [(row - 1) * width + col - 1 for row, col in reversed(steps)]
    target = np.arange(height * width, dtype=np.int32)
    target += np.where(mask_YX, strides[best_YX & _CODES], 0).ravel()
    is_peak = mask_YX.ravel() & (target == np.arange(height * width, dtype=np.int32))
    while not np.array_equal(further := target[target], target):
        target = further
    numbers = np.where(is_peak, np.cumsum(is_peak, dtype=np.int32), 0)
    tops_YX = np.where(mask_YX, levels_YX.view(np.float32) - 1, 0)
    return Basins(numbers[target].reshape(mask_YX.shape), tops_YX, np.argwhere(is_peak.reshape(mask_YX.shape)))


def distance_to_outside(mask_YX: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distance from each pixel of a mask to the nearest one outside the mask or the array, pixels; 0 outside the mask."""
    from scipy import ndimage

    return np.asarray(ndimage.distance_transform_edt(np.pad(mask_YX, 1))[1:-1, 1:-1], np.float32)


def smoothed(height_YX: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Return heights smoothed by a Gaussian, cut at 3 sigma; with a sigma of 0 the heights themselves."""
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(height_YX, sigma, mode="nearest", truncate=3.0)) if sigma else height_YX


def _neighbours(shape: tuple[int, ...]) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Return pairs of slices, of all pixels and of their neighbours to the right, below, and diagonally below on both sides."""
    height, width = shape
    upper, lower, left, right = slice(0, height - 1), slice(1, height), slice(0, width - 1), slice(1, width)
    whole = slice(None)
    return [
        ((whole, left), (whole, right)),
        ((upper, whole), (lower, whole)),
        ((upper, left), (lower, right)),
        ((upper, right), (lower, left)),
    ]
