"""What the classical models see of raw pixels: grey values and their windows.

Every output is the same few float64 operations on the pixels of its own window, in the same order wherever the tile begins: no
running sum, no Fourier transform. So windows that do not reach the tile's border give the same bits in any tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.statistics import Histogram, Summary

__all__ = ["Grey", "counted", "gaussian", "grey", "moments", "window_sum"]

_ROWS = 256  # seen together: windows cost little memory whatever the size of a block


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


def moments(grey_YX: NDArray[Any], sigma: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each pixel's Gaussian window."""
    weights = gaussian(sigma)
    mean_YX = window_sum(grey_YX, weights)
    return mean_YX, np.sqrt(np.maximum(window_sum(grey_YX.astype(np.float64) ** 2, weights) - mean_YX**2, 0))


@dataclass(frozen=True)
class Grey:
    """One value a pixel, which thresholds are taken of.

    Attributes:
        channel: which one; None: the mean of all.
        smooth: sigma of a Gaussian over the grey value, pixels; 0: none.
        texture: sigma, pixels: the standard deviation in a Gaussian window takes the place of the grey value; 0: it does not.
    """

    channel: int | None = None
    smooth: float = 0.0
    texture: float = 0.0

    @property
    def radius(self) -> int:
        """How far, in pixels, a pixel can be and still count."""
        return max(len(gaussian(sigma)) // 2 for sigma in (self.smooth, self.texture))

    def of(self, pixels_CYX: NDArray[Any]) -> tuple[NDArray[Any], int]:
        """Return values_YX, and of how many channels they are the sum; see :func:`grey`."""
        values_YX, summed = grey(pixels_CYX, self.channel)
        if self.texture:
            return (moments(values_YX / np.float64(summed), self.texture)[1]).astype(np.float32), 1
        if self.smooth:
            return (window_sum(values_YX, gaussian(self.smooth)) / summed).astype(np.float32), 1
        return values_YX, summed

    def counts(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None) -> Summary:
        """Count the valid, finite values of a block; the summary's only name says what was counted, for :func:`counted`.

        Args:
            pixels_CYX: the block and ``radius`` pixels on every side; pixels without data count as 0 in windows.
            valid_YX: False where there is no data; None: all valid.
        """
        halo, height = self.radius, pixels_CYX.shape[1] - 2 * self.radius
        if halo and valid_YX is not None:
            pixels_CYX = np.where(valid_YX, pixels_CYX, pixels_CYX.dtype.type(0))
        total: Summary = {}
        rows = _ROWS if halo else height
        for top in range(0, height, rows):
            band = slice(top, min(top + rows, height) + 2 * halo)
            part = self._counts(pixels_CYX[:, band], None if valid_YX is None else valid_YX[band])
            total = {name: total[name] + counts if total else counts for name, counts in part.items()}
        return total

    def _counts(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None) -> Summary:
        values, summed = self.of(pixels_CYX)
        inside = tuple(slice(self.radius, length - self.radius) for length in values.shape)
        values = values[inside]
        if valid_YX is not None:
            values = values[valid_YX[inside]]
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        dtype = "float32" if values.dtype.kind == "f" else str(pixels_CYX.dtype)
        return {f"{dtype}.{summed}": Histogram(dtype, summed).counts(values)}


def counted(summary: Summary) -> tuple[NDArray[np.int64], Histogram, int]:
    """Return the pixels per bin, the bins, and of how many channels a value is the sum."""
    ((name, counts),) = summary.items()
    dtype, summed = name.rsplit(".", 1)
    return counts, Histogram(dtype, int(summed)), int(summed)
