"""What the classical models see of raw pixels: grey values, Gaussian windows.

Every output is the same few float64 operations on the pixels of its own window, in the same order wherever the tile begins: no
running sum, no Fourier transform. So windows that do not reach the tile's border give the same bits in any tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.fits import Histogram, Summary

__all__ = ["count_grey", "counted", "gaussian", "grey", "window_sum"]


def grey(pixels_CYX: NDArray[Any], channel: int | None) -> tuple[NDArray[Any], int]:
    """Return one value a pixel, and of how many channels it is the sum: sums of small integers are exact.

    Args:
        pixels_CYX: raw values.
        channel: which one; None: all, added up where that is exact, their mean otherwise.

    Raises:
        InputError: the image has no such channel.
    """
    count, kind = len(pixels_CYX), pixels_CYX.dtype
    if channel is not None and channel >= count:
        raise InputError(Problem("model.channel", str(channel), f"0..{count - 1}, of the image's {count} channels"))
    if channel is not None or count == 1:
        values_YX = pixels_CYX[channel or 0]
        if values_YX.dtype == np.bool_:
            return values_YX.view(np.uint8), 1
        return (values_YX if Histogram(str(kind)).exact else values_YX.astype(np.float32)), 1
    exact = Histogram(str(kind), count).exact
    total_YX = pixels_CYX[0].astype(np.int32 if exact else np.float32)
    for values_YX in pixels_CYX[1:]:  # in this order whatever the memory layout, so that floats round alike
        total_YX += values_YX
    return (total_YX, count) if exact else (total_YX / np.float32(count), 1)


def gaussian(sigma: float, truncate: float = 3.0) -> NDArray[np.float64]:
    """Return the weights of a Gaussian window (2 * radius + 1,), which add up to 1; radius is ``truncate`` sigmas, rounded.

    Example:
        >>> gaussian(0.0).tolist(), len(gaussian(1.0)), len(gaussian(2.5, truncate=4))
        ([1.0], 7, 21)
    """
    radius = int(truncate * sigma + 0.5)
    if not radius:
        return np.ones(1)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def window_sum(values_YX: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add up each pixel's window, weighted along both axes; beyond the border pixels are reflected as the engine reflects them."""
    from scipy.ndimage import correlate1d

    rows_YX = correlate1d(values_YX.astype(np.float64), weights, axis=0, mode="mirror")
    return np.asarray(correlate1d(rows_YX, weights, axis=1, mode="mirror"))


def count_grey(pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, channel: int | None) -> Summary:
    """Count the valid, finite grey values of a block; the summary's only name says what was counted, for :func:`counted`."""
    values, summed = grey(pixels_CYX, channel)
    if valid_YX is not None:
        values = values[valid_YX]
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    dtype = "float32" if values.dtype.kind == "f" else str(pixels_CYX.dtype)
    return {f"{dtype}.{summed}": Histogram(dtype, summed).counts(values)}


def counted(summary: Summary) -> tuple[NDArray[np.int64], Histogram, int]:
    """Return the pixels per bin, the bins, and of how many channels a value is the sum."""
    ((name, counts),) = summary.items()
    dtype, summed = name.rsplit(".", 1)
    return counts, Histogram(dtype, int(summed)), int(summed)
