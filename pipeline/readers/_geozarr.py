"""Where the pixels of a Zarr array lie on a map: the conventions ``proj:`` and ``spatial:``, CF's grid mapping, and our own tags."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import numpy as np

from pipeline.errors import GigasegError
from pipeline.raster import GEOTIFF_TAGS, MapGrid, affine, map_tags
from pipeline.readers._files import is_remote
from pipeline.readers._zarr_files import Node, is_inside, open_files, read_node

__all__ = ["georeference_of", "names_georeference"]

RAW_TAGS = "gigaseg:geotiff"  # what the writer of OME-Zarr leaves
NAMES = ("grid_mapping", "spatial_ref", "crs_wkt", "_CRS", "GeoTransform")
CODE, WKT, JSON = "proj:code", "proj:wkt2", "proj:projjson"
CLOSE = 1e-9  # of two transforms, relative: one may have been written with fewer digits

Tags = dict[str, Any]


def names_georeference(attributes: Mapping[str, Any]) -> bool:
    """Whether attributes speak of a place on a map."""
    return any(name in NAMES or name.startswith("proj:") for name in attributes)


def georeference_of(node: Node, group: Node | None, path: str) -> Tags:
    """Return GeoTIFF tags for level 0 of an image, or for an array of its own; empty if the place is not known.

    Args:
        node: the array.
        group: whose image the array is a level of; None: it is no level of an image.
        path: of what was opened.
    """
    around = _parent(path) if group is None else group
    attributes = {**({} if around is None else _of_group(around)), **node.attributes}
    raw, matrix = attributes.get(RAW_TAGS), _transform(attributes)
    if isinstance(raw, dict) and (tags := {str(code): raw[str(code)] for code in GEOTIFF_TAGS if str(code) in raw}):
        own = affine(tags)
        if matrix is None or own is None or np.allclose(own[:2].ravel(), matrix, rtol=CLOSE, atol=0):
            return tags  # else another program has changed the place, and left our attribute
    wkt = _wkt(attributes)
    if matrix is None or not wkt:
        mapped = _grid_mapping(attributes, path)
        matrix, wkt = _geo_transform(mapped) or matrix, wkt or str(mapped.get("crs_wkt") or mapped.get("spatial_ref") or "")
    if matrix is None or not wkt or find_spec("rasterio") is None:
        return {}
    with suppress(Exception):  # what others write may be refused in any way; a note says that it is not read
        return map_tags(MapGrid(matrix, wkt))
    return {}


def _of_group(group: Node) -> dict[str, Any]:
    """Return the attributes of a group, with the layout of its levels where OME-Zarr has a list of the same name."""
    written = group.metadata.get("attributes")
    layout = written.get("multiscales") if isinstance(written, dict) else None
    return {**group.attributes, **({"multiscales": layout} if isinstance(layout, dict) else {})}


def _parent(path: str) -> Node | None:
    """Return the group around an array: what its attributes say of a map holds for its arrays too."""
    around = path.rstrip("/").rpartition("/")[0]
    if not around or is_remote(path):
        return None
    with suppress(GigasegError, OSError):
        node = read_node(open_files(around), around)
        return None if node is None or node.is_array else node
    return None


def _transform(attributes: Mapping[str, Any]) -> tuple[float, float, float, float, float, float] | None:
    """Return the transform of corners, of the array or of the first level of its group."""
    found, registration = attributes.get("spatial:transform"), attributes.get("spatial:registration", "pixel")
    scales = attributes.get("multiscales")
    if found is None and isinstance(scales, dict) and isinstance(layout := scales.get("layout"), list) and layout:
        found = layout[0].get("spatial:transform") if isinstance(layout[0], dict) else None
    if attributes.get("spatial:transform_type", "affine") != "affine" or (matrix := _six(found)) is None:
        return None
    a, b, c, d, e, f = matrix
    half = 0.5 if registration == "node" else 0.0  # of centres
    return a, b, c - half * (a + b), d, e, f - half * (d + e)


def _six(numbers: Any) -> tuple[float, float, float, float, float, float] | None:
    """Return six finite numbers; None for anything else."""
    if not isinstance(numbers, list) or len(numbers) != 6 or not all(type(one) in (int, float) for one in numbers):
        return None
    a, b, c, d, e, f = map(float, numbers)
    return (a, b, c, d, e, f) if np.isfinite([a, b, c, d, e, f]).all() else None


def _wkt(attributes: Mapping[str, Any]) -> str:
    """Return the coordinate system of the convention as WKT; empty if it names none that is known."""
    if isinstance(text := attributes.get(WKT), str) and text:
        return text
    given = attributes.get(CODE) or attributes.get(JSON)
    if not given or find_spec("rasterio") is None:
        return ""
    from rasterio import CRS

    with suppress(Exception):  # as above
        return str(CRS.from_user_input(given).to_wkt(version="WKT2_2019"))
    return ""


def _grid_mapping(attributes: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Return the attributes of the variable that CF's ``grid_mapping`` names beside an array; empty if there is none."""
    name = attributes.get("grid_mapping")
    if not isinstance(name, str) or not is_inside(name) or is_remote(path):
        return attributes
    beside = f"{path.rstrip('/').rpartition('/')[0]}/{name}"
    with suppress(GigasegError, OSError):
        node = read_node(open_files(beside), beside)
        if node is not None:
            return node.attributes
    return attributes


def _geo_transform(attributes: Mapping[str, Any]) -> tuple[float, float, float, float, float, float] | None:
    """Return GDAL's six numbers, which rioxarray writes as a text, in the order of an affine."""
    with suppress(ValueError, AttributeError):
        c, a, b, f, d, e = map(float, str(attributes.get("GeoTransform", "")).split())
        return _six([a, b, c, d, e, f])
    return None
