"""More corners on edges of polygons near a pole: an edge that is straight on a map is a curve in longitude and latitude.

An edge of length ``l`` whose nearest point lies ``d`` from the pole leaves the straight line between its ends, in longitude and
latitude, by ``l * l / (8 * d)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["with_polar_corners"]

STRAIGHT = 0.1  # pixels by which an edge may leave its curve
NEAREST = 0.5  # pixels from the pole; nearer edges are cut as if they were so far


def with_polar_corners(geometries: NDArray[Any], pole: NDArray[np.float64], pixel: float, longest: float) -> NDArray[Any]:
    """Return polygons whose edges near a pole are cut into equal pieces, which are straight to a tenth of a pixel.

    Neighbours get the same corners on a common edge.

    Args:
        geometries: polygons and multipolygons on a map.
        pole: its place (x, y) on the map.
        pixel: side of a pixel on the map.
        longest: length of the longest edge, pixels.
    """
    import shapely

    points_N2, index = shapely.get_coordinates(geometries, return_index=True)
    reach = pixel * (longest**2 / (8 * STRAIGHT) + longest)
    near = np.unique(index[np.hypot(*(points_N2 - pole).T) < reach])
    if not len(near):
        return geometries
    geometries = geometries.copy()
    for at in near.tolist():
        kind, corners_N2, offsets = shapely.to_ragged_array([geometries[at]])
        dense_N2, ends = _cut((corners_N2 - pole) / pixel, np.asarray(offsets[0], np.intp))
        geometries[at] = shapely.from_ragged_array(kind, dense_N2 * pixel + pole, (ends, *offsets[1:]))[0]
    return geometries


def _cut(corners_N2: NDArray[np.float64], rings: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Cut the edges of rings, given in pixels from the pole; return the corners, and where each ring begins."""
    starts = np.ones(len(corners_N2), bool)
    starts[rings[1:] - 1] = False  # the last corner of a ring begins no edge
    first = np.flatnonzero(starts)
    one, other = corners_N2[first], corners_N2[first + 1]
    is_back = (one[:, 0] > other[:, 0]) | ((one[:, 0] == other[:, 0]) & (one[:, 1] > other[:, 1]))
    low, high = np.where(is_back[:, None], other, one), np.where(is_back[:, None], one, other)  # neighbours run along an edge both ways
    step = high - low
    length = np.hypot(*step.T)
    along = np.clip(-(low * step).sum(axis=1) / np.maximum(length**2, np.finfo(float).tiny), 0, 1)
    distance = np.maximum(np.hypot(*(low + along[:, None] * step).T), NEAREST)
    pieces = np.ones(len(corners_N2), np.intp)
    pieces[first] = np.maximum(np.ceil(length / np.sqrt(8 * STRAIGHT * distance)), 1).astype(np.intp)
    begins = np.cumsum(pieces) - pieces
    number = np.arange(pieces.sum()) - np.repeat(begins, pieces)  # of each corner along its edge
    edge = np.repeat(np.cumsum(starts) - 1, pieces)
    parts = np.repeat(pieces, pieces)
    dense_N2 = np.repeat(corners_N2, pieces, axis=0)
    cut = number > 0
    shares = (np.where(is_back[edge], parts - number, number) / parts)[cut, None]
    dense_N2[cut] = low[edge[cut]] + shares * step[edge[cut]]
    return dense_N2, np.append(begins, pieces.sum())[rings]
