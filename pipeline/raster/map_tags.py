"""GeoTIFF tags to and from a coordinate system and an affine, as GDAL writes and reads them; needs rasterio (extra ``geo``)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

__all__ = ["GEOTIFF_TAGS", "MapGrid", "map_grid", "map_tags"]

GEOTIFF_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 50844)
"""Pixel scale, tie points, transformation, geokeys and their values, rational polynomials."""


@dataclass(frozen=True)
class MapGrid:
    """Where pixels lie on a map.

    Attributes:
        matrix: ``(a, b, c, d, e, f)``: the corner (x, y) of a pixel lies at ``(a x + b y + c, d x + e y + f)``, as rasterio's affine.
        wkt: the coordinate system, WKT 2 (2019).
    """

    matrix: tuple[float, float, float, float, float, float]
    wkt: str


def map_grid(georeference: Mapping[str, Any]) -> MapGrid | None:
    """Return the grid that GDAL reads from the tags of a header; None where they hold no coordinate system or no affine."""
    tags = {code: georeference[str(code)] for code in GEOTIFF_TAGS if str(code) in georeference}
    return _grid_of(json.dumps(tags)) if tags else None


@lru_cache(maxsize=256)
def _grid_of(tags: str) -> MapGrid | None:
    import numpy as np
    import tifffile
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    extratags = []
    for code, tag in json.loads(tags).items():
        value = tag["value"]
        if not isinstance(value, str):
            value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        extratags.append((int(code), int(tag["type"]), len(value), value, True))
    content = BytesIO()
    tifffile.imwrite(content, np.zeros((1, 1), np.uint8), extratags=extratags, metadata=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile(content.getvalue()) as memory, memory.open() as file:
            if file.crs is None or file.transform.is_identity:
                return None
            return MapGrid(tuple(file.transform)[:6], file.crs.to_wkt(version="WKT2_2019"))


def map_tags(grid: MapGrid) -> dict[str, dict[str, Any]]:
    """Return the tags that GDAL writes for a grid, for ``Header.georeference``; :func:`map_grid` returns an equal grid from them.

    Raises:
        rasterio.errors.CRSError: PROJ does not know the coordinate system.
    """
    import tifffile
    from rasterio import CRS, Affine
    from rasterio.io import MemoryFile

    with MemoryFile() as memory:
        crs = CRS.from_wkt(grid.wkt) if grid.wkt else None
        with memory.open(driver="GTiff", width=1, height=1, count=1, dtype="uint8", crs=crs, transform=Affine(*grid.matrix)):
            pass
        with tifffile.TiffFile(BytesIO(memory.read())) as file:
            found = {code: tag for code in GEOTIFF_TAGS if (tag := file.pages.first.tags.get(code))}
            return {str(code): {"type": int(tag.dtype), "value": _plain(tag.value)} for code, tag in found.items()}


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else list(value) if isinstance(value, tuple) else [value]
