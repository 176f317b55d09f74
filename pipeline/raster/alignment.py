"""How a raster of classes lies on the grid of another image, by the coordinates of both.

::

    whole pixels    shifted, flipped or turned by quarters: the very pixels, cropped or filled up
    affine          another pixel size, a rotation, a part of a pixel: the pixel under the centre of the new one
    warp            another coordinate system: the pixel under the centre of the new one, by PROJ

What lies outside the raster is not declared: no value is made up. A pixel has the same value in whatever region it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.raster.georeference import affine, coordinate_system, map_scale
from pipeline.raster.map_tags import map_grid
from pipeline.raster.opened import Header
from pipeline.raster.pixel_maps import TURN, AffineMap, PixelMap, WarpMap, linear_map, system_name

__all__ = ["TOLERANCE", "Alignment", "alignment_of", "moved_box"]

TOLERANCE = 0.1  # pixels by which two grids may differ over an image and still be the same
SYSTEM_KEYS = ("34735", "34736", "34737")  # tags that hold the coordinate system
ROUNDING = 1e-9  # of shares
SAMPLES = 33  # along each side of an image, to find what share of it another one covers


@dataclass(frozen=True, eq=False)
class Alignment:
    """How a raster (the source) lies on the grid of an image (the target).

    Attributes:
        kind: ``same`` grid; ``pixels``: whole pixels apart; ``affine`` or ``warp``: the nearest pixel.
        source_shape, target_shape: height and width, pixels.
        positions: where the target's pixels lie in the source; for ``same`` and ``pixels`` an affine of whole numbers.
        systems: names of the coordinate systems of source and target; empty where one has none.
        assumed: whether one of them names no coordinate system, so that its coordinates are taken as those of the other.
        share: part of the target's area that the source covers, 0..1.
    """

    kind: Literal["same", "pixels", "affine", "warp"]
    source_shape: tuple[int, int]
    target_shape: tuple[int, int]
    positions: PixelMap
    systems: tuple[str, str] = ("", "")
    assumed: bool = False
    share: float = 1.0

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The matrix (3, 3) of `positions`, of all kinds but ``warp``."""
        assert isinstance(self.positions, AffineMap)
        return self.positions.matrix

    @cached_property
    def gap(self) -> tuple[float, float]:
        """Rows and columns of the target between it and the source: below and to the right positive, 0 where they overlap; or NaN."""
        y, x = _outline(self.source_shape)
        if isinstance(self.positions, AffineMap):
            column, row = AffineMap(np.linalg.inv(self.matrix)).at(x, y)
        else:
            there = self.positions
            column, row = WarpMap(there.source, there.source_wkt, there.target, there.target_wkt).at(x, y)
        gaps = [_gap(float(one.min()), float(one.max()), side) for one, side in zip((row, column), self.target_shape, strict=True)]
        return gaps[0], gaps[1]


def _gap(low: float, high: float, side: int) -> float:
    return low - side if low > side else min(high, 0.0) if np.isfinite(high - low) else np.nan


def alignment_of(source: Header, target: Header) -> Alignment | None:
    """Return how a raster lies on the grid of an image; None where one of them has no coordinates.

    Raises:
        InputError: their coordinate systems cannot be compared: rasterio is not installed, or PROJ knows no way between them.
    """
    places = [{key: header.georeference[key] for key in _TAGS if key in header.georeference} for header in (source, target)]
    if not all(places):
        return None
    return _alignment_of(source.shape, target.shape, *(json.dumps(place, sort_keys=True) for place in places))


_TAGS = ("33550", "33922", "34264", *SYSTEM_KEYS)
Tags = Mapping[str, Any]


@lru_cache(maxsize=1 << 13)
def _alignment_of(source_shape: tuple[int, int], target_shape: tuple[int, int], source: str, target: str) -> Alignment | None:
    of_source, of_target = json.loads(source), json.loads(target)
    matrices = affine(of_source), affine(of_target)
    if matrices[0] is None or matrices[1] is None:
        return None
    systems, assumed = _systems(of_source, of_target)
    middle = _middle(of_source, matrices[0], source_shape)
    positions: PixelMap
    if isinstance(systems, str):
        matrix = matrices[1].copy()
        if middle is not None:  # longitudes of the same places may be counted from -180 or from 0
            own = _middle(of_source, matrix, target_shape)
            matrix[0, 2] += TURN * np.round((middle - (own or 0.0)) / TURN)
        positions, names = AffineMap(linear_map(matrices[0], matrix)), (systems, systems)
    else:
        positions = WarpMap(matrices[1], systems[1], matrices[0], systems[0], middle)
        names = system_name(systems[0]), system_name(systems[1])
    found = Alignment("warp" if isinstance(positions, WarpMap) else "affine", source_shape, target_shape, positions, names, assumed)
    whole = _whole_pixels(positions, target_shape)
    if whole is None:
        return replace(found, share=_share(found))
    is_same = source_shape == target_shape and np.array_equal(whole, np.eye(3))
    found = replace(found, kind="same" if is_same else "pixels", positions=AffineMap(whole))
    region = moved_box(whole, Box(0, 0, *target_shape)).intersection(Box(0, 0, *source_shape))
    return replace(found, share=region.area / (target_shape[0] * target_shape[1]) if region else 0.0)


def _systems(source: Tags, target: Tags) -> tuple[str | tuple[str, str], bool]:
    """Return the name of the coordinate system of both, or the WKT of each; and whether one names none.

    Raises:
        InputError: they cannot be compared.
    """
    codes = coordinate_system(source), coordinate_system(target)
    named = [_names_system(tags) for tags in (source, target)]
    name = next((f"EPSG:{code}" for code in codes if code), "")
    if not all(named):
        return name, any(named)
    if (codes[0] and codes[0] == codes[1]) or all(_value(source, key) == _value(target, key) for key in SYSTEM_KEYS):
        return name, False
    try:
        wkts = _wkt(_system_tags(source)), _wkt(_system_tags(target))
    except ImportError as error:
        if not all(codes):
            return name, True
        way_out = 'comparing coordinate systems needs packages that are not installed: pip install "gigaseg[geo]"'
        raise InputError(f"coordinates in EPSG:{codes[0]} for an image in EPSG:{codes[1]}: {way_out}") from error
    if not all(wkts):
        return next((system_name(wkt) for wkt in wkts if wkt), name), any(wkts)
    from rasterio import CRS

    if CRS.from_wkt(wkts[0]) == CRS.from_wkt(wkts[1]):
        return system_name(wkts[0]), False
    return wkts, False


def _system_tags(tags: Tags) -> str:
    return json.dumps({key: tags[key] for key in SYSTEM_KEYS if key in tags})


def _value(tags: Tags, key: str) -> Any:
    return tags.get(key, {}).get("value")


def _names_system(tags: Tags) -> bool:
    """Whether the tags may name a coordinate system: a code, or parameters of one."""
    return bool(coordinate_system(tags) or _value(tags, "34736") or _value(tags, "34737"))


@lru_cache(maxsize=256)
def _wkt(system: str) -> str:
    """Return the coordinate system of tags as WKT 2; empty if they name none."""
    anywhere = {"33550": {"type": 12, "value": [1.0, 1.0, 0.0]}, "33922": {"type": 12, "value": [0.0, 0.0, 0.0, 1.0, 1.0, 0.0]}}
    grid = map_grid({**json.loads(system), **anywhere})
    if grid is not None and not grid.wkt.startswith(("ENGCRS", "LOCAL_CS")):
        return grid.wkt
    from rasterio import CRS
    from rasterio.errors import CRSError

    try:  # tags that contradict each other may still hold a code
        return str(CRS.from_epsg(code).to_wkt(version="WKT2_2019")) if (code := coordinate_system(json.loads(system))) else ""
    except CRSError:
        return ""


def _middle(tags: Tags, matrix: NDArray[Any], shape: tuple[int, int]) -> float | None:
    """Return the longitude in the middle of an image; None where the coordinates of ``tags`` are no degrees."""
    if map_scale(tags)[1] != "degree":
        return None
    return float(AffineMap(matrix).at(np.array(shape[1] / 2), np.array(shape[0] / 2))[0])


def _outline(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return y and x of points along the edge of an image, in order."""
    steps, height, width = np.linspace(0, 1, SAMPLES)[:-1], shape[0], shape[1]
    zeros, ones = np.zeros_like(steps), np.ones_like(steps)
    y = np.concatenate([zeros, steps, ones, 1 - steps]) * height
    return y, np.concatenate([steps, ones, 1 - steps, zeros]) * width


def _whole_pixels(positions: PixelMap, shape: tuple[int, int]) -> NDArray[np.float64] | None:
    """Return the matrix of whole numbers that equals the positions over an image, within the tolerance; None: there is none."""
    y, x = (grid.ravel() for grid in np.meshgrid(*(np.linspace(0, side, 9) for side in shape), indexing="ij"))
    along, down = positions.at(x, y)
    if not np.isfinite(along).all() or not np.isfinite(down).all():
        return None
    corner, right, below = 0, 8, 72  # of the 9 x 9 points
    found = np.eye(3)
    for row, one in enumerate((along, down)):
        found[row] = (one[right] - one[corner]) / shape[1], (one[below] - one[corner]) / shape[0], one[corner]
    whole = np.round(found)
    if not (np.abs(whole[:2, :2]).sum(axis=0) == 1).all() or not (np.abs(whole[:2, :2]).sum(axis=1) == 1).all():
        return None
    expected = AffineMap(whole).at(x, y)
    away = max(float(np.abs(along - expected[0]).max()), float(np.abs(down - expected[1]).max()))
    return whole if away <= TOLERANCE else None


def _share(found: Alignment) -> float:
    """Return the part of the target that the source covers: of an affine exactly, of a warp by samples."""
    height, width = found.source_shape
    if isinstance(found.positions, WarpMap):
        y, x = (np.linspace(0.5, side - 0.5, SAMPLES) for side in found.target_shape)  # centres of pixels, which decide
        across, down = found.positions.at(x[None, :], y[:, None])
        inside = (across >= 0) & (across <= width) & (down >= 0) & (down <= height)
        weights = np.ones(SAMPLES)
        weights[[0, -1]] = 0.5  # points of the edges stand for half as much
        if inside.any():
            return float(np.average(inside, weights=np.outer(weights, weights))) if not inside.all() else 1.0
    y, x = _outline(found.target_shape)
    across, down = found.positions.at(x, y)
    if not np.isfinite(across).all() or not np.isfinite(down).all():
        return 0.0
    outline_N2 = np.stack([across, down], axis=1)
    whole = _area(outline_N2)
    for axis, side in ((0, width), (1, height)):
        outline_N2 = _cut(outline_N2, axis, 0.0, 1.0)
        outline_N2 = _cut(outline_N2, axis, float(side), -1.0)
    share = _area(outline_N2) / whole if whole else 0.0
    return share if share < 1 - ROUNDING else 1.0


def _area(outline_N2: NDArray[np.float64]) -> float:
    """Return the area of a polygon (the shoelace formula)."""
    if len(outline_N2) < 3:
        return 0.0
    x, y = (outline_N2 - outline_N2[0]).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _cut(outline_N2: NDArray[np.float64], axis: int, edge: float, sign: float) -> NDArray[np.float64]:
    """Keep the part of a polygon on one side of a line (Sutherland and Hodgman, 1974): where ``sign * (value - edge) >= 0``."""
    kept = list[NDArray[np.float64]]()
    away = sign * (outline_N2[:, axis] - edge)
    for index in range(len(outline_N2)):
        before = index - 1
        if (away[index] >= 0) != (away[before] >= 0):
            part = away[before] / (away[before] - away[index])
            kept.append(outline_N2[before] + part * (outline_N2[index] - outline_N2[before]))
        if away[index] >= 0:
            kept.append(outline_N2[index])
    return np.array(kept).reshape(-1, 2)


def moved_box(matrix: NDArray[Any], box: Box) -> Box:
    """Move a box by a matrix of whole numbers."""
    x, y = AffineMap(matrix).at(np.array([box.x0, box.x1], float), np.array([box.y0, box.y1], float))
    return Box(round(min(y)), round(min(x)), round(max(y)), round(max(x)))
