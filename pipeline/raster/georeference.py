"""Positions of pixels on a map, from GeoTIFF tags, whose keys are the tag numbers as text."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["METERS", "Scale", "affine", "coarsened", "coordinate_system", "geo_keys", "geo_number", "map_scale", "shifted"]

Tags = Mapping[str, Mapping[str, Any]]
Scale = tuple[tuple[float, float] | None, str, tuple[float, float]]
"""Pixel size (y, x) or None, its unit, and the (y, x) of the first pixel's corner."""

AFFINE_TAGS = ("33550", "33922", "34264", "34735", "34736", "34737")  # an affine and the coordinate system
RPC_TAG = "50844"  # 92 numbers: rational polynomials from longitude, latitude and height to pixels, of satellite images
METERS = {
    1025: 0.001,
    1033: 0.01,
    9001: 1.0,
    9002: 0.3048,  # foot
    9003: 1200 / 3937,  # US survey foot
    9005: 0.3047972654,  # Clarke
    9014: 1.8288,  # fathom
    9030: 1852.0,  # nautical mile
    9031: 1.0000135965,  # German legal metre
    9035: 1609.3472186944375,  # US survey mile
    9036: 1000.0,
    9037: 0.9143917962,
    9039: 0.201166195164,
    9040: 0.9143984146160287,
    9041: 0.3047994715386762,
    9042: 20.116765121552632,
    9062: 20.116782494375872,
    9084: 0.9143985307444408,  # Indian yard
    9093: 1609.344,  # mile
    9094: 0.3047997101815088,  # Gold Coast foot
    9096: 0.9144,  # yard
    9098: 0.201168,  # link
    9301: 20.116756,
}
"""Metres in a unit of length, by EPSG code: all units of the projected systems of EPSG 11, and some others."""
USER_DEFINED = 32767
UNIT, UNIT_SIZE = 3076, 3077  # GeoKeys: code of the unit of a projected map; metres in one where no code says them


def affine(tags: Tags) -> NDArray[np.float64] | None:
    """Return the matrix (3, 3) from a pixel corner (column, row, 1) to map coordinates; None if the tags hold none."""
    matrix, scale = (tags.get(code, {}).get("value", ()) for code in ("34264", "33550"))
    tie = tags.get("33922", {}).get("value", ())
    if len(matrix) == 16:
        found = np.array(matrix, float).reshape(4, 4)[np.ix_([0, 1, 3], [0, 1, 3])]
    elif len(scale) >= 2 and len(tie) >= 6:
        x, y, width, height = tie[3], tie[4], scale[0], scale[1]
        found = np.array([[width, 0.0, x - width * tie[0]], [0.0, -height, y + height * tie[1]], [0.0, 0.0, 1.0]])
    else:
        return None
    if not np.isfinite(found).all():
        return None
    if geo_keys(tags).get(1025) == 2:  # coordinates of pixel centres
        found = found @ np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])
    return found if np.linalg.det(found) else None


def map_scale(tags: Tags) -> Scale:
    """Return the pixel size and position of a map in metres or degrees; the unit is empty if the tags name no kind."""
    matrix, keys = affine(tags), geo_keys(tags)
    sides = [float(side) for side in tags.get("33550", {}).get("value", ())[:2]]
    if matrix is None and len(sides) < 2:
        return None, "", (0.0, 0.0)
    if len(tags.get("34264", {}).get("value", ())) == 16 and matrix is not None:
        sides = [float(np.hypot(*matrix[:2, column])) for column in (0, 1)]
    east, north = (0.0, 0.0) if matrix is None else (float(matrix[0, 2]), float(matrix[1, 2]))
    size_x, size_y = sides
    unit, factor = _map_unit(tags, keys)
    return (size_y * factor, size_x * factor), unit, (north * factor, east * factor)


def _map_unit(tags: Tags, keys: Mapping[int, int]) -> tuple[str, float]:
    """Return the unit of map coordinates, and the metres in one of them; the unit is empty if the file names one that is not known."""
    citation = str(tags.get("34737", {}).get("value", ""))
    if keys.get(1024) == 2 or (keys.get(1024) == USER_DEFINED and "= GEOGCS" in citation):
        return "degree", 1.0
    if 1024 not in keys:
        return "", 1.0
    code = keys.get(UNIT, 0)
    size = METERS.get(code) or (geo_number(tags, UNIT_SIZE) if code else _unit_size(coordinate_system(tags)))
    return ("meter", size) if size else ("", 1.0)


@lru_cache(maxsize=256)
def _unit_size(system: int) -> float:
    """Return the metres in a unit of a coordinate system, by EPSG code; 1 where rasterio is not installed or does not know the code."""
    if not system or importlib.util.find_spec("rasterio") is None:
        return 1.0
    from rasterio import CRS
    from rasterio.errors import CRSError

    try:
        return float(CRS.from_epsg(system).linear_units_factor[1])
    except CRSError:
        return 1.0


def geo_keys(tags: Tags) -> dict[int, int]:
    """Return the GeoKeys that are plain numbers."""
    values = tags.get("34735", {}).get("value", ())[4:]
    return {key: value for key, where, _, value in zip(*[iter(values)] * 4, strict=False) if where == 0}


def geo_number(tags: Tags, key: int) -> float | None:
    """Return a GeoKey that is a floating-point number, such as a half axis of the ellipsoid; None: the tags have none."""
    directory, numbers = tags.get("34735", {}).get("value", ())[4:], tags.get("34736", {}).get("value", ())
    numbers = numbers if isinstance(numbers, (list, tuple)) else (numbers,)
    for found, where, _, index in zip(*[iter(directory)] * 4, strict=False):
        if found == key and where == 34736 and index < len(numbers):
            return float(numbers[index])
    return None


def coordinate_system(tags: Tags) -> int:
    """Return the EPSG code of the coordinate system; 0 if there is none."""
    keys = geo_keys(tags)
    code = int(keys.get(3072, keys.get(2048, 0)))
    return 0 if code in (0, USER_DEFINED) else code


def coarsened(tags: Tags, factor: tuple[float, float]) -> dict[str, Any]:
    """Return the tags for a coarser grid with the same first corner, whose pixels span ``factor`` (y, x) pixels of the old grid.

    With GeoKey 1025 = 2 tie points and matrices locate pixel centres, which move.
    """
    steps, keys = (factor[1], factor[0], 1.0), geo_keys(tags)
    half = (0.5, 0.5, 0.0) if keys.get(1025) == 2 else (0.0, 0.0, 0.0)
    changed = dict(tags)
    if "33550" in tags:  # size of a pixel
        changed["33550"] = {**tags["33550"], "value": [size * step for size, step in zip(tags["33550"]["value"], steps, strict=False)]}
    if "33922" in tags:  # tie points: a pixel and its position, six numbers each
        tie = enumerate(tags["33922"]["value"])
        pairs = [((number, half[at % 6], steps[at % 6]) if at % 6 < 3 else (number, 0.0, 1.0)) for at, number in tie]
        changed["33922"] = {**tags["33922"], "value": [(number + middle) / step - middle for number, middle, step in pairs]}
    if "34264" in tags and len(tags["34264"]["value"]) == 16:  # matrix from pixels to map, 4 x 4, row after row
        rows = np.array(tags["34264"]["value"], float).reshape(4, 4)
        rows[:, 3] += rows[:, :3] @ (np.array(half) * (np.array(steps) - 1))
        rows[:, :3] *= steps
        changed["34264"] = {**tags["34264"], "value": rows.ravel().tolist()}
    if len((rpc := tags.get(RPC_TAG, {})).get("value", ())) == 92:  # line and sample are counted from the centre of the first pixel
        numbers = list(rpc["value"])
        numbers[2:4] = [(offset + 0.5) / step - 0.5 for offset, step in zip(numbers[2:4], factor, strict=True)]
        numbers[7:9] = [scale / step for scale, step in zip(numbers[7:9], factor, strict=True)]
        changed[RPC_TAG] = {**rpc, "value": numbers}
    return changed


def shifted(tags: Tags, shift: tuple[int, int]) -> dict[str, Any]:
    """Return the tags for the same grid whose first pixel is that at ``shift`` (y, x), which may be negative; only tags of an affine move.

    Example:
        >>> tags = {"33550": {"value": [2, 3, 0]}, "33922": {"value": [0, 0, 0, 500, 900, 0]}}
        >>> shifted(tags, (10, -4))["33922"]["value"]
        [0, 0, 0, 492, 870, 0]
    """
    y, x = shift
    changed = {code: tags[code] for code in AFFINE_TAGS if code in tags}
    if not (y or x):
        return changed
    scale, tie = (changed.get(code, {}).get("value", ()) for code in ("33550", "33922"))
    if len(scale) >= 2 and len(tie) >= 6:
        moved = [tie[0], tie[1], tie[2], tie[3] + x * scale[0], tie[4] - y * scale[1], tie[5]]
        changed["33922"] = {**changed["33922"], "value": moved}
    if "34264" in changed and len(changed["34264"]["value"]) == 16:
        rows = np.array(changed["34264"]["value"], float).reshape(4, 4)
        rows[:, 3] += rows[:, :3] @ np.array([x, y, 0.0])
        changed["34264"] = {**changed["34264"], "value": rows.ravel().tolist()}
    return changed
