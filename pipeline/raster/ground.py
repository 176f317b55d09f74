"""Sizes of pixels on the ground: metres along both axes and square metres, for maps in metres, degrees and Mercator.

Lengths on a map are not those on the ground. Maps in degrees and Mercator maps differ most, and for them the sizes here are exact on the
ellipsoid that the file names, else WGS84: the integral of the area of a cell in closed form along x and by a Gauss rule of five points
along y, which is exact to 1e-12 for cells of one degree. Other projected maps count as they are drawn: the scale of UTM is wrong by
under 0.1 %, areas by under 0.2 %.

Rules: a row of a rotated map has the latitude of its middle column. What lies beyond a pole has no area. A pixel size that a user
sets (``reader.pixel_size``) is a size on the ground, and the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.georeference import affine, coordinate_system, geo_keys, geo_number
from pipeline.raster.opened import Header

__all__ = ["beyond_pole", "center_latitude", "ground_area", "ground_size", "ground_sizes", "has_equal_rows", "pixel_shares", "row_areas"]

Values = NDArray[np.float64]
Axes = tuple[float, float]  # long half axis in metres, and squared eccentricity

WGS84 = (6378137.0, 298.257223563)  # long half axis in metres, inverse flattening
WEB_MERCATOR = (3857, 3785, 900913, 102100, 102113)  # EPSG codes, the second and third out of use, then those of ESRI
WEB_MERCATOR_NAMES = ("pseudo-mercator", "mercator_auxiliary_sphere", "web_mercator", "web mercator")
WORLD_MERCATOR = 3395  # EPSG code: Mercator on the ellipsoid
DEGREES = {0: 1.0, 9101: 180 / math.pi, 9102: 1.0, 9105: 0.9, 9106: 0.9, 9122: 1.0}  # in one unit, by EPSG code; 0: the file names none
NODES, WEIGHTS = np.polynomial.legendre.leggauss(5)
STRIP = 1 << 16  # rows whose areas are added at once
ROUNDING = 1e-9  # of shares
ITERATIONS = 8  # of the latitude of ellipsoidal Mercator: each gives more than two digits


@dataclass(frozen=True)
class _Map:
    """A map whose scale depends on the latitude."""

    matrix: NDArray[np.float64]  # from a pixel corner (column, row, 1) to map coordinates
    column: float  # the middle column, in pixels
    latitude_of: Callable[[Values], Values]  # of northings, radians
    scales_at: Callable[[Values], tuple[Values, Values]]  # metres on the ground (y, x) of one unit of the map, at latitudes
    limit: float  # greatest northing, in units of the map

    def northings(self, rows: Values) -> Values:
        """Return the map's second coordinate at positions of rows; 0 is the upper edge of the first row."""
        northings: Values = self.matrix[1, 0] * self.column + self.matrix[1, 1] * rows + self.matrix[1, 2]
        return northings

    def areas(self, y0: int, y1: int) -> Values:
        """Return the area of one pixel of each row ``y0..y1``, square metres."""
        edges = self.northings(np.arange(y0, y1 + 1, dtype=np.float64))
        low, high = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
        bottom, top = np.clip(low, -self.limit, self.limit), np.clip(high, -self.limit, self.limit)
        is_flat = low == high  # rows along a meridian
        inside = np.where(is_flat, np.abs(low) <= self.limit, (top - bottom) / np.where(is_flat, 1.0, high - low))
        nodes = (bottom + top)[:, None] / 2 + (top - bottom)[:, None] / 2 * NODES
        scale_y, scale_x = self.scales_at(self.latitude_of(nodes))
        areas: Values = abs(np.linalg.det(self.matrix[:2, :2])) * inside * ((scale_y * scale_x) @ (WEIGHTS / 2))
        return areas

    def sizes(self, rows: Values) -> tuple[Values, Values]:
        """Return height and width of a pixel at positions of rows, metres."""
        scale_y, scale_x = self.scales_at(self.latitude_of(np.clip(self.northings(rows), -self.limit, self.limit)))
        along_x, along_y = self.matrix[:2, 0], self.matrix[:2, 1]
        return np.hypot(scale_x * along_y[0], scale_y * along_y[1]), np.hypot(scale_x * along_x[0], scale_y * along_x[1])

    def shares(self, rows: Values) -> Values:
        """Return the area of a pixel divided by height times width, at positions of rows."""
        scale_y, scale_x = self.scales_at(self.latitude_of(np.clip(self.northings(rows), -self.limit, self.limit)))
        height, width = self.sizes(rows)
        found: Values = np.minimum(abs(np.linalg.det(self.matrix[:2, :2])) * scale_y * scale_x / (height * width), 1.0)
        return found


def ground_size(header: Header) -> tuple[float, float] | None:
    """Return height and width of a pixel at the centre of a map, metres on the ground.

    None: the image is no map, its position is unknown, or its centre lies beyond a pole.

    Example:
        >>> tags = {"33550": {"value": [1, 1, 0]}, "33922": {"value": [0, 0, 0, 0, 8399738, 0]}}
        >>> keys = {"34735": {"value": [1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 3857]}}
        >>> here = Header((1, 1), 1, "uint8", pixel_size=(1.0, 1.0), unit="meter", georeference={**tags, **keys})
        >>> [round(side, 4) for side in ground_size(here)]  # web Mercator, at 60 degrees north
        [0.5004, 0.5013]
    """
    middle = header.shape[0] / 2
    if (found := _map_of(header)) is None or abs(found.northings(np.array([middle]))[0]) > found.limit:
        return header.pixel_size if found is None and header.unit == "meter" else None
    height, width = found.sizes(np.array([middle]))
    return float(height[0]), float(width[0])


def center_latitude(header: Header) -> float | None:
    """Return the latitude of the centre of a map whose scale depends on it, degrees; None: any other image."""
    if (found := _map_of(header)) is None:
        return None
    return math.degrees(float(found.latitude_of(found.northings(np.array([header.shape[0] / 2])))[0]))


def ground_sizes(header: Header, rows: NDArray[Any]) -> tuple[Values, Values] | None:
    """Return height and width of a pixel at positions of rows, metres on the ground; 0 is the centre of the first row.

    None: the image is no map, or its position is unknown.
    """
    if (found := _map_of(header)) is not None:
        return found.sizes(np.asarray(rows, np.float64) + 0.5)
    if header.unit != "meter" or header.pixel_size is None:
        return None
    height, width = header.pixel_size
    return np.full(len(rows), height), np.full(len(rows), width)


def row_areas(header: Header, y0: int, y1: int) -> Values | None:
    """Return the area of one pixel of each row ``y0..y1``, square metres on the ground.

    None: the image is no map, or its position is unknown.

    Example:
        >>> tags = {"33550": {"value": [1, 1, 0]}, "33922": {"value": [0, 0, 0, -180, 90, 0]}}
        >>> world = {**tags, "34735": {"value": [1, 1, 0, 1, 1024, 0, 1, 2]}}
        >>> areas = row_areas(Header((180, 360), 1, "uint8", pixel_size=(1.0, 1.0), unit="degree", georeference=world), 0, 180)
        >>> round(360 * float(areas.sum()) / 1e12, 4)  # of the earth, million square kilometres
        510.0656
    """
    if (found := _map_of(header)) is not None:
        return found.areas(y0, y1)
    if header.unit != "meter" or header.pixel_size is None:
        return None
    return np.full(y1 - y0, _drawn_area(header, header.pixel_size))


def ground_area(header: Header) -> tuple[float, str] | None:
    """Return the mean area of a pixel and its unit, ``micrometer`` or ``meter``, squared; None: unknown."""
    if (found := _map_of(header)) is not None:
        height = header.shape[0]
        strips = (found.areas(row, min(row + STRIP, height)).sum() for row in range(0, height, STRIP))
        return float(sum(strips)) / height, "meter"
    if header.unit not in ("micrometer", "meter") or header.pixel_size is None:
        return None
    return _drawn_area(header, header.pixel_size), header.unit


def pixel_shares(header: Header, rows: NDArray[Any]) -> Values:
    """Return the area of a pixel divided by height times width, at positions of rows; 0 is the centre of the first row.

    It is 1 where the sides of a pixel are at right angles, and less on sheared maps.
    """
    if (found := _map_of(header)) is not None:
        return found.shares(np.asarray(rows, np.float64) + 0.5)
    return np.full(len(rows), _drawn_share(header))


def _drawn_area(header: Header, size: tuple[float, float]) -> float:
    """Return the area of a pixel as it is drawn: on a sheared map, less than the product of its sides."""
    return size[0] * size[1] * _drawn_share(header)


def _drawn_share(header: Header) -> float:
    matrix = affine(header.georeference)
    if matrix is None or header.pixel_size_from == "reader.pixel_size":
        return 1.0
    (a, b), (d, e) = matrix[:2, :2]
    share = float(abs(a * e - b * d) / (np.hypot(a, d) * np.hypot(b, e)))
    return share if share < 1 - ROUNDING else 1.0


def has_equal_rows(header: Header) -> bool:
    """Whether all pixels count as equally large, so that an area is a number of pixels times that of one."""
    return _map_of(header) is None


def beyond_pole(header: Header) -> bool:
    """Whether the centre of the first or of the last row lies beyond a pole: such a map has swapped or wrong coordinates."""
    found = _map_of(header)
    return found is not None and bool((np.abs(found.northings(np.array([0.5, header.shape[0] - 0.5]))) > found.limit).any())


def _map_of(header: Header) -> _Map | None:
    """Return the map of an image; None: its scale is the same everywhere, or is not known."""
    matrix, tags = affine(header.georeference), header.georeference
    if matrix is None or header.pixel_size_from == "reader.pixel_size" or header.unit not in ("meter", "degree"):
        return None
    column, axes = header.shape[1] / 2, _ellipsoid(tags)
    if header.unit == "degree":
        degrees = DEGREES.get(geo_keys(tags).get(2054, 0))
        return None if degrees is None else _geographic(matrix, column, axes, degrees)
    if coordinate_system(tags) == WORLD_MERCATOR:
        return _world_mercator(matrix, column, axes)
    return _web_mercator(matrix, column, axes) if _is_web_mercator(tags) else None


def _is_web_mercator(tags: Mapping[str, Any]) -> bool:
    names = str(tags.get("34737", {}).get("value", "")).lower()
    return coordinate_system(tags) in WEB_MERCATOR or any(name in names for name in WEB_MERCATOR_NAMES)


def _ellipsoid(tags: Mapping[str, Any]) -> Axes:
    """Return the long half axis in metres and the squared eccentricity of a file's ellipsoid; WGS84 if it names none."""
    axis, short, flattening = (geo_number(tags, key) for key in (2057, 2058, 2059))
    if axis is not None and short is not None:
        return axis, 1 - (short / axis) ** 2
    inverse = flattening or (WGS84[1] if axis is None else math.inf)
    return axis or WGS84[0], (2 - 1 / inverse) / inverse


def _radii(latitude: Values, axes: Axes) -> tuple[Values, Values]:
    """Return the radius of the meridian, and that of the circle of latitude, metres."""
    axis, squared = axes
    root = np.sqrt(1 - squared * np.sin(latitude) ** 2)
    return axis * (1 - squared) / root**3, axis / root * np.cos(latitude)


def _geographic(matrix: Values, column: float, axes: Axes, degrees: float) -> _Map:
    """Return a map in units of so many degrees."""
    unit = math.radians(degrees)

    def scales_at(latitude: Values) -> tuple[Values, Values]:
        meridian, circle = _radii(latitude, axes)
        return unit * meridian, unit * circle

    return _Map(matrix, column, lambda northings: northings * unit, scales_at, 90 / degrees)


def _web_mercator(matrix: Values, column: float, axes: Axes) -> _Map:
    """Return a map of EPSG method 1024: latitudes of the ellipsoid are drawn as of a sphere, so that the scales along y and x differ."""

    def scales_at(latitude: Values) -> tuple[Values, Values]:
        meridian, circle = _radii(latitude, axes)
        return meridian * np.cos(latitude) / axes[0], circle / axes[0]

    return _Map(matrix, column, lambda northings: np.arctan(np.sinh(northings / axes[0])), scales_at, math.inf)


def _world_mercator(matrix: Values, column: float, axes: Axes) -> _Map:
    """Return a map of EPSG method 9804 with true scale at the equator: the scale is the same in every direction."""
    eccentricity = math.sqrt(axes[1])

    def latitude_of(northings: Values) -> Values:
        latitude: Values = np.arctan(np.sinh(northings / axes[0]))
        for _ in range(ITERATIONS):
            latitude = np.arctan(np.sinh(northings / axes[0] + eccentricity * np.arctanh(eccentricity * np.sin(latitude))))
        return latitude

    def scales_at(latitude: Values) -> tuple[Values, Values]:
        scale = _radii(latitude, axes)[1] / axes[0]
        return scale, scale

    return _Map(matrix, column, latitude_of, scales_at, math.inf)
