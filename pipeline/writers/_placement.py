"""Coordinates of polygons: pixels of the image, map coordinates, or longitude and latitude."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.errors import Problem
from pipeline.raster import Header, map_grid
from pipeline.writers._antimeridian import cut_at_antimeridian, unrolled
from pipeline.writers._polar_edges import with_polar_corners

if TYPE_CHECKING:
    from pipeline.writers import MaskMeta

__all__ = ["Coordinates", "Placement", "missing_geo_packages", "no_degrees", "pixel_size_of", "placement_of"]

Coordinates = Annotated[
    Literal["auto", "pixel", "wgs84"],
    Field(description="auto: map coordinates if the image has a georeference, else pixels; wgs84: longitude and latitude of such an image"),
]
DEGREE_DECIMALS = 9  # 0.1 mm on the ground
CURVE_STEP = 64  # pixels; an arc of the earth differs from its chord by less than 0.1 pixels, up to 1 km a pixel and far from the poles


def missing_geo_packages(*names: str) -> str:
    """Return the command that installs these packages of the extra ``geo``; empty if none is missing."""
    return 'pip install "gigaseg[geo]"' if any(importlib.util.find_spec(name) is None for name in names) else ""


def no_degrees(name: str, header: Header, where: str) -> Problem | None:
    """Return why an image on a map cannot be told in longitude and latitude; None: it can, or it lies on no map.

    Args:
        name: of the image.
        header: of the image.
        where: key of the writer, for the message.
    """
    from rasterio import CRS

    grid = map_grid(header.georeference)
    crs = None if grid is None else CRS.from_wkt(grid.wkt)
    if crs is None or crs.is_geographic or crs.is_projected:
        return None
    found = f"longitude and latitude for {name}, whose coordinate system is not known to PROJ"
    fix = "Use coordinates: auto, with format gpkg, parquet or fgb; or give the image a known system, such as with gdal_edit.py -a_srs."
    return Problem(where, found, "a geographic or projected coordinate system", fix)


@dataclass(frozen=True)
class Placement:
    """The transform from (x, y) in pixels of a mask to the coordinates of a file.

    Attributes:
        matrix: ``(a, b, c, d, e, f)``: a point becomes ``(a x + b y + c, d x + e y + f)``.
        crs: coordinate system of the map, of rasterio; None: coordinates are pixels of the image at full resolution.
        is_wgs84: whether map coordinates become longitude and latitude.
    """

    matrix: tuple[float, float, float, float, float, float]
    crs: Any = None
    is_wgs84: bool = False

    @property
    def step(self) -> float:
        """Side of a pixel in map coordinates, or in pixels of the image."""
        a, b, _, d, e, _ = self.matrix
        return float(abs(a * e - b * d) ** 0.5)

    @property
    def urn(self) -> str:
        """Name of the map's coordinate system, its well-known text where it has no EPSG code; empty for pixels and for WGS 84."""
        if self.crs is None or self.is_wgs84:
            return ""
        epsg = self.crs.to_epsg()
        return f"urn:ogc:def:crs:EPSG::{epsg}" if epsg else str(self.wkt)

    @property
    def wkt(self) -> str | None:
        """Coordinate system of the coordinates as well-known text (WKT 2, 2019) or EPSG code; None: pixels."""
        if self.crs is None:
            return None
        return "EPSG:4326" if self.is_wgs84 else str(self.crs.to_wkt(version="WKT2_2019"))

    @property
    def projjson(self) -> dict[str, Any] | None:
        """Coordinate system of the coordinates as PROJJSON; None: pixels."""
        if self.crs is None:
            return None
        from rasterio import CRS

        described: dict[str, Any] = (CRS.from_user_input("OGC:CRS84") if self.is_wgs84 else self.crs).to_dict(projjson=True)
        return described

    @property
    def every(self) -> int:
        """Pixels between the points that long edges need, as edges that are straight in pixels are curved in the coordinates; 0: none."""
        return CURVE_STEP if self.is_wgs84 and not self.crs.is_geographic else 0

    def place(self, geometries: NDArray[Any], simplify: float = 0.0) -> NDArray[Any]:
        """Move geometries to their place. All are valid, and shells run counterclockwise where y points up, as RFC 7946 (2016) asks.

        Longitudes are between -180 and 180 degrees: what crosses the antimeridian is cut there.

        Args:
            geometries: polygons and multipolygons in pixels of the mask.
            simplify: how far edges of each may move, pixels of the mask.
        """
        import shapely

        if simplify:
            geometries = shapely.simplify(geometries, simplify)
        if self.matrix != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0):
            geometries = shapely.transform(geometries, self._on_map)
        if self.is_wgs84:
            for pole in self._poles:
                geometries = with_polar_corners(geometries, pole, self.step, CURVE_STEP)
            geometries = self._in_degrees(geometries)
        invalid = ~shapely.is_valid(geometries)  # rounding may move a corner onto another edge
        geometries[invalid] = shapely.make_valid(geometries[invalid], method="structure", keep_collapsed=False)
        oriented: NDArray[Any] = shapely.orient_polygons(geometries)
        return oriented

    @cached_property
    def _poles(self) -> list[NDArray[np.float64]]:
        """The poles that have a place on the map, (x, y)."""
        from rasterio.warp import transform

        found = []
        for latitude in (-90.0, 90.0) if self.every else ():
            with suppress(Exception):  # rasterio raises errors of GDAL that it does not export
                found.append(np.ravel(transform("EPSG:4326", self.crs, [0.0], [latitude])[:2]))
        return [pole for pole in found if np.isfinite(pole).all()]

    def _on_map(self, points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, c, d, e, f = self.matrix
        placed_N2: NDArray[np.float64] = points_N2 @ np.array([[a, d], [b, e]]) + (c, f)
        return placed_N2

    def _degrees(self, points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
        from rasterio.warp import transform

        return np.stack(transform(self.crs, "EPSG:4326", *points_N2.T), axis=1)

    def _in_degrees(self, geometries: NDArray[Any]) -> NDArray[Any]:
        """Return geometries on the map as longitude and latitude, rounded, cut at the antimeridian."""
        import shapely

        map_points_N2, index = shapely.get_coordinates(geometries, return_index=True)
        points_N2 = self._degrees(map_points_N2)
        placed: NDArray[Any] = shapely.set_coordinates(geometries.copy(), np.round(points_N2, DEGREE_DECIMALS))
        jumps = (np.abs(np.diff(points_N2[:, 0])) > 180) & (np.diff(index) == 0)
        beyond = np.abs(points_N2[:, 0]) > 180
        for at in np.unique(np.concatenate([index[:-1][jumps], index[beyond]])).tolist():
            parts = [self._cut(part) for part in shapely.get_parts(geometries[at])]
            cut = parts[0] if len(parts) == 1 else shapely.union_all(parts)
            placed[at] = shapely.transform(cut, lambda some_N2: np.round(some_N2, DEGREE_DECIMALS))
        return placed

    def _cut(self, polygon: Any) -> Any:
        """Return a polygon on the map as longitude and latitude, cut at the antimeridian."""
        rings = []
        for ring in (polygon.exterior, *polygon.interiors):
            map_N2 = np.asarray(ring.coords)
            points_N2 = self._degrees(map_N2)
            half_N = self._degrees((map_N2[1:] + map_N2[:-1]) / 2)[:, 0]
            steps = np.abs(np.diff(points_N2[:, 0]))
            is_long_N = (steps > 180) & (np.abs(half_N - (points_N2[1:, 0] + points_N2[:-1, 0]) / 2) < 90)
            rings.append(unrolled(points_N2, is_long_N))
        return cut_at_antimeridian(rings[0], rings[1:])


def placement_of(meta: MaskMeta, coordinates: Coordinates = "auto") -> Placement:
    """Return the placement of an image's polygons: map coordinates if it has a georeference, unless pixels are asked for."""
    y, x = meta.own_factor
    grid = None if coordinates == "pixel" else map_grid(meta.georeference)
    if grid is None:
        return Placement((x, 0.0, 0.0, 0.0, y, 0.0))
    from rasterio import CRS

    return Placement(grid.matrix, CRS.from_wkt(grid.wkt), coordinates == "wgs84")


def pixel_size_of(meta: MaskMeta) -> dict[str, Any] | None:
    """Return the size (x, y) of a pixel of the image at full resolution, and its unit; None: unknown."""
    if meta.pixel_size is None:
        return None
    size = [own / factor for own, factor in zip(meta.pixel_size[::-1], meta.own_factor[::-1], strict=True)]
    return {"size": size, "unit": meta.unit}
