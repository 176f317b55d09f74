"""Where the pixels of an OME-Zarr group lie on a map, as attributes of the conventions ``proj:``, ``spatial:`` and ``multiscales``.

They are those of https://github.com/zarr-conventions, version 1 of each. The transform of each level is in the layout of
``multiscales``: an attribute of the group would hold for all of its arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from pipeline.raster import GEOTIFF_TAGS, Header, affine, map_grid

__all__ = ["RAW_TAGS", "geozarr_attributes", "map_origin"]

RAW_TAGS = "gigaseg:geotiff"
"""Attribute that holds the GeoTIFF tags themselves: ground control points and the like have no convention."""


def _convention(repository: str, name: str, uuid: str, description: str) -> dict[str, str]:
    home = f"https://github.com/zarr-conventions/{repository}/blob/v1/README.md"
    schema = f"https://raw.githubusercontent.com/zarr-conventions/{repository}/refs/tags/v1/schema.json"
    return {"schema_url": schema, "spec_url": home, "uuid": uuid, "name": name, "description": description}


PROJ = _convention(
    "geo-proj", "proj:", "f17cb550-5864-4468-aeb7-f3180cfb622f", "Coordinate reference system information for geospatial data"
)
SPATIAL = _convention("spatial", "spatial:", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information")
MULTISCALES = _convention("multiscales", "multiscales", "d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets")


def geozarr_attributes(header: Header, shapes: Sequence[tuple[int, int]], *, with_layout: bool) -> dict[str, Any]:
    """Return the attributes of a group; empty for an image without georeference.

    Args:
        header: of level 0.
        shapes: height and width of each level.
        with_layout: whether the attribute ``multiscales`` is free for the layout of the levels.
    """
    tags = {str(code): header.georeference[str(code)] for code in GEOTIFF_TAGS if str(code) in header.georeference}
    if not tags:
        return {}
    raw, matrix = {RAW_TAGS: tags}, affine(tags)
    if matrix is None:
        return raw
    height, width = header.shape
    corners = matrix @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]], float)
    (left, bottom), (right, top) = corners[:2].min(axis=1).tolist(), corners[:2].max(axis=1).tolist()
    found: dict[str, Any] = {"spatial:dimensions": ["y", "x"], "spatial:bbox": [left, bottom, right, top], **_coordinate_system(tags)}
    conventions = [*([PROJ] if "proj:wkt2" in found else []), SPATIAL]
    if with_layout:
        conventions.append(MULTISCALES)
        found["multiscales"] = {"layout": [_level(number, shape, matrix) for number, shape in enumerate(shapes)]}
    return {"zarr_conventions": conventions, **found, **raw}


def _level(number: int, shape: tuple[int, int], matrix: Any) -> dict[str, Any]:
    """Describe a level, whose pixels span 2 x 2 of the level before, from the same corner."""
    step = 2.0**number
    place = {"spatial:shape": list(shape), "spatial:transform": (matrix[:2] * [step, step, 1.0]).ravel().tolist()}
    if not number:
        return {"asset": "0", **place}
    return {"asset": str(number), "derived_from": str(number - 1), "transform": {"scale": [2.0, 2.0], "translation": [0.0, 0.0]}, **place}


def _coordinate_system(tags: Mapping[str, Any]) -> dict[str, str]:
    """Return the coordinate system as WKT 2 and, where there is one, as code; empty if it is not known, or rasterio is not installed."""
    if find_spec("rasterio") is None or (grid := map_grid(tags)) is None:
        return {}
    from rasterio import CRS

    authority = CRS.from_wkt(grid.wkt).to_authority(confidence_threshold=100)
    return {**({"proj:code": ":".join(authority)} if authority else {}), "proj:wkt2": grid.wkt}


def map_origin(header: Header) -> tuple[float, float]:
    """Return OME-Zarr's (y, x) of the centre of the first pixel, in the unit of the header.

    OME-Zarr has no negative scales, so its y axis points down the image. Of a map whose north is up, y is therefore the distance south of
    the map's origin, minus the northing: pixels and neighbouring maps keep their order and their distances.
    """
    matrix = affine(header.georeference)
    if matrix is None or header.pixel_size is None or header.unit not in ("meter", "degree"):
        return header.offset
    sign = -1.0 if matrix[1, 1] < 0 else 1.0
    return sign * header.offset[0] + header.pixel_size[0] / 2, header.offset[1] + header.pixel_size[1] / 2
