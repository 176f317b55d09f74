"""Grey values of raw pixels, and weighted sums over windows around them.

Every output is the same float64 operations on the pixels of its own window, in the same order wherever the tile starts. There is
no running sum and no Fourier transform, so a window inside the tile gives the same bits in any tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.models import fact_of
from pipeline.statistics import Fitter, Histogram, Summary

__all__ = ["GreyFitter", "GreyValues", "gaussian_weights", "to_grey", "unpack_counts", "window_mean_and_std", "window_sum"]

_ROWS = 256  # computed at a time, so that windows cost little memory whatever the size of a block


def to_grey(pixels_CYX: NDArray[Any], channel: int | None) -> tuple[NDArray[Any], int]:
    """Return one value per pixel, and the number of channels that it is the sum of.

    Without a ``channel`` it is the sum of all channels where it is exact (small integers), else their mean.

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
    for values_YX in pixels_CYX[1:]:  # in this order whatever the memory layout, so that floats round the same
        total_YX += values_YX
    return (total_YX, count) if exact else (total_YX / np.float32(count), 1)


def gaussian_weights(sigma: float, truncate: float = 3.0) -> NDArray[np.float64]:
    """Return the weights of a Gaussian window (2 * radius + 1,), which add up to 1; the radius is ``truncate * sigma``, rounded."""
    radius = int(truncate * sigma + 0.5)
    if not radius:
        return np.ones(1)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def window_sum(values_YX: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each pixel's window sum, weighted along both axes; pixels beyond the border are reflected as the engine does."""
    from scipy.ndimage import correlate1d

    rows_YX = correlate1d(values_YX.astype(np.float64), weights, axis=0, mode="mirror")
    return np.asarray(correlate1d(rows_YX, weights, axis=1, mode="mirror"))


def window_mean_and_std(grey_YX: NDArray[Any], sigma: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weighted mean and standard deviation of each pixel's window."""
    weights = gaussian_weights(sigma)
    mean_YX = window_sum(grey_YX, weights)
    return mean_YX, np.sqrt(np.maximum(window_sum(grey_YX.astype(np.float64) ** 2, weights) - mean_YX**2, 0))


@dataclass(frozen=True)
class GreyValues:
    """How to compute one value per pixel from the channels."""

    channel: int | None = None  # the channel to take; None: the mean of all
    smooth: float = 0.0  # sigma of a Gaussian over the grey value, pixels; 0: none
    texture: float = 0.0  # sigma of a Gaussian window, pixels: its standard deviation replaces the grey value; 0: none

    @property
    def radius(self) -> int:
        """Distance to the furthest pixel that changes a value, pixels."""
        return max(len(gaussian_weights(sigma)) // 2 for sigma in (self.smooth, self.texture))

    def of(self, pixels_CYX: NDArray[Any]) -> tuple[NDArray[Any], int]:
        """Return values (Y, X), and the number of channels that they are the sum of; see :func:`to_grey`."""
        values_YX, summed = to_grey(pixels_CYX, self.channel)
        if self.texture:
            return (window_mean_and_std(values_YX / np.float64(summed), self.texture)[1]).astype(np.float32), 1
        if self.smooth:
            return (window_sum(values_YX, gaussian_weights(self.smooth)) / summed).astype(np.float32), 1
        return values_YX, summed


@dataclass(frozen=True)
class GreyFitter(Fitter):
    """Counts the grey values of an image; a subclass fits the counts of ``num_parts`` parts, which :func:`unpack_counts` reads."""

    grey: GreyValues
    num_parts: int

    halo: ClassVar[int] = fact_of("grey.radius")

    def observe(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box, plane: int) -> Summary:
        """Count the valid, finite values of a block; pixels without data count as 0 in windows."""
        halo, height = self.halo, pixels_CYX.shape[1] - 2 * self.halo
        total: Summary = {}
        rows = _ROWS if halo else height
        for top in range(0, height, rows):
            band = slice(top, min(top + rows, height) + 2 * halo)
            part = self._counts(pixels_CYX[:, band], None if valid_YX is None else valid_YX[band])
            total = self.merge(total, part) if total else part
        return total

    def _counts(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None) -> Summary:
        values, summed = self.grey.of(pixels_CYX)
        inside = tuple(slice(self.halo, length - self.halo) for length in values.shape)
        values = values[inside]
        if valid_YX is not None:
            values = values[valid_YX[inside]]
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        dtype = "float32" if values.dtype.kind == "f" else str(pixels_CYX.dtype)
        return {f"{dtype}.{summed}": Histogram(dtype, summed).counts(values)}


def unpack_counts(summary: Summary) -> tuple[NDArray[np.int64], Histogram, int]:
    """Return pixels per bin, the bins, and the number of channels that a value is the sum of."""
    ((name, counts),) = summary.items()
    dtype, summed = name.rsplit(".", 1)
    return counts, Histogram(dtype, int(summed)), int(summed)
