"""Georeference, channel names, bits and nodata from the tags of a TIFF."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np

from pipeline.raster import GEOTIFF_TAGS, coarsened
from pipeline.readers._ome_xml import ome_channel_names
from pipeline.readers._world_file import parse_xml

if TYPE_CHECKING:
    import tifffile

__all__ = ["channel_names", "color_order_note", "georeference", "missing_value", "used_bits"]

GEO_TAGS = (*GEOTIFF_TAGS, 42113)
IDENTITY = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]  # the rows of x and y


def georeference(page: tifffile.TiffPage, zoom: tuple[float, float]) -> dict[str, dict[str, Any]]:
    """Return the GeoTIFF tags of a page, changed for a level that is ``zoom`` (y, x) times coarser.

    They are ``{"33550": {"type": 12, "value": [...]}, ...}``, with TIFF's type numbers and plain Python values.
    A transformation that is the identity is left out: rasterio writes it into files without a place, and GDAL reads none from it.
    """
    tags: dict[str, dict[str, Any]] = {}
    for code in GEO_TAGS:
        tag = page.tags.get(code)
        if tag is not None:
            value = tag.value if isinstance(tag.value, str) else np.atleast_1d(tag.value).tolist()
            tags[str(code)] = {"type": int(tag.dtype), "value": value}
    if tags.get("34264", {}).get("value", [])[:8] == IDENTITY:
        del tags["34264"]
    return tags if zoom == (1.0, 1.0) else coarsened(tags, zoom)


def missing_value(page: tifffile.TiffPage) -> str | None:
    """Return the text of the tag GDAL_NODATA; None if it is absent."""
    value = page.tags.valueof(42113)
    return value.replace(",", ".").strip() if isinstance(value, str) else None


def used_bits(page: tifffile.TiffPage, significant: int, dtype: np.dtype[Any]) -> int:
    """Return the number of used bits of an unsigned sample; 0 if all are used or the file does not say.

    The sources, in order: BitsPerSample, ``significant`` of the OME-XML, a MaxSampleValue of 2**n - 1 such as 4095. Other values of
    that tag are the largest sample of this image, which says nothing of its bits.
    """
    width = dtype.itemsize * 8
    if dtype.kind not in "ub" or not isinstance(page.bitspersample, int):
        return 0
    if page.bitspersample < width:
        return page.bitspersample
    if 0 < significant < width:
        return significant
    for code in (281, 341):
        largest = max((int(value) for value in np.ravel(page.tags.valueof(code, 0))), default=0)
        if 255 <= largest < 2**width - 1 and (largest + 1).bit_count() == 1:
            return largest.bit_length()
    return 0


def channel_names(page: tifffile.TiffPage, series: tifffile.TiffPageSeries, element: ET.Element | None, number: int) -> tuple[str, ...]:
    """Return the name of each stored channel from OME-XML, ImageJ, GDAL or PerkinElmer; empty if none names all channels.

    Args:
        page: the first of the largest level.
        series: the image.
        element: the image in the OME-XML.
        number: number of stored channels.
    """
    names = ome_channel_names(element) if element is not None else ()
    names = names or _imagej_labels(page, number) or _gdal_descriptions(page, number)
    if not names and series.kind == "qpi":
        texts = [getattr(one, "description", "") for one in series.pages]
        names = tuple(unescape(found[1]) if (found := re.search(r"<Name>([^<]+)</Name>", text)) else "" for text in texts)
    return names if len(names) == number and any(names) else ()


def _imagej_labels(page: tifffile.TiffPage, number: int) -> tuple[str, ...]:
    """Return the labels of ImageJ's slices, if a channel has the same label in every plane."""
    facts = page.parent.imagej_metadata or {}
    labels = [str(label).strip().partition("\n")[0] for label in facts.get("Labels", ())]
    if number == 1 or len(labels) % number or facts.get("order", "czt") not in ("czt", "ctz"):
        return ()
    by_channel = [set(labels[channel::number]) for channel in range(number)]
    return tuple(one.pop() for one in by_channel) if all(len(one) == 1 for one in by_channel) else ()


def color_order_note(page: tifffile.TiffPage) -> str:
    """Return a note where GDAL's metadata call the bands red, green and blue in another order; empty where they do not."""
    meanings = {text.casefold(): int(band) for band, text in _gdal_items(page, "colorinterp").items() if band and band.isdecimal()}
    order = [meanings.get(color, -1) for color in ("red", "green", "blue")]
    if min(order) < 0 or order == [0, 1, 2]:
        return ""
    return f"bands are read in the order of the file, in which red, green and blue are bands {order}: `reader.channels: {order}` reads RGB"


def _gdal_items(page: tifffile.TiffPage, role: str) -> dict[str | None, str]:
    """Return what GDAL's metadata say of the bands in a role, by the band's number as text; GDAL escapes it twice."""
    text = page.tags.valueof(42112)
    try:
        items = parse_xml(text, page.parent.filehandle.path).findall("Item") if isinstance(text, str) else []
    except ET.ParseError:
        return {}
    return {item.get("sample"): unescape(item.text or "").strip() for item in items if item.get("role") == role}


def _gdal_descriptions(page: tifffile.TiffPage, number: int) -> tuple[str, ...]:
    """Return GDAL's band descriptions."""
    named = _gdal_items(page, "description")
    found = [named.get(str(band), "") for band in range(number)]
    return tuple(name or f"band {band + 1}" for band, name in enumerate(found)) if any(found) else ()
