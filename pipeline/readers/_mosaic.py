"""Overlapping tiles of a microscope, read by region as one plane.

Levels: a tile may be stored smaller than the rectangle that it covers. A pixel of a level that is ``factor`` times smaller than
the plane shows what lies under its centre::

    plane    0 1 2 3 4 5 6 7      centre of the level's pixel i, doubled, in pixels of the plane: (2 i + 1) factor
    factor 2  0   1   2   3
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box

__all__ = ["Mosaic"]

MOST_SEARCHED = 20_000  # tiles of one plane; among more, no gaps are searched
SIDE_BY_SIDE = 256  # tiles of a box that are compared in pairs

ReadTile = Callable[[int, Box], Iterable[NDArray[Any]]]  # number of a tile and a box in its stored pixels -> pixels_YX of each channel
ReadMask = Callable[[int, Box], NDArray[np.bool_] | None]  # the same -> where they hold data, (Y, X); None: everywhere


@dataclass
class _Part:
    """The part of one tile that a box shows."""

    number: int  # of the tile
    place: tuple[slice, slice]  # rows and columns in the box
    positions: tuple[NDArray[np.int64], NDArray[np.int64]]  # the stored row of each of these rows; the stored column of each column
    declared: NDArray[np.bool_] | None = None  # which of these pixels hold data (Y, X); None: all

    @property
    def stored(self) -> Box:
        """The stored pixels that are read."""
        ys, xs = self.positions
        return Box(int(ys[0]), int(xs[0]), int(ys[-1]) + 1, int(xs[-1]) + 1)

    def cut(self, stored_YX: NDArray[Any]) -> NDArray[Any]:
        """Return the box's pixels from the pixels of ``stored``: as they are, repeated, or subsampled."""
        (ys, xs), box = self.positions, self.stored
        return stored_YX if box.shape == (len(ys), len(xs)) else stored_YX[ys[:, None] - box.y0, xs - box.x0]

    def paint(self, out_CYX: NDArray[Any], read: ReadTile) -> None:
        """Copy the pixels of this part into the box."""
        # numpy copies channels that are reversed one by one four times as fast.
        for target_YX, pixels_YX in zip(out_CYX[:, *self.place], read(self.number, self.stored), strict=True):
            if self.declared is None:
                target_YX[...] = self.cut(pixels_YX)
            else:
                np.copyto(target_YX, self.cut(pixels_YX), where=self.declared)


class Mosaic:
    """Tiles of one plane; where tiles overlap, the later one covers the earlier one.

    Args:
        boxes_N4: y0, x0, y1, x1 that each tile covers, pixels of the plane, int64.
        stored_N2: stored height and width of each tile.
    """

    def __init__(self, boxes_N4: NDArray[np.int64], stored_N2: NDArray[np.int64]) -> None:
        self.boxes, self._stored = boxes_N4, stored_N2

    def find(self, free_YX: NDArray[np.bool_], box: Box, factor: int, mask: ReadMask | None = None) -> list[_Part]:
        """Return the visible part of each tile in a box of a level, the lowest tile first.

        ``free_YX`` is True where no tile lies yet; pixels that are found become False. Tiles that others hide are left out. ``mask``
        says which pixels of a tile cover the tiles below; None: all do.
        """
        seen = []
        for number in self._touching(box, factor):
            (rows, ys), (columns, xs) = self._places(number, box, factor)
            free = free_YX[rows, columns]
            if not free.any():
                continue
            part = _Part(number, (rows, columns), (ys, xs))
            declared = mask(number, part.stored) if mask else None
            part.declared = None if declared is None else part.cut(declared)
            free[...] = False if part.declared is None else free & ~part.declared
            seen.append(part)
        return seen[::-1]

    def find_tiling(self, box: Box, factor: int) -> list[_Part] | None:
        """Return the parts of a box if tiles fill it side by side, or the uppermost tile alone does; None: they overlap or leave gaps.

        This saves the masks that :meth:`find` needs.
        """
        parts: list[_Part] = []
        for number in self._touching(box, factor)[:SIDE_BY_SIDE]:
            (rows, ys), (columns, xs) = self._places(number, box, factor)
            if len(ys) and len(xs):
                parts.append(_Part(number, (rows, columns), (ys, xs)))
            if not parts[1:] and (len(ys), len(xs)) == box.shape:
                return parts
        edges = [(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in (part.place for part in parts)]
        tops, bottoms, lefts, rights = np.array(edges, np.int64).reshape(-1, 4).T
        overlaps = (tops < bottoms[:, None]) & (bottoms > tops[:, None]) & (lefts < rights[:, None]) & (rights > lefts[:, None])
        fills = ((bottoms - tops) * (rights - lefts)).sum() == box.area
        return parts if fills and overlaps.sum() == len(parts) else None

    def coverage(self, box: Box, factor: int) -> NDArray[np.bool_]:
        """Return where any tile lies (Y, X) in a box of a level."""
        covered_YX = np.zeros(box.shape, bool)
        for number in self._touching(box, factor):
            (rows, _), (columns, _) = self._places(number, box, factor)
            covered_YX[rows, columns] = True
        return covered_YX

    def has_gaps(self, shape: tuple[int, int]) -> bool:
        """Whether tiles leave a gap in a plane of this shape; also True if there are too many tiles to search.

        Example:
            >>> halves = np.array([[0, 0, 4, 3], [0, 2, 4, 6]])
            >>> Mosaic(halves, halves[:, 2:]).has_gaps((4, 6)), Mosaic(halves, halves[:, 2:]).has_gaps((5, 6))
            (False, True)
        """
        if len(self.boxes) > MOST_SEARCHED:
            return True
        edges = np.unique(np.clip(np.append(self.boxes[:, [0, 2]], [0, shape[0]]), 0, shape[0]))
        for y in edges[:-1]:  # no tile begins or ends between two edges
            across = self.boxes[(self.boxes[:, 0] <= y) & (self.boxes[:, 2] > y)]
            across = across[np.argsort(across[:, 1])]
            reached = np.maximum.accumulate(np.append(0, across[:, 3]))
            if (np.append(across[:, 1], shape[1]) > reached).any():
                return True
        return False

    def _touching(self, box: Box, factor: int) -> list[int]:
        """Return the tiles that may have a pixel in the box, the uppermost first."""
        y0, x0, y1, x1 = (2 * edge * factor for edge in (box.y0, box.x0, box.y1, box.x1))  # doubled, as the centres are
        tops, lefts, bottoms, rights = 2 * self.boxes.T
        near = np.flatnonzero((tops < y1) & (bottoms > y0) & (lefts < x1) & (rights > x0))
        return [int(number) for number in near[::-1]]

    def _places(self, number: int, box: Box, factor: int) -> tuple[tuple[slice, NDArray[np.int64]], ...]:
        """Return for rows, then for columns: the slice of the box that a tile fills, and the stored pixels there."""
        y0, x0, y1, x1 = (int(edge) for edge in self.boxes[number])
        height, width = (int(length) for length in self._stored[number])
        return _along(box.y0, box.y1, factor, (y0, y1), height), _along(box.x0, box.x1, factor, (x0, x1), width)


def _along(start: int, stop: int, factor: int, tile: tuple[int, int], stored: int) -> tuple[slice, NDArray[np.int64]]:
    """Find the pixels ``start..stop`` of a level whose centres lie in a tile, and the stored pixel under each.

    Example:
        >>> _along(0, 10, 1, (3, 6), 3), _along(0, 10, 2, (3, 9), 3)
        ((slice(3, 6, None), array([0, 1, 2])), (slice(1, 4, None), array([0, 1, 2])))
    """
    first, last = (max(start, min(stop, -((factor - 2 * edge) // (2 * factor)))) for edge in tile)
    centers = (2 * np.arange(first, last, dtype=np.int64) + 1) * factor - 2 * tile[0]
    return slice(first - start, last - start), centers * stored // (2 * (tile[1] - tile[0]))
