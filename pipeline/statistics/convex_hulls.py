"""Convex hulls of many objects at once, from parts of objects that can be joined.

A hull has a left and a right side, each with one point per row. Only the corners of the two sides of a part are kept, because the
corners of an object are among those of its parts. Coordinates are integers, so a hull does not depend on how an object was cut.

Points are arrays (3, P) int64 of (id, y, x). The area is that of scikit-image's ``convex_hull_image``: the pixels whose centre lies
in or on the hull of the midpoints of all pixel edges of the object.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["hull_areas", "left_side", "right_side"]

Points = NDArray[np.int64]


def left_side(points_3P: Points) -> Points:
    """Return the corners of the left side of each object's hull, by id and row.

    Example:
        >>> left_side(np.array([[7, 7, 7, 7], [0, 1, 1, 2], [2, 2, 0, 2]])).tolist()
        [[7, 7, 7], [0, 1, 2], [2, 0, 2]]
    """
    points_3P = points_3P[:, np.lexsort(points_3P[::-1])]
    ids, y, _ = points_3P
    return _corners(points_3P[:, (np.diff(ids, prepend=0) != 0) | (np.diff(y, prepend=-1) != 0)])


def right_side(points_3P: Points) -> Points:
    """Return the corners of the right side of each object's hull, by id and row."""
    return _mirrored(left_side(_mirrored(points_3P)))


def hull_areas(left_3P: Points, right_3P: Points) -> NDArray[np.int64]:
    """Count the pixels of each object's hull, ordered by id, from the corners of both sides.

    Example:
        >>> corners = np.array([[7, 7, 7], [0, 1, 2], [2, 0, 2]])
        >>> hull_areas(left_side(corners), right_side(corners)).tolist()
        [7]
    """
    first, rows = _first_pixels(left_3P)
    return rows - first - _first_pixels(_mirrored(right_3P))[0]


def _mirrored(points_3P: Points) -> Points:
    mirrored: Points = points_3P * np.array([[1], [1], [-1]])
    return mirrored


def _corners(points_3P: Points) -> Points:
    """Keep the corners of the left side, of points sorted by id and row, one per row.

    A point that does not lie to the left of the line between its neighbours is no corner, even if its neighbours are removed. So all
    such points are removed at once, again and again, until an object has none left.
    """
    done = []
    while points_3P.shape[1] > 2:
        ids, y, x = points_3P
        inner = (x[1:-1] - x[:-2]) * (y[2:] - y[:-2]) >= (x[2:] - x[:-2]) * (y[1:-1] - y[:-2])
        drop = np.zeros(len(ids), np.bool_)
        drop[1:-1] = inner & (ids[:-2] == ids[2:])
        number = np.cumsum(np.diff(ids, prepend=ids[0]) != 0)
        changed = np.zeros(number[-1] + 1, np.bool_)
        changed[number[drop]] = True
        done.append(points_3P[:, ~changed[number]])
        points_3P = points_3P[:, changed[number] & ~drop]
    points_3P = np.concatenate([*done, points_3P], axis=1)
    return points_3P[:, np.lexsort(points_3P[1::-1])]


def _first_pixels(left_3P: Points) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sum the first column inside the hull over the rows of each object; return the sums and the number of rows.

    The unit is half a pixel, in which midpoints of pixel edges have integer coordinates, and pixel centres even ones.
    """
    ids, y, x = left_3P
    middles = [np.stack([ids, 2 * y + dy, 2 * x + dx]) for dy, dx in ((-1, 0), (0, -1), (1, 0))]
    ids, y, x = left_side(np.concatenate(middles, axis=1))
    start = y + y % 2
    rows = np.zeros_like(y)
    rows[:-1] = np.where(ids[1:] == ids[:-1], np.maximum(0, (y[1:] - start[:-1] + 1) // 2), 0)
    edge = np.repeat(np.arange(len(ids)), rows)
    down = start[edge] - y[edge] + 2 * (np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows))
    height, width = np.diff(y, append=0)[edge], np.diff(x, append=0)[edge]
    first = -(-(x[edge] * height + width * down) // (2 * height))  # rounded up to the next centre
    begins = np.flatnonzero(np.diff(ids[edge], prepend=0))
    if not len(begins):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.add.reduceat(first, begins), np.diff(begins, append=len(edge))
