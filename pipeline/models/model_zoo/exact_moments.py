"""Exact mean and standard deviation of float32 values, from sums of integers, which add in any order."""

from __future__ import annotations

from fractions import Fraction
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["mean_and_std", "sum_moments"]

_HALF = 2**12  # a mantissa of 24 bits is split in halves, so that sums of millions of products stay exact
_EXPONENTS = 2**8
_PIECE = 2**18  # values at a time, as the intermediate arrays are ten times as large


def sum_moments(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return sums by exponent, int64 (5, 256): count, mantissa, and the three products of the mantissa's halves.

    Args:
        values: finite values; they are rounded to float32.
    """
    flat = np.ascontiguousarray(values, np.float32).ravel()
    sums = np.zeros((5, _EXPONENTS), np.int64)
    for start in range(0, flat.size, _PIECE):
        sums += _sum_piece(flat[start : start + _PIECE].view(np.uint32))
    return sums


def _sum_piece(bits: NDArray[np.uint32]) -> NDArray[np.int64]:
    exponents = ((bits >> 23) & 0xFF).astype(np.intp)
    mantissa = (bits & 0x7FFFFF).astype(np.int64)
    mantissa[exponents > 0] += 2**23
    high, low = mantissa >> 12, mantissa & (_HALF - 1)
    signed = np.where(bits >> 31 == 1, -mantissa, mantissa)
    # bincount adds in float64, which is exact up to 2**53.
    sums = [np.bincount(exponents, weights, _EXPONENTS) for weights in (np.ones_like(high), signed, high * high, high * low, low * low)]
    return np.stack(sums).astype(np.int64)


def mean_and_std(sums: NDArray[np.int64]) -> tuple[float, float]:
    """Return mean and standard deviation of the values that :func:`sum_moments` summed; (0, 1) without values.

    Example:
        >>> mean_and_std(sum_moments(np.array([1.5, -2.0])) + sum_moments(np.array([4.25, 0.25])))
        (1.0, 2.2569337606584736)
    """
    count, first, squares = 0, Fraction(0), Fraction(0)
    for exponent in np.flatnonzero(sums[0]).tolist():
        number, mantissa, high, middle, low = (int(row[exponent]) for row in sums)
        unit = Fraction(2) ** (max(exponent, 1) - 150)
        count += number
        first += mantissa * unit
        squares += (high * _HALF**2 + 2 * middle * _HALF + low) * unit**2
    if not count:
        return 0.0, 1.0
    mean = first / count
    return float(mean), sqrt(squares / count - mean**2)
