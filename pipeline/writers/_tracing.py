"""Polygons of objects along the edges of their pixels.

Edges have their object on the right: shells run clockwise on the screen, where y points down, and holes counterclockwise. First the
corners of the edges are found. Each depends on 2x2 pixels alone::

    . .      . A      A A      A .      one pixel of the object, or three: one corner
    . A      A A      . A      . A      two diagonal ones: two corners, as pixels that share no side are not joined

Two corners of an object that are neighbours along a row or column are then joined by an edge. So the corners may be collected part
by part, and memory holds corners, not pixels. A straight edge may have points as well, where other objects meet at it, or on given
lines: edges before and after such a corner have one direction.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_corners", "join_corners"]

Ints = NDArray[np.int64]
Small = NDArray[np.int32]

EAST, SOUTH, WEST, NORTH = range(4)  # directions; those along rows are even
PLACES = ((1, 1), (1, 0), (0, 1), (0, 0))  # row and column of a pixel in a 2x2 square
ONE = {(1, 1): (NORTH, EAST), (1, 0): (EAST, SOUTH), (0, 1): (WEST, NORTH), (0, 0): (SOUTH, WEST)}
"""Directions of the edges before and after a corner of one pixel, by the pixel's place."""
THREE = {(1, 1): (WEST, SOUTH), (1, 0): (NORTH, WEST), (0, 1): (SOUTH, EAST), (0, 0): (EAST, NORTH)}
"""Directions of the edges before and after a corner of three pixels, by the place of the fourth."""


STRAIGHT = {EAST: ((1, 0), (1, 1)), WEST: ((0, 0), (0, 1)), NORTH: ((0, 1), (1, 1)), SOUTH: ((0, 0), (1, 0))}
"""Places of the two pixels along a straight edge, by its direction."""


def find_corners(labels_YX: NDArray[np.integer[Any]], y0: int, x0: int, *, junctions: bool = False, every: int = 0) -> Ints:
    """Find the corners of objects at every point between four pixels.

    Args:
        labels_YX: label of each pixel, 0 where there is no object; corners on the array's own border are not found.
        y0: row of the first point between four pixels.
        x0: column of that point.
        junctions: also find the points of straight edges where others meet, so that neighbours share every point of a common edge.
        every: also find the points where straight edges cross each row and column that is a multiple of this; 0: none.

    Returns:
        A row (label, y, x, direction of the edge before, direction of the edge after) for each corner.

    Example:
        >>> find_corners(np.pad([[7]], 1), 0, 0).tolist()
        [[7, 0, 0, 3, 0], [7, 0, 1, 0, 1], [7, 1, 0, 2, 3], [7, 1, 1, 1, 2]]
    """
    differs_YX = (labels_YX[:-1, 1:] != labels_YX[1:, 1:]) | (labels_YX[1:, :-1] != labels_YX[1:, 1:])
    differs_YX |= labels_YX[:-1, :-1] != labels_YX[1:, 1:]
    y, x = np.nonzero(differs_YX)
    square = {(row, column): labels_YX[y + row, x + column] for row, column in PLACES}
    found = []
    for row, column in PLACES:
        own, beside, above = square[row, column], square[row, 1 - column], square[1 - row, column]
        across = square[1 - row, 1 - column]
        is_one = (own != 0) & (own != beside) & (own != above)
        is_three = (across != 0) & (across == beside) & (across == above) & (across != own)
        for chosen, labels, turns in ((is_one, own, ONE), (is_three, across, THREE)):
            at = np.nonzero(chosen)[0]
            corners_N5 = np.empty((len(at), 5), np.int64)
            corners_N5[:, 0], corners_N5[:, 1], corners_N5[:, 2], corners_N5[:, 3:] = labels[at], y[at] + y0, x[at] + x0, turns[row, column]
            found.append(corners_N5)
    if junctions or every:
        found += _straight_points(square, y + y0, x + x0, junctions=junctions, every=every)
    return np.concatenate(found)


def _straight_points(square: dict[tuple[int, int], NDArray[Any]], y: Ints, x: Ints, *, junctions: bool, every: int) -> list[Ints]:
    """Return the points of straight edges where others meet, and those on lines, as corners whose directions are one."""
    found = []
    for direction, (first, second) in STRAIGHT.items():
        one, two = (square[place] for place in PLACES if place not in (first, second))
        own = square[first]
        chosen = (own != 0) & (own == square[second]) & (own != one) & (own != two)
        is_wanted = (one != two) if junctions else np.zeros(len(y), np.bool_)
        if every:
            is_wanted |= (x if direction % 2 == 0 else y) % every == 0
        at = np.nonzero(chosen & is_wanted)[0]
        found.append(np.stack([own[at].astype(np.int64), y[at], x[at], *[np.full(len(at), direction)] * 2], axis=1))
    return found


def join_corners(corners_N5: NDArray[np.integer[Any]], num_labels: int, kept_N: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """Join corners to polygons.

    Args:
        corners_N5: of the labels, in any order.
        num_labels: labels are ``1..num_labels``.
        kept_N: which corners become points of polygons, at least three of each ring; None: all.

    Returns:
        The geometry (x, y) of each label ``1..num_labels``: a polygon, a multipolygon of parts that share no side, or None where a
        label has no corners. Every geometry is valid. A ring begins at its first point in row-major order, and parts are in the
        order of these points, so that the result does not depend on how the corners were collected.

    Example:
        >>> labels_YX = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
        >>> join_corners(find_corners(np.pad(labels_YX, 1), 0, 0), 1)[0].wkt
        'POLYGON ((0 0, 3 0, 3 3, 0 3, 0 0), (1 1, 1 2, 2 2, 2 1, 1 1))'
    """
    if not len(corners_N5):
        return np.full(num_labels, None, object)
    order = np.argsort(_key(corners_N5, 0, 1, 2))
    corners_N5 = corners_N5[order]
    rings = _find_rings(_next_corners(corners_N5), _twins(corners_N5))
    rings = rings.chosen(np.argsort(rings.at[rings.starts]))
    labels = corners_N5[rings.at[rings.starts], 0].astype(np.int64)
    points_N2 = corners_N5[:, 2:0:-1].astype(np.float64)
    del corners_N5
    is_shell = rings.areas(points_N2) > 0
    if kept_N is not None:
        rings = rings.with_corners(kept_N[order])
    del order
    part = _parts(points_N2, rings, labels, is_shell)
    in_parts = np.lexsort((~is_shell, part))
    polygons = rings.chosen(in_parts).polygons(points_N2, np.nonzero(is_shell[in_parts])[0])
    return _collected(polygons, labels[is_shell], num_labels)


@dataclass
class _Rings:
    """Rings of corners, one after the other; 4 bytes a corner, as an object may have millions.

    Attributes:
        at: index of each corner.
        lengths: number of corners of each ring.
    """

    at: Small
    lengths: Ints

    @property
    def starts(self) -> Ints:
        """Position of the first corner of each ring."""
        starts: Ints = np.cumsum(self.lengths) - self.lengths
        return starts

    def chosen(self, which: Ints) -> _Rings:
        """Return some rings, in that order."""
        lengths = self.lengths[which]
        shift = self.starts[which] - (np.cumsum(lengths) - lengths)
        places = np.arange(lengths.sum(), dtype=np.int32)
        places += np.repeat(shift.astype(np.int32), lengths)
        return _Rings(self.at[places], lengths)

    def with_corners(self, kept_N: NDArray[np.bool_]) -> _Rings:
        """Return the rings without the corners that are not kept."""
        is_kept = kept_N[self.at]
        return _Rings(self.at[is_kept], np.add.reduceat(is_kept, self.starts, dtype=np.int64))

    def areas(self, points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the area of each ring, negative for holes."""
        ends = self.starts + self.lengths - 1
        following = np.empty_like(self.at)
        following[:-1] = self.at[1:]
        following[ends] = self.at[self.starts]
        doubled = points_N2[self.at, 0] * points_N2[following, 1]
        doubled -= points_N2[following, 0] * points_N2[self.at, 1]
        areas: NDArray[np.float64] = np.add.reduceat(doubled, self.starts) / 2
        return areas

    def polygons(self, points_N2: NDArray[np.float64], shells: NDArray[np.intp]) -> NDArray[Any]:
        """Return polygons of consecutive rings; ``shells`` are the positions of their shells."""
        import shapely

        starts = self.starts
        closed = np.insert(self.at, starts + self.lengths, self.at[starts])
        ends = np.append(0, np.cumsum(self.lengths + 1))
        offsets = ends, np.append(shells, len(self.lengths))
        found: NDArray[Any] = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points_N2[closed], offsets)
        return found


def _key(corners_N5: NDArray[np.integer[Any]], *columns: int) -> Ints:
    """Return one number per corner; the numbers sort as these columns do."""
    values = [corners_N5[:, column] - corners_N5[:, column].min() for column in columns]
    key: Ints = np.ravel_multi_index(values, [int(column.max()) + 1 for column in values])
    return key


def _next_corners(corners_N5: NDArray[np.integer[Any]]) -> Small:
    """Return the corner at the end of the edge that begins at each corner."""
    follows = np.empty(len(corners_N5), np.int32)
    for axis, across, along in ((0, 1, 2), (1, 2, 1)):
        ends = []
        for direction in (4, 3):  # edges that begin at a corner, edges that end there
            index = np.nonzero(corners_N5[:, direction] % 2 == axis)[0].astype(np.int32)
            ends.append(index[np.argsort(_key(corners_N5[index], 0, direction, across, along))])
        follows[ends[0]] = ends[1]  # edges of one direction in one row do not overlap
    return follows


def _twins(corners_N5: NDArray[np.integer[Any]]) -> Small:
    """Return for each corner the other corner that its object has at the same point, or -1; corners are sorted by label and point."""
    twins = np.full(len(corners_N5), -1, np.int32)
    first = np.nonzero((corners_N5[1:, :3] == corners_N5[:-1, :3]).all(axis=1))[0]
    twins[first], twins[first + 1] = first + 1, first
    return twins


def _find_rings(follows_N: Small, twins_N: Small) -> _Rings:
    """Follow the edges from corner to corner; where a ring meets itself, the loop becomes a separate ring."""
    found, lengths, seen = array("i"), array("q"), bytearray(len(follows_N))
    follows, twins = follows_N.data, twins_N.data
    for first in range(len(follows)):
        if seen[first]:
            continue
        path, places = array("i"), dict[int, int]()  # places in the path of corners with a twin
        at = first
        while not seen[at]:
            seen[at] = 1
            if (twin := twins[at]) >= 0:
                if (place := places.get(twin)) is not None:
                    loop = path[place:]
                    start = loop.index(min(loop))
                    found += loop[start:] + loop[:start]
                    lengths.append(len(loop))
                    for corner in loop:
                        places.pop(corner, None)
                    del path[place:]
                else:
                    places[at] = len(path)
            path.append(at)
            at = follows[at]
        found += path
        lengths.append(len(path))
    return _Rings(np.frombuffer(found, np.int32), np.frombuffer(lengths, np.int64))


def _parts(points_N2: NDArray[np.float64], rings: _Rings, labels: Ints, is_shell: NDArray[np.bool_]) -> Ints:
    """Return the number of the polygon of each ring; polygons are numbered in the order of their shells."""
    shells, holes = np.nonzero(is_shell)[0], np.nonzero(~is_shell)[0]
    part = np.empty(len(labels), np.int64)
    part[shells] = np.arange(len(shells))
    part[holes] = np.searchsorted(labels[shells], labels[holes])  # the only shell of an object, or the first
    is_multiple = np.append(np.diff(labels[shells]) == 0, False)
    unclear = holes[np.isin(labels[holes], labels[shells][is_multiple])]
    if len(unclear):
        part[unclear] = _smallest_around(points_N2, rings, labels, unclear, shells)
    return part


def _smallest_around(points_N2: NDArray[np.float64], rings: _Rings, labels: Ints, holes: Ints, shells: Ints) -> Ints:
    """Return the index of the smallest shell of the same object that covers each hole."""
    import shapely

    hole_areas, shell_areas = (rings.chosen(some).polygons(points_N2, np.arange(len(some))) for some in (holes, shells))
    hole, shell = shapely.STRtree(shell_areas).query(hole_areas, predicate="covered_by")
    is_same = labels[holes[hole]] == labels[shells[shell]]
    hole, shell = hole[is_same], shell[is_same]
    order = np.lexsort((shapely.area(shell_areas[shell]), hole))
    _, first = np.unique(hole[order], return_index=True)
    smallest: Ints = shell[order][first]
    return smallest


def _collected(polygons: NDArray[Any], labels: Ints, num_labels: int) -> NDArray[Any]:
    """Return one geometry per label; polygons are sorted by label."""
    import shapely

    geometries = np.full(num_labels, None, object)
    found, first, counts = np.unique(labels, return_index=True, return_counts=True)
    geometries[found - 1] = polygons[first]
    if (counts > 1).any():
        is_part = np.repeat(counts > 1, counts)
        number = np.repeat(np.cumsum(counts > 1) - 1, counts)
        geometries[found[counts > 1] - 1] = shapely.multipolygons(polygons[is_part], indices=number[is_part])
    return geometries
