"""Rectangles of pixels and the reflect rule: integers only.

Coordinates are (y, x), half-open, in pixels of the working grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Box", "ceil_to", "reflect_index"]


def ceil_to(value: int, step: int) -> int:
    """Round up to a multiple of ``step``."""
    return -(-value // step) * step


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """The pixels ``y0 <= y < y1``, ``x0 <= x < x1``.

    Example:
        >>> core = Box(0, 512, 512, 1024)
        >>> core.grow(32)
        Box(y0=-32, x0=480, y1=544, x1=1056)
        >>> core.grow(32).clip((600, 1000))
        Box(y0=0, x0=480, y1=544, x1=1000)
        >>> core.shape, core.area
        ((512, 512), 262144)
    """

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def area(self) -> int:
        """Number of pixels."""
        return (self.y1 - self.y0) * (self.x1 - self.x0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of these pixels in an array whose origin is (0, 0)."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def grow(self, margin: int) -> Box:
        """Add ``margin`` pixels on every side; the result may reach beyond the image."""
        return Box(self.y0 - margin, self.x0 - margin, self.y1 + margin, self.x1 + margin)

    def clip(self, shape: tuple[int, int]) -> Box:
        """Keep the part inside an image of this shape."""
        return Box(max(self.y0, 0), max(self.x0, 0), min(self.y1, shape[0]), min(self.x1, shape[1]))

    def intersection(self, other: Box) -> Box | None:
        """Return the pixels that both boxes have; None where there are none.

        Example:
            >>> Box(0, 0, 4, 4).intersection(Box(2, -3, 9, 1)), Box(0, 0, 4, 4).intersection(Box(4, 0, 5, 4))
            (Box(y0=2, x0=0, y1=4, x1=1), None)
        """
        y0, x0, y1, x1 = max(self.y0, other.y0), max(self.x0, other.x0), min(self.y1, other.y1), min(self.x1, other.x1)
        return Box(y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None

    def shift(self, dy: int, dx: int) -> Box:
        """Move by (dy, dx) pixels."""
        return Box(self.y0 + dy, self.x0 + dx, self.y1 + dy, self.x1 + dx)

    def relative_to(self, outer: Box) -> Box:
        """Return the same pixels in coordinates whose (0, 0) is the first pixel of ``outer``."""
        return self.shift(-outer.y0, -outer.x0)


def reflect_index(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Map positions ``start..stop``, which may lie outside, of a reflect-padded axis of ``size`` pixels to positions inside.

    The rule is numpy's ``reflect`` at any width: the edge pixel is not repeated, and a pad wider than the axis is reflected
    again. The pixel of an axis of length 1 is repeated.

    Example:
        >>> reflect_index(-3, 6, 4).tolist()
        [3, 2, 1, 0, 1, 2, 3, 2, 1]
    """
    if size == 1:
        return np.zeros(stop - start, dtype=np.intp)
    period = 2 * (size - 1)
    folded = np.arange(start, stop, dtype=np.intp) % period
    return np.minimum(folded, period - folded)
