"""Polygons of the areas of classes: one for each set of pixels of a class that are joined by their sides.

A plane is read once, in bands of rows, from top to bottom::

    band   ████████████████  pixels are numbered by area; areas that reach the band above keep their number
           ▓▓▓▓░░░░▓▓▓▓░░░░  and have their corners added
           ────────────────  areas that do not reach the next band are whole: their corners become a polygon

So memory holds a band, and the corners of the areas that are not whole yet; never the mask, and never all polygons. Neither the blocks
of the mask nor the bands show in the result.

Edges are simplified in square cells of a fixed grid from the first pixel of the image: inside a cell by
:func:`shapely.coverage_simplify`, for all areas at once, so that neighbours keep their common edge; points on the lines of the
grid stay where they are. So simple edges need no more memory, and fit together across cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.raster import Raster
from pipeline.tiling import connected_sets
from pipeline.writers._tracing import find_corners, join_corners

if TYPE_CHECKING:
    from pipeline.writers import MaskMeta

__all__ = ["ClassPolygons", "class_polygons"]

BAND_ROWS = 1024  # rows that are read at once: whole chunks of a mask
STRIP_PIXELS = 1 << 22  # pixels that are numbered at once
CELL = 1024  # side of the cells in which edges are simplified, pixels; BAND_ROWS is a multiple of it
BATCH_CORNERS = 1 << 19  # corners that are joined to polygons at once, unless one area has more

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassPolygons:
    """Areas of classes, in the order of their last row, then of their first pixel in row-major order.

    Attributes:
        classes: class id of each.
        pixels: number of pixels of each.
        sizes: sum of the sizes of these pixels.
        polygons: valid polygons (x, y) in pixels of the mask. Without simplification they cover these pixels exactly; neighbours
            share every point of a common edge.
    """

    classes: Ints
    pixels: Ints
    sizes: Floats
    polygons: NDArray[Any]


def class_polygons(
    mask: Raster,
    meta: MaskMeta,
    plane: int,
    *,
    background: bool = False,
    row_sizes: Floats | None = None,
    simplify: float = 0.0,
    every: int = 0,
) -> Iterator[ClassPolygons]:
    """Yield the areas of one plane, batch by batch. *No prediction* has none.

    Args:
        mask: class ids.
        meta: of the mask; its type decides which ids there may be.
        plane: of the mask.
        background: whether class 0 has areas.
        row_sizes: size of a pixel of each row; None: 1.
        simplify: corners go whose triangle with their neighbours is smaller than the square of this, pixels; 0: none.
        every: long edges get a point at each multiple of this, pixels, for coordinates in which they are curved; 0: none.
    """
    height, width = meta.shape
    sweep = _Sweep(height, width, np.ones(height) if row_sizes is None else row_sizes, CELL if simplify else every)
    numbers = np.arange(1, np.iinfo(meta.dtype).max + 2, dtype=np.int32)
    numbers[[meta.fill] if background else [0, meta.fill]] = 0
    for y0 in range(0, height, BAND_ROWS):
        band_YX = mask.read(Box(y0, 0, min(y0 + BAND_ROWS, height), width), plane)[0]
        kept = _kept_points(band_YX, numbers, y0, simplify) if simplify else None
        rows = max(1, STRIP_PIXELS // width)
        for y in range(0, len(band_YX), rows):
            yield from sweep.add(numbers[band_YX[y : y + rows]], y0 + y, kept)


def _label(numbers_YX: NDArray[np.int32], background: int) -> tuple[Ints, int]:
    """Number the areas of equal numbers that are joined by sides, from 1; return the highest number too."""
    from skimage.measure import label

    labels_YX, highest = label(numbers_YX, background=background, connectivity=1, return_num=True)  # type: ignore[no-untyped-call]
    return labels_YX, int(highest)


def _kept_points(band_YX: NDArray[Any], numbers: NDArray[np.int32], y0: int, simplify: float) -> Ints:
    """Return the points inside cells that simple edges keep, as sorted numbers ``y * (width + 1) + x``; ``numbers`` are by class id."""
    import shapely

    width, keys = band_YX.shape[1], [np.zeros(0, np.int64)]
    for y in range(0, len(band_YX), CELL):
        for x in range(0, width, CELL):
            labels_YX, highest = _label(numbers[band_YX[y : y + CELL, x : x + CELL]], -1)
            if highest > 1:
                polygons = join_corners(find_corners(np.pad(labels_YX, 1), y0 + y, x, junctions=True), highest)
                simple = shapely.coverage_simplify(polygons, simplify, simplify_boundary=False)
                points_N2 = shapely.get_coordinates(simple).astype(np.int64)
                keys.append(points_N2[:, 1] * (width + 1) + points_N2[:, 0])
    return np.unique(np.concatenate(keys))


class _Sweep:
    """Areas of a plane, strip by strip from the top."""

    def __init__(self, height: int, width: int, row_sizes: Floats, every: int) -> None:
        self._height, self._width, self._row_sizes, self._every = height, width, row_sizes, every
        self._above_X = np.zeros(width, np.int64)  # area of each pixel of the last row; 0: none
        self._above_numbers_X = np.zeros(width, np.int32)
        self._parents = np.zeros(1, np.int64)  # number of the area that each area has become a part of, or its own
        self._numbers, self._pixels, self._sizes = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1)
        self._corners: list[_Corners] = []
        self._waiting = 0  # corners that were kept when areas were last taken out

    def add(self, numbers_YX: NDArray[np.int32], y: int, kept: Ints | None) -> Iterator[ClassPolygons]:
        """Add the next rows, which begin at row ``y``; yield areas that are whole, if they are many, or all with the last rows."""
        is_last = y + len(numbers_YX) == self._height
        above_X, areas_YX = self._joined(numbers_YX, y)
        strip_YX = np.concatenate([above_X[None], areas_YX, np.zeros((int(is_last), self._width), np.int64)])
        corners_N5 = find_corners(np.pad(strip_YX, [(0, 0), (1, 1)]), y, 0, junctions=True, every=self._every)
        self._corners.append(_Corners.of(corners_N5, self._is_kept(corners_N5, kept)))
        self._above_X, self._above_numbers_X = areas_YX[-1], numbers_YX[-1]
        if is_last:
            self._above_X = np.zeros(self._width, np.int64)
        if is_last or max(sum(map(len, self._corners)), len(self._parents)) > max(2 * self._waiting, BATCH_CORNERS):
            yield from self._whole()

    def _joined(self, numbers_YX: NDArray[np.int32], y: int) -> tuple[Ints, Ints]:
        """Number the areas of the next rows, and join them to those above; return the areas of the row above and of these rows."""
        labels_YX, highest = _label(numbers_YX, 0)
        start = len(self._parents) - 1
        self._parents = np.concatenate([self._parents, np.arange(start + 1, start + 1 + highest)])
        self._count(labels_YX, numbers_YX, highest, y)
        meets_X = (self._above_X > 0) & (self._above_numbers_X == numbers_YX[0])
        members, set_of = connected_sets(np.unique(np.stack([self._above_X[meets_X], labels_YX[0, meets_X] + start], axis=1), axis=0))
        _, first = np.unique(set_of, return_index=True)
        self._parents[members] = members[first][set_of]
        becomes = np.append(0, self._parents[start + 1 :])
        return self._parents[self._above_X], becomes[labels_YX]

    def _count(self, labels_YX: Ints, numbers_YX: NDArray[np.int32], highest: int, y: int) -> None:
        """Add number, pixels and size of the areas of the next rows."""
        labels = labels_YX.ravel()
        numbers = np.zeros(highest + 1, np.int64)
        numbers[labels] = numbers_YX.ravel()
        pixels = np.bincount(labels, minlength=highest + 1)
        row_sizes = self._row_sizes[y : y + len(labels_YX)]
        if (row_sizes == row_sizes[0]).all():
            sizes = pixels * row_sizes[0]
        else:
            sizes = np.bincount(labels, np.repeat(row_sizes, self._width), highest + 1)
        self._numbers = np.concatenate([self._numbers, numbers[1:]])
        self._pixels = np.concatenate([self._pixels, pixels[1:]])
        self._sizes = np.concatenate([self._sizes, sizes[1:]])

    def _is_kept(self, corners_N5: Ints, kept: Ints | None) -> NDArray[np.bool_]:
        """Return which corners simple edges keep: those on the lines of cells and on the border of the image, and the given ones."""
        if kept is None:
            return np.ones(len(corners_N5), np.bool_)
        y, x = corners_N5[:, 1], corners_N5[:, 2]
        on_line = (y % CELL == 0) | (x % CELL == 0) | (y == self._height) | (x == self._width)
        key = y * (self._width + 1) + x
        at = np.minimum(np.searchsorted(kept, key), max(len(kept) - 1, 0))
        found: NDArray[np.bool_] = on_line | ((kept[at] == key) if len(kept) else False)
        return found

    def _whole(self) -> Iterator[ClassPolygons]:
        """Take out the areas that do not reach the last row, and yield them."""
        corners = _Corners.joined(self._corners)
        roots = _roots(self._parents)
        corners.areas = roots[corners.areas]
        num = len(roots)
        pixels: Ints = np.bincount(roots, self._pixels, num).astype(np.int64)
        sizes = np.bincount(roots, self._sizes, num).astype(np.float64)
        is_open = np.zeros(num, np.bool_)
        is_open[roots[self._above_X]] = True
        is_open[0] = False
        is_done = (roots == np.arange(num)) & ~is_open
        is_done[0] = False
        order, place = _in_order(corners, np.flatnonzero(is_done), num, self._width + 1)
        opened = np.flatnonzero(is_open)
        stays = np.zeros(num, np.int64)
        stays[opened] = np.arange(1, len(opened) + 1)
        self._above_X = stays[roots[self._above_X]]
        numbers = self._numbers
        self._parents = np.arange(len(opened) + 1)
        self._numbers, self._pixels = np.append(0, numbers[opened]), np.append(0, pixels[opened])
        self._sizes = np.append(0.0, sizes[opened])
        done = corners.chosen(is_done[corners.areas], place)
        self._corners = [corners.chosen(is_open[corners.areas], stays)]
        self._waiting = max(len(self._corners[0]), len(opened))
        del corners
        for first, last, part in done.batches(len(order)):
            chosen = order[first:last]
            yield ClassPolygons(numbers[chosen] - 1, pixels[chosen], sizes[chosen], part.polygons(last - first))


def _roots(parents: Ints) -> Ints:
    """Return the last parent of each area."""
    while (above := parents[parents]).tobytes() != parents.tobytes():
        parents = above
    return parents


def _in_order(corners: _Corners, done: Ints, num: int, width: int) -> tuple[Ints, Ints]:
    """Return whole areas in their order, and for each area its place in it, from 1."""
    last, first = np.zeros(num, np.int64), np.full(num, np.iinfo(np.int64).max)
    np.maximum.at(last, corners.areas, corners.y)
    np.minimum.at(first, corners.areas, corners.y * np.int64(width) + corners.x)
    order = done[np.lexsort((first[done], last[done]))]
    place = np.zeros(num, np.int64)
    place[order] = np.arange(1, len(order) + 1)
    return order, place


@dataclass
class _Corners:
    """Corners of areas in few bytes: the number of the area, (y, x), both directions, and whether simple edges keep the corner."""

    areas: Ints
    y: NDArray[np.int32]
    x: NDArray[np.int32]
    codes: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.areas)

    @classmethod
    def of(cls, corners_N5: Ints, kept_N: NDArray[np.bool_]) -> _Corners:
        codes = corners_N5[:, 3] * 4 + corners_N5[:, 4] + 16 * kept_N
        y, x = (corners_N5[:, column].astype(np.int32) for column in (1, 2))
        return cls(corners_N5[:, 0].copy(), y, x, codes.astype(np.uint8))

    @classmethod
    def joined(cls, parts: list[_Corners]) -> _Corners:
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in ("areas", "y", "x", "codes")})

    def chosen(self, which: NDArray[Any] | slice, numbers: Ints | None = None) -> _Corners:
        """Return some of the corners; ``numbers`` are new numbers of areas, by number."""
        areas = self.areas[which]
        return _Corners(areas if numbers is None else numbers[areas], self.y[which], self.x[which], self.codes[which])

    def batches(self, num_areas: int) -> Iterator[tuple[int, int, _Corners]]:
        """Yield the areas ``1..num_areas`` in batches: first and last + 1, from 0, and their corners, whose areas count from 1."""
        in_order = self.chosen(np.argsort(self.areas, kind="stable"))
        ends = np.searchsorted(in_order.areas, np.arange(num_areas + 1), side="right")  # ends[n]: of the corners of area n
        first = 0
        while first < num_areas:
            last = max(first + 1, int(np.searchsorted(ends, ends[first] + BATCH_CORNERS, side="right")) - 1)
            part = in_order.chosen(slice(int(ends[first]), int(ends[last])))
            part.areas = part.areas - first
            yield first, last, part
            first = last

    def polygons(self, num_areas: int) -> NDArray[Any]:
        """Return the polygon of each area ``1..num_areas``."""
        directions, is_kept = self.codes % 16, self.codes >= 16
        columns = (self.areas.astype(np.int32), self.y, self.x, directions // 4, directions % 4)
        corners_N5 = np.stack(columns, axis=1, dtype=np.int32)
        return join_corners(corners_N5, num_areas, None if is_kept.all() else is_kept)
