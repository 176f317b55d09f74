"""What is wrong with the place of an image on a map, from its GeoTIFF tags: what cannot be used is left out, what surprises is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.raster import Scale, affine, map_scale

__all__ = ["PLACING_TAGS", "POINTS_NOTE", "RPC_NOTE", "RPC_TAG", "check_place", "control_points", "fit_points", "num_points"]

PLACING_TAGS = ("33550", "33922", "34264")  # pixel scale, tie points, transformation
RPC_TAG = "50844"  # of TIFF: rational polynomials from longitude, latitude and height to pixels
LARGEST, SMALLEST = {"meter": 1e6, "degree": 360.0}, 1e-9  # of a pixel's side, in the unit of the map; the first also where there is none
POINTS_NOTE = "{} control points place the image: it is not warped, and masks carry the points"
RPC_NOTE = "rational polynomials place the image: it is not warped, and masks carry them"
MOST_OFF = 0.25  # pixels between control points and the affine through them, as GDAL allows


def check_place(tags: Mapping[str, Any], shape: tuple[int, int]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return tags without a place that is none, and notes.

    A place is none if its numbers are not finite, if it maps pixels to a line, or if a pixel is larger than 1000 km or 360 degrees
    or smaller than 1e-9 of either. An image in degrees that passes the antimeridian keeps its place, with a note.

    Args:
        tags: as ``Header.georeference`` holds them.
        shape: height and width of the image.
    """
    kept = dict(tags)
    if not ("34264" in tags or "33550" in tags):
        return kept, ()
    size, unit, _ = map_scale(tags)
    matrix = affine(tags)
    found = "" if size is None else f"a pixel of {size[1]:g} x {size[0]:g} {unit or 'units'}"
    is_size = size is not None and all(SMALLEST <= side <= LARGEST.get(unit, LARGEST["meter"]) for side in size)
    is_tied = "34264" in tags or len(tags.get("33922", {}).get("value", ())) >= 6
    if not is_size or (matrix is None and is_tied):
        for code in PLACING_TAGS:
            kept.pop(code, None)
        return kept, (f"the georeference gives {found or 'numbers of a line'}, which is no size on a map: it is ignored",)
    return kept, tuple(_beyond(matrix, shape)) if unit == "degree" and matrix is not None else ()


def _beyond(matrix: NDArray[np.float64], shape: tuple[int, int]) -> list[str]:
    """Return notes on an image in degrees that passes the antimeridian."""
    corners = np.array([[x, y, 1.0] for y in (0, shape[0]) for x in (0, shape[1])]) @ matrix.T
    west, east = corners[:, 0].min(), corners[:, 0].max()
    margin = 1e-3 * float(np.abs(matrix[:2, :2]).max())
    notes = []
    if east - west > 360 + margin:
        notes.append(f"the image spans longitudes {west:.6g} to {east:.6g}: places that it shows twice are counted twice")
    elif (west < -180 - margin or east > 180 + margin) and not (west >= -margin and east <= 360 + margin):
        notes.append(f"the image spans longitudes {west:.6g} to {east:.6g}, across the antimeridian: its outputs keep these numbers")
    elif west < 180 - margin and east > 180 + margin:
        notes.append(f"the image spans longitudes {west:.6g} to {east:.6g}: its outputs keep these numbers, which do not end at 180")
    return notes


def num_points(tags: Mapping[str, Any]) -> int:
    """Return the number of control points that place an image; 0 where something else does."""
    number = len(tags.get("33922", {}).get("value", ())) // 6
    return number if number > 1 and "33550" not in tags and "34264" not in tags else 0


def control_points(tags: Mapping[str, Any]) -> Scale:
    """Return the (y, x) size of a pixel, its unit and the offset that tie points give; no size where they lie on no affine."""
    values = np.array(tags.get("33922", {}).get("value", ()), float)
    matrix = fit_points(values.reshape(-1, 6)[:, [0, 1, 3, 4]]) if len(values) % 6 == 0 else None
    if matrix is None:
        return None, "", (0.0, 0.0)
    (a, b, x), (d, e, y) = matrix.tolist()
    affine = {"type": 12, "value": [a, b, 0.0, x, d, e, 0.0, y, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]}
    return map_scale({**{code: tag for code, tag in tags.items() if code != "33922"}, "34264": affine})


def fit_points(points: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the affine (2, 3) from (column, row, 1) to (x, y) that control points lie on; None if they lie on none.

    Args:
        points: (N, 4), column, row, x and y of each.

    Example:
        >>> fit_points(np.array([[0, 0, 500, 900], [10, 0, 520, 900], [0, 10, 500, 880.0]])).round(6).tolist()
        [[2.0, 0.0, 500.0], [0.0, -2.0, 900.0]]
    """
    if len(points) < 3 or not np.isfinite(points).all():
        return None
    middle = points.mean(axis=0)
    pixels_N3 = np.column_stack([points[:, :2] - middle[:2], np.ones(len(points))])
    found, _, rank, _ = np.linalg.lstsq(pixels_N3, points[:, 2:] - middle[2:], rcond=None)
    linear = found[:2].T
    if rank < 3 or not np.linalg.det(linear):
        return None
    off_N2 = np.linalg.solve(linear, (pixels_N3 @ found - (points[:, 2:] - middle[2:])).T).T
    if np.abs(off_N2).max() > MOST_OFF:
        return None
    corner = middle[2:] + found[2] - linear @ middle[:2]
    return np.column_stack([linear, corner])
