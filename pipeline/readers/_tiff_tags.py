"""Scale, georeference and channel names from the tags of a TIFF and the descriptions inside them."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np

if TYPE_CHECKING:
    import tifffile

__all__ = ["band_names", "georeference", "missing_value", "scale"]

Scale = tuple[tuple[float, float] | None, str, tuple[float, float]]
"""Pixel size (y, x) or None, its unit, and the (y, x) of the first pixel's corner."""

GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42113)
MICROMETERS = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25400.0}
RESOLUTION_UNITS = {2: "inch", 3: "cm", 4: "mm", 5: "µm"}
METERS = {9002: 0.3048, 9003: 1200 / 3937}  # EPSG's foot and US survey foot; every other code counts as metre


def georeference(page: tifffile.TiffPage, zoom: tuple[float, float]) -> dict[str, dict[str, Any]]:
    """Return the GeoTIFF tags of a page, changed for a level that is ``zoom`` (y, x) times coarser.

    They are ``{"33550": {"type": 12, "value": [...]}, ...}``, with TIFF's type numbers and plain Python values.
    """
    tags = {}
    for code in GEO_TAGS:
        tag = page.tags.get(code)
        if tag is not None:
            value = tag.value if isinstance(tag.value, str) else np.atleast_1d(tag.value).tolist()
            tags[str(code)] = {"type": int(tag.dtype), "value": value}
    if zoom != (1.0, 1.0):
        _coarsen(tags, zoom)
    return tags


def _coarsen(tags: dict[str, dict[str, Any]], zoom: tuple[float, float]) -> None:
    """Change the tags of the largest level, in place, so that they locate the pixels of a smaller one."""
    by_axis = (zoom[1], zoom[0], 1.0)
    if "33550" in tags:
        tags["33550"]["value"] = [size * factor for size, factor in zip(tags["33550"]["value"], by_axis, strict=False)]
    if "33922" in tags:
        tie = tags["33922"]["value"]  # a pixel and its position, six numbers for each tie point
        tags["33922"]["value"] = [number / by_axis[index % 6] if index % 6 < 3 else number for index, number in enumerate(tie)]
    if "34264" in tags:
        matrix = tags["34264"]["value"]  # 4 x 4, row after row
        tags["34264"]["value"] = [number * (*by_axis, 1.0)[index % 4] for index, number in enumerate(matrix)]


def scale(tif: tifffile.TiffFile, page: tifffile.TiffPage, geo: dict[str, dict[str, Any]], zoom: tuple[float, float]) -> Scale:
    """Return the size of a pixel: from GeoTIFF, else OME-XML, Aperio, ImageJ, else the resolution tags.

    ``page`` is the first of the largest level; ``geo`` and ``zoom`` are those of the level that is read.
    """
    mapped = _map_scale(geo)
    if mapped[0]:
        return mapped
    size = _ome_size(tif) or _aperio_size(page) or _tag_size(tif, page)
    if size is None or not all(math.isfinite(side) and side > 0 for side in size):
        return None, "", (0.0, 0.0)
    return (size[0] * zoom[0], size[1] * zoom[1]), "micrometer", (0.0, 0.0)


def _map_scale(geo: dict[str, dict[str, Any]]) -> Scale:
    keys = _geo_keys(geo)
    unit, factor = ("degree", 1.0) if keys.get(1024) == 2 else ("meter", METERS.get(keys.get(3076, 0), 1.0))
    if "34264" in geo and len(geo["34264"]["value"]) == 16:
        a, b, _, east, d, e, _, north = geo["34264"]["value"][:8]
        size_y, size_x = math.hypot(b, e), math.hypot(a, d)
        if keys.get(1025) == 2:
            east, north = east - (a + b) / 2, north - (d + e) / 2
    elif "33550" in geo and len(geo["33550"]["value"]) >= 2:
        size_x, size_y = geo["33550"]["value"][:2]
        tie = geo.get("33922", {"value": []})["value"]
        column, row, _, east, north, _ = tie[:6] if len(tie) >= 6 else (0.0,) * 6
        half = 0.5 if keys.get(1025) == 2 else 0.0  # PixelIsPoint ties the centre of a pixel, not its corner
        east, north = east - (column + half) * size_x, north + (row + half) * size_y
    else:
        return None, "", (0.0, 0.0)
    return (size_y * factor, size_x * factor), unit, (north * factor, east * factor)


def _geo_keys(geo: dict[str, dict[str, Any]]) -> dict[int, int]:
    """Return the GeoKeys that are plain numbers: model type 1024, raster type 1025, linear unit 3076."""
    values = geo.get("34735", {"value": []})["value"][4:]
    return {key: value for key, where, _, value in zip(*[iter(values)] * 4, strict=False) if where == 0}


def _ome_pixels(tif: tifffile.TiffFile) -> ET.Element | None:
    if not tif.ome_metadata:
        return None
    try:
        root = ET.fromstring(tif.ome_metadata)  # noqa: S314 - expat since 2.4.1 limits entity expansion itself
    except ET.ParseError:
        return None
    return root.find(".//{*}Image/{*}Pixels")


def _ome_size(tif: tifffile.TiffFile) -> tuple[float, float] | None:
    pixels = _ome_pixels(tif)
    if pixels is None:
        return None
    sizes = []
    for axis in "YX":
        factor = MICROMETERS.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        size = pixels.get(f"PhysicalSize{axis}")
        if factor is None or size is None:
            return None
        sizes.append(float(size) * factor)
    return sizes[0], sizes[1]


def _aperio_size(page: tifffile.TiffPage) -> tuple[float, float] | None:
    found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", page.description) if page.is_svs else None
    return (float(found[1]), float(found[1])) if found else None


def _tag_size(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[float, float] | None:
    unit = RESOLUTION_UNITS.get(int(page.tags.valueof(296, default=2)), "")
    if tif.imagej_metadata:
        unit = str(tif.imagej_metadata.get("unit", "")).replace("\\u00B5", "µ").replace("μ", "µ")
    factor = MICROMETERS.get(unit)
    pixels_y, pixels_x = page.tags.valueof(283), page.tags.valueof(282)
    if factor is None or not pixels_y or not pixels_x or not all((*pixels_y, *pixels_x)):
        return None
    return factor * pixels_y[1] / pixels_y[0], factor * pixels_x[1] / pixels_x[0]


def missing_value(page: tifffile.TiffPage) -> float | None:
    """Return the value that GDAL_NODATA declares; None where the tag is absent or no number."""
    tag = page.tags.get(42113)
    try:
        return float(tag.value) if tag is not None else None
    except (TypeError, ValueError):
        return None


def band_names(tif: tifffile.TiffFile) -> tuple[str, ...]:
    """Return the names of the channels in OME-XML; empty where a channel has none."""
    pixels = _ome_pixels(tif)
    names = [channel.get("Name", "") for channel in pixels.findall("{*}Channel")] if pixels is not None else []
    return tuple(names) if all(names) else ()
