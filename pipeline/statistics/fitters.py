"""Statistics of a whole image: summarised block by block, summed, fitted by a pure function.

A threshold, a percentile or a cluster centre belongs to a whole image, never to a tile. :meth:`Fitter.observe` summarises a
block, summaries add in any order, and :meth:`Fitter.fit` turns the sum into a few numbers, which the run records.
"""

from __future__ import annotations

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box

__all__ = ["Fitter", "Fitters", "Histogram", "ImageFit", "Summary", "decode_summary", "encode_summary"]

ImageFit = Mapping[str, Any]
"""What the fit phase concluded for one image, plain JSON: ``{"model": {...}, "normalize": {"mean": [..], "std": [..]}}``."""

Summary = dict[str, NDArray[Any]]
"""What is known about a block, or about several: named arrays of integers, which add."""


class Fitter(ABC):
    """Summarises blocks and fits the sum of their summaries. A frozen value that can be pickled."""

    @property
    def halo(self) -> int:
        """Pixels that :meth:`observe` needs around a block, so that a pixel's summary does not depend on the cut."""
        return 0

    @abstractmethod
    def observe(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box, plane: int) -> Summary:
        """Summarise one block; every pixel of the image belongs to exactly one block.

        Args:
            pixels_CYX: raw values of the block and of ``halo`` pixels on every side, finite, 0 where there is no data; the image is
                reflected at its edges.
            valid_YX: False where there is no data, of the size of ``pixels_CYX``; None: all pixels are valid.
            box: where the block lies in the image, without halo, pixels.
            plane: index of the (t, z) plane.
        """

    def merge(self, first: Summary, second: Summary) -> Summary:
        """Add two summaries; the order never matters."""
        return {name: first[name] + second[name] for name in first}

    @abstractmethod
    def fit(self, summary: Summary) -> dict[str, Any]:
        """Conclude from the sum over an image: a pure function whose result is plain JSON."""


def encode_summary(summary: Summary) -> str:
    """Pack a summary into text for the ledger.

    Example:
        >>> decode_summary(encode_summary({"counts": np.array([1, 2])}))["counts"].tolist()
        [1, 2]
    """
    packed = io.BytesIO()
    np.savez_compressed(packed, **summary)  # type: ignore[arg-type]
    return base64.b64encode(packed.getvalue()).decode("ascii")


def decode_summary(text: str) -> Summary:
    """Unpack what :func:`encode_summary` packed."""
    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as packed:
        return {name: packed[name] for name in packed.files}


@dataclass(frozen=True)
class Fitters:
    """Several fitters by name, ``{"model": ..., "normalize": ...}``; in a summary their arrays are called ``name.array``."""

    by_name: Mapping[str, Fitter] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Return whether there is anything to gather."""
        return bool(self.by_name)

    @property
    def halo(self) -> int:
        """Pixels around a block that must be read for it: what the widest fitter asks for."""
        return max((fitter.halo for fitter in self.by_name.values()), default=0)

    def observe(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box, plane: int) -> Summary:
        """Summarise one block for every fitter, as :meth:`Fitter.observe` does."""
        summary: Summary = {}
        read = box.grow(self.halo)
        for name, fitter in self.by_name.items():
            rows, cols = box.grow(fitter.halo).relative_to(read).slices
            seen_YX = None if valid_YX is None else valid_YX[rows, cols]
            arrays = fitter.observe(pixels_CYX[:, rows, cols], seen_YX, box, plane)
            summary.update({f"{name}.{key}": value for key, value in arrays.items()})
        return summary

    def merge(self, first: Summary, second: Summary) -> Summary:
        """Add two summaries; the order never matters."""
        merged: Summary = {}
        for name, fitter in self.by_name.items():
            arrays = fitter.merge(_arrays_of(name, first), _arrays_of(name, second))
            merged.update({f"{name}.{key}": value for key, value in arrays.items()})
        return merged

    def conclude(self, total: Summary) -> dict[str, Any]:
        """Fit the sum over an image: plain JSON, by fitter."""
        return {name: fitter.fit(_arrays_of(name, total)) for name, fitter in self.by_name.items()}


def _arrays_of(name: str, summary: Summary) -> Summary:
    return {key.removeprefix(f"{name}."): value for key, value in summary.items() if key.startswith(f"{name}.")}


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
