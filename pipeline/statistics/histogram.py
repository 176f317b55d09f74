"""Histograms of pixel values that need no range in advance and that add."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Histogram"]


class Histogram:
    """Bins of pixel values whose counts are integers, so that histograms of blocks add.

    8- and 16-bit integers have a bin for each value. Other types are rounded to float32 and binned by the upper
    16 bits of the bit pattern, in rising order: 7 bits of mantissa, so that a bin is narrower than 1 % of its values.
    These bins cover all of float32, and no range has to be known in advance.

    Args:
        dtype: numpy name of the pixels' type.
        summed: number of pixels that are summed into one value, so that the mean of channels is binned exactly as well;
            sums with more than 2**20 different values are binned as floats.

    Example:
        >>> bins = Histogram("uint8")
        >>> bins.counts(np.array([3, 3, 5], np.uint8))[[3, 5]].tolist()
        [2, 1]
        >>> Histogram("uint8", summed=3).size
        766
    """

    def __init__(self, dtype: str, summed: int = 1) -> None:
        kind = np.dtype(dtype)
        size = summed * (2 ** (8 * kind.itemsize) - 1) + 1
        self.exact = kind.kind in "biu" and kind.itemsize <= 2 and size <= 2**20
        self.low = summed * int(np.iinfo(kind).min) if self.exact and kind.kind in "iu" else 0
        self.size = size if self.exact else 2**16

    def bins(self, values: NDArray[Any]) -> NDArray[np.intp]:
        """Return the bin of each value."""
        if self.exact:
            return values.astype(np.intp) - self.low
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        upper = (bits >> 16).astype(np.intp)
        # Negative floats rise as their bit pattern falls; flipping them puts all values in one rising order.
        return np.where(upper >= 2**15, 2**16 - 1 - upper, upper + 2**15)

    def counts(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the number of values in each bin, int64 (size,)."""
        return np.bincount(self.bins(values).ravel(), minlength=self.size).astype(np.int64)

    def centers(self) -> NDArray[np.float64]:
        """Return the value that each bin stands for, rising, float64 (size,); non-finite patterns repeat the largest finite value."""
        if self.exact:
            return np.arange(self.low, self.low + self.size, dtype=np.float64)
        return self._floats(0x8000, 0x8000)

    def tops(self) -> NDArray[np.float64]:
        """Return the largest value of each bin, rising, float64 (size,): ``value > top`` is exactly "in a later bin"."""
        return self.centers() if self.exact else self._floats(0x0000, 0xFFFF)

    def _floats(self, negative: int, positive: int) -> NDArray[np.float64]:
        """Return one float of each bin: its lower 16 bits are ``negative`` or ``positive``, by sign."""
        order = np.arange(2**16, dtype=np.int64)
        is_negative = order < 2**15
        upper = np.where(is_negative, 2**16 - 1 - order, order - 2**15).astype(np.uint32)
        lower = np.where(is_negative, negative, positive).astype(np.uint32)
        values = ((upper << 16) | lower).view(np.float32)
        limit = np.finfo(np.float32).max
        finite = np.where(np.isfinite(values), values, np.where(is_negative, -limit, limit))
        return finite.astype(np.float64)
