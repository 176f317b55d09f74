"""Global statistics: gathered block by block, summed, fitted by a pure function.

Never per tile: a threshold, a percentile or a cluster centre belongs to a whole image. Blocks give
summaries, summaries add in any order, and :meth:`Fitter.fit` turns the sum into a few numbers that are recorded.
"""

from __future__ import annotations

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box

__all__ = ["Fit", "Fitter", "Histogram", "Summary", "decode", "encode"]

Fit = Mapping[str, Any]
"""What the fit phase found for one image, plain JSON: ``{"model": {...}, "normalize": {"mean": [..], "std": [..]}}``."""

Summary = dict[str, NDArray[Any]]
"""What one block contributes: named arrays of integers, which add."""


class Fitter(ABC):
    """Gathers a summary of each block and fits their sum. A frozen, picklable value."""

    @property
    def halo(self) -> int:
        """Pixels around a block that :meth:`observe` is shown as well, so that what it sees of a pixel does not depend on the cut."""
        return 0

    @abstractmethod
    def observe(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box, plane: int) -> Summary:
        """Summarise one block; every pixel of the image is seen by exactly one block.

        Args:
            pixels_CYX: raw values of the block and of ``halo`` pixels on every side; beyond the image they are reflected.
            valid_YX: False where there is no data, of the size of ``pixels_CYX``; None: all valid.
            box: where the block lies in the image, without halo, pixels.
            plane: index of the (t, z) plane.
        """

    def merge(self, one: Summary, other: Summary) -> Summary:
        """Add two summaries; the order never matters."""
        return {name: one[name] + other[name] for name in one}

    @abstractmethod
    def fit(self, summary: Summary) -> dict[str, Any]:
        """Turn the sum over an image into numbers: a pure function, plain JSON out."""


def encode(summary: Summary) -> str:
    """Pack a summary into text for the ledger.

    Example:
        >>> decode(encode({"counts": np.array([1, 2])}))["counts"].tolist()
        [1, 2]
    """
    packed = io.BytesIO()
    np.savez_compressed(packed, **summary)  # type: ignore[arg-type]
    return base64.b64encode(packed.getvalue()).decode("ascii")


def decode(text: str) -> Summary:
    """Unpack what :func:`encode` packed."""
    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as packed:
        return {name: packed[name] for name in packed.files}


class Histogram:
    """Integer histogram of pixel values, one bin a value, so that it is exact and adds.

    8- and 16-bit integers have a bin for each value. Everything else is rounded to float32 and
    binned by the upper 16 bits of its bit pattern, in rising order: 7 bits of mantissa, a relative
    width below 1 %, over the whole range of float32, with no range to be known in advance.

    Args:
        dtype: numpy name of the pixels' type.
        summed: how many such pixels one value is the sum of, so that the mean of channels is binned exactly too;
            sums of more than 2**20 different values are binned as floats.

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
        """Count values per bin, int64 (size,)."""
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
        """The float of each bin whose lower 16 bits are these, by sign."""
        order = np.arange(2**16, dtype=np.int64)
        is_negative = order < 2**15
        upper = np.where(is_negative, 2**16 - 1 - order, order - 2**15).astype(np.uint32)
        lower = np.where(is_negative, negative, positive).astype(np.uint32)
        values = ((upper << 16) | lower).view(np.float32)
        limit = np.finfo(np.float32).max
        finite = np.where(np.isfinite(values), values, np.where(is_negative, -limit, limit))
        return finite.astype(np.float64)
