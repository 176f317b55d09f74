"""Coordinates of polygons: pixels of the image, map coordinates, or longitude and latitude."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.raster import ArrayRaster
from pipeline.storage import LocalStorage
from pipeline.writers import MaskMeta
from pipeline.writers.tiff import Tiff

__all__ = ["Coordinates", "Placement", "missing_geo_packages", "pixel_size_of", "placement_of"]

Coordinates = Annotated[
    Literal["auto", "pixel", "wgs84"],
    Field(description="auto: map coordinates if the image has a georeference, else pixels; wgs84: longitude and latitude of such an image"),
]
DEGREE_DECIMALS = 9  # 0.1 mm on the ground


def missing_geo_packages(*names: str) -> str:
    """Return the command that installs these packages of the extra ``geo``; empty if none is missing."""
    return 'pip install "gigaseg[geo]"' if any(importlib.util.find_spec(name) is None for name in names) else ""


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
        """Name of the map's coordinate system; empty for pixels, for WGS 84, and without an EPSG code."""
        epsg = self.crs.to_epsg() if self.crs is not None and not self.is_wgs84 else None
        return f"urn:ogc:def:crs:EPSG::{epsg}" if epsg else ""

    @property
    def wkt(self) -> str | None:
        """Coordinate system of the coordinates as well-known text or EPSG code; None: pixels."""
        if self.crs is None:
            return None
        return "EPSG:4326" if self.is_wgs84 else str(self.crs.to_wkt())

    @property
    def projjson(self) -> dict[str, Any] | None:
        """Coordinate system of the coordinates as PROJJSON; None: pixels."""
        if self.crs is None:
            return None
        from rasterio import CRS

        described: dict[str, Any] = (CRS.from_user_input("OGC:CRS84") if self.is_wgs84 else self.crs).to_dict(projjson=True)
        return described

    def place(self, geometries: NDArray[Any], simplify: float = 0.0) -> NDArray[Any]:
        """Move geometries to their place. All are valid, and shells run counterclockwise where y points up, as RFC 7946 (2016) asks.

        Args:
            geometries: polygons and multipolygons in pixels of the mask.
            simplify: how far edges of each may move, pixels of the mask.
        """
        import shapely

        if simplify:
            geometries = shapely.simplify(geometries, simplify)
        if self.matrix != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0):
            geometries = shapely.transform(geometries, self._points)
        invalid = ~shapely.is_valid(geometries)  # rounding may move a corner onto another edge
        geometries[invalid] = shapely.make_valid(geometries[invalid], method="structure", keep_collapsed=False)
        oriented: NDArray[Any] = shapely.orient_polygons(geometries)
        return oriented

    def _points(self, points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, c, d, e, f = self.matrix
        placed_N2: NDArray[np.float64] = points_N2 @ np.array([[a, d], [b, e]]) + (c, f)
        if not self.is_wgs84:
            return placed_N2
        from rasterio.warp import transform

        return np.round(np.stack(transform(self.crs, "EPSG:4326", *placed_N2.T), axis=1), DEGREE_DECIMALS)


def placement_of(meta: MaskMeta, coordinates: Coordinates = "auto") -> Placement:
    """Return the placement of an image's polygons: map coordinates if it has a georeference, unless pixels are asked for."""
    y, x = meta.own_factor
    in_pixels = Placement((x, 0.0, 0.0, 0.0, y, 0.0))
    if coordinates == "pixel" or not meta.georeference:
        return in_pixels
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        located = MaskMeta((1, 1), dtype="uint8", georeference=meta.georeference)
        Tiff(pyramid=False).export(ArrayRaster(np.zeros((1, 1), np.uint8)), located, LocalStorage(folder), "a.tif")
        with rasterio.open(Path(folder, "a.tif")) as file:
            crs, matrix = file.crs, tuple(file.transform)[:6]
    return in_pixels if crs is None else Placement(matrix, crs, coordinates == "wgs84")


def pixel_size_of(meta: MaskMeta) -> dict[str, Any] | None:
    """Return the size (x, y) of a pixel of the image at full resolution, and its unit; None: unknown."""
    if meta.pixel_size is None:
        return None
    size = [own / factor for own, factor in zip(meta.pixel_size[::-1], meta.own_factor[::-1], strict=True)]
    return {"size": size, "unit": meta.unit}
