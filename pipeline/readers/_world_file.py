"""Place and scale of an image from the files beside it: a world file, GDAL's ``.aux.xml`` and a ``.prj``.

A world file holds six numbers: what a step of a column adds to x and to y, what a step of a row adds to x and to y, and the
x and y of the centre of the first pixel. It names no coordinate system, so without a ``.prj`` or an ``.aux.xml`` the scale is
known and its unit is not.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree as ET

from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.raster import METERS
from pipeline.readers._files import is_remote
from pipeline.readers._orientation import stored_box
from pipeline.readers._remote_file import open_file
from pipeline.readers._remote_folders import has_file, is_web

__all__ = ["Placement", "companions", "crs_keys", "parse_xml", "place", "read_placement", "upright_affine"]

Affine = tuple[float, float, float, float, float, float]
"""x = a + b column + c row and y = d + e column + f row, at the corners of pixels: the order of GDAL's geotransform."""

MOST_BYTES = 1 << 24  # of a file beside an image; these are small texts
HORIZONTAL = re.compile(r"\b(PROJCS|PROJCRS|PROJECTEDCRS|GEOGCS|GEOGCRS|GEOGRAPHICCRS|GEODCRS|GEODETICCRS)\s*[\[(]", re.IGNORECASE)
CODE_AT_END = re.compile(r'(?:AUTHORITY|ID)\s*[\[(]\s*"EPSG"\s*,\s*"?(\d+)"?\s*[\])]\s*[\])]\s*$', re.IGNORECASE)
UNIT = re.compile(r'\b(?:LENGTH)?UNIT\s*[\[(]\s*"[^"]*"\s*,\s*(\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)', re.IGNORECASE)


@dataclass(frozen=True)
class Placement:
    """Where an image lies, and how large its pixels are."""

    georeference: dict[str, dict[str, Any]] = field(default_factory=dict)  # GeoTIFF tags, as ``Header.georeference`` holds them
    pixel_size: tuple[float, float] | None = None  # (y, x) in `unit`
    unit: str = ""  # `meter` or `degree`; empty where no coordinate system is known
    offset: tuple[float, float] = (0.0, 0.0)  # (y, x) of the first pixel's corner in `unit`
    source: str = ""  # `world file` or `.aux.xml`; empty where there is no place
    nodata: str | None = None  # what every band of the ``.aux.xml`` declares as no data
    notes: tuple[str, ...] = ()  # which files could not be used, and why

    @property
    def facts(self) -> dict[str, Any]:
        """The header fields that a placement sets."""
        scale = {"pixel_size": self.pixel_size, "pixel_size_from": self.source, "unit": self.unit, "offset": self.offset}
        return {**scale, "georeference": self.georeference, "nodata": self.nodata}


def companions(path: str) -> tuple[str, ...]:
    """Return the files that may place an image, in the order in which they are looked for; they need not exist.

    Of a web server, each file must be asked for, so names in capitals are not looked for there.

    Example:
        >>> companions("map.png")[:4]
        ('map.png.aux.xml', 'map.pgw', 'map.PGW', 'map.pngw')
    """
    suffix = PurePosixPath(path).suffix
    stem, ending = path.removesuffix(suffix), suffix.removeprefix(".").lower()
    endings = dict.fromkeys(([f"{ending[0]}{ending[-1]}w", f"{ending}w"] if ending else []) + ["wld", "prj"])
    beside = [f"{stem}.{text}" for name in endings for text in ((name,) if is_web(path) else (name, name.upper()))]
    return f"{path}.aux.xml", *beside


def read_placement(
    path: str, zoom: tuple[float, float] = (1.0, 1.0), *, orientation: int = 1, shape: tuple[int, int] = (1, 1)
) -> Placement:
    """Read the files beside an image.

    The ``.aux.xml`` wins over a world file, and its coordinate system over that of a ``.prj``. A damaged file is ignored
    with a note.

    Args:
        path: path or URL of the image.
        zoom: (y, x), how much coarser the level is that is read.
        orientation: 1..8, the turn that makes the image upright; these files place the pixels as stored.
        shape: height and width of the stored image.

    Raises:
        InputError: an ``.aux.xml`` has a document type, which could expand without bound.
    """
    notes: list[str] = []
    affine: Affine | None = None
    crs, nodata, source = "", None, ""
    for name in companions(path):
        text = _read_text(name, notes)
        if text is None:
            continue
        if name.endswith(".aux.xml"):
            affine, crs, nodata = _read_aux(text, name, notes)
            source = ".aux.xml" if affine else ""
        elif name.lower().endswith(".prj"):
            crs = crs or text.strip()
        else:
            world = _read_world(text, name, notes)
            if affine and world and not _is_close(affine, world):
                notes.append(f"{name} and the {source} beside it disagree; the {source} is used")
            elif world and not affine:
                affine, source = world, "world file"
    if affine is None:
        return Placement(nodata=nodata, notes=tuple(notes))
    georeference, pixel_size, unit, offset = place(upright_affine(affine, shape, orientation), crs, zoom)
    return Placement(georeference, pixel_size, unit, offset, source, nodata, tuple(notes))


def place(
    affine: Affine, crs: str, zoom: tuple[float, float] = (1.0, 1.0)
) -> tuple[dict[str, dict[str, Any]], tuple[float, float], str, tuple[float, float]]:
    """Return the GeoTIFF tags, and the size (y, x), unit and offset (y, x) of a pixel.

    Args:
        affine: of the largest level.
        crs: the coordinate system as WKT; empty where it is unknown.
        zoom: (y, x), how much coarser the level is that is read.

    Example:
        >>> place((500.0, 2.0, 0.0, 900.0, 0.0, -2.0), "")[1:]
        ((2.0, 2.0), '', (900.0, 500.0))
    """
    x, a, b, y, d, e = affine
    a, d, b, e = a * zoom[1], d * zoom[1], b * zoom[0], e * zoom[0]
    if b == d == 0 and a > 0 > e:
        tags = {"33550": {"type": 12, "value": [a, -e, 0.0]}, "33922": {"type": 12, "value": [0.0, 0.0, 0.0, x, y, 0.0]}}
    else:
        tags = {"34264": {"type": 12, "value": [a, b, 0.0, x, d, e, 0.0, y, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]}}
    keys, unit, factor = crs_keys(crs)
    size = math.hypot(b, e) * factor, math.hypot(a, d) * factor
    return tags | keys, size, unit, (y * factor, x * factor)


def upright_affine(affine: Affine, shape: tuple[int, int], orientation: int) -> Affine:
    """Return the affine of an upright image, from the affine and the shape of the stored image.

    Example:
        >>> upright_affine((500.0, 2.0, 0.0, 900.0, 0.0, -2.0), (10, 20), 3) == (540.0, -2.0, 0.0, 880.0, 0.0, 2.0)  # turned by 180 degrees
        True
    """
    x, a, b, y, d, e = affine
    first, right, below = (
        stored_box(Box(row, column, row + 1, column + 1), shape, orientation) for row, column in ((0, 0), (0, 1), (1, 0))
    )
    steps = [(one.x0 - first.x0, one.y0 - first.y0) for one in (right, below)]  # in stored columns and rows, of one upright column and row
    column = first.x0 + (1 - steps[0][0] - steps[1][0]) / 2  # of the stored corner that becomes the first
    row = first.y0 + (1 - steps[0][1] - steps[1][1]) / 2
    (a_new, d_new), (b_new, e_new) = ((a * across + b * down, d * across + e * down) for across, down in steps)
    return x + a * column + b * row, a_new, b_new, y + d * column + e * row, d_new, e_new


def crs_keys(crs: str) -> tuple[dict[str, dict[str, Any]], str, float]:
    """Return the GeoTIFF keys of a coordinate system, the unit of its sizes, and the factor that makes them of that unit.

    The EPSG code is kept where the text ends with it, else the whole text, as ESRI's programs write it and GDAL reads it.

    Example:
        >>> crs_keys('GEOGCS["WGS 84",AUTHORITY["EPSG","4326"]]')
        ({'34735': {'type': 3, 'value': [1, 1, 0, 4, 1024, 0, 1, 2, 1025, 0, 1, 1, 2048, 0, 1, 4326, 2054, 0, 1, 9102]}}, 'degree', 1.0)
    """
    horizontal = _horizontal(crs)
    if not horizontal:
        return {}, "", 1.0
    unit, factor, linear = "degree", 1.0, {}
    if horizontal[:4].upper() == "PROJ":
        factors = [float(number) for number in UNIT.findall(horizontal)] or [1.0]  # the last is that of the axes
        unit, factor = "meter", factors[-1] if 0 < factors[-1] < math.inf else 1.0
        linear = {3076: next((code for code, metres in METERS.items() if abs(factor / metres - 1) < 1e-7), 32767)}
    found = CODE_AT_END.search(horizontal)
    if found is None:  # 32767 is GeoTIFF's number for "user-defined"
        return _geo_keys({1024: 32767, 1025: 1} | linear, f"ESRI PE String = {horizontal}|"), unit, factor
    coded = {1024: 2, 2048: int(found[1]), 2054: 9102} if unit == "degree" else {1024: 1, 3072: int(found[1])}
    return _geo_keys(coded | {1025: 1} | linear), unit, factor


def _geo_keys(numbers: dict[int, int], citation: str = "") -> dict[str, dict[str, Any]]:
    """Return the tags of GeoTIFF keys: numbers stand in the directory, the citation of the coordinate system in a tag of its own."""
    entries = {key: (0, 1, value) for key, value in numbers.items()} | ({3073: (34737, len(citation), 0)} if citation else {})
    directory = [1, 1, 0, len(entries), *(number for key in sorted(entries) for number in (key, *entries[key]))]
    text = {"34737": {"type": 2, "value": citation}} if citation else {}
    return {"34735": {"type": 3, "value": directory}, **text}


def _horizontal(crs: str) -> str:
    """Return the part of a WKT that describes the horizontal coordinate system; empty where there is none."""
    found = HORIZONTAL.search(crs)
    if not found:
        return ""
    depth = 0
    for bracket in re.finditer(r'"[^"]*"|[\[(]|[\])]', crs[found.start() :]):
        depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(bracket[0], 0)
        if depth == 0:
            return crs[found.start() :][: bracket.end()]
    return ""


def _read_text(name: str, notes: list[str]) -> str | None:
    """Return the text of a file; None where it does not exist, or cannot be used, which a note says."""
    if not (has_file(name) if is_remote(name) else os.path.lexists(name)):  # true for most of the nine names; cheaper than a failed open
        return None
    try:
        with open_file(name) as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        notes.append(f"{name} cannot be read and is left out ({error.strerror})")
        return None
    if len(content) > MOST_BYTES:
        notes.append(f"{name} is larger than {MOST_BYTES >> 20} MiB and is left out")
        return None
    return content.decode("utf-8-sig", errors="replace")


def _read_world(text: str, name: str, notes: list[str]) -> Affine | None:
    """Return the corner-based affine of a world file."""
    words = text.replace(",", ".").split()[:6]
    try:
        a, d, b, e, x, y = map(float, words)
        affine = x - (a + b) / 2, a, b, y - (d + e) / 2, d, e
    except ValueError:
        affine = (math.nan,) * 6
    return _checked(affine, name, notes)


def _checked(affine: Sequence[float], name: str, notes: list[str]) -> Affine | None:
    """Return six numbers that place an image; None where they do not, which a note says."""
    if len(affine) == 6 and all(map(math.isfinite, affine)) and affine[1] * affine[5] != affine[2] * affine[4]:
        x, a, b, y, d, e = affine
        return x, a, b, y, d, e
    notes.append(f"{name} does not hold six numbers that place an image and is left out")
    return None


def _is_close(one: Affine, other: Affine) -> bool:
    """Whether two affines agree to a hundredth of a pixel over the first ten thousand."""
    size = max(math.hypot(one[1], one[4]), math.hypot(one[2], one[5]))
    return all(abs(a - b) <= 1e-2 * size * (1 if index % 3 == 0 else 1e-4) for index, (a, b) in enumerate(zip(one, other, strict=True)))


def _read_aux(text: str, name: str, notes: list[str]) -> tuple[Affine | None, str, str | None]:
    """Return the affine, the coordinate system and the value without data of GDAL's ``.aux.xml``."""
    try:
        root = parse_xml(text, name)
    except ET.ParseError as error:
        notes.append(f"{name} is damaged and is left out ({error})")
        return None, "", None
    affine = None
    if (numbers := root.findtext("GeoTransform")) is not None:
        try:
            affine = _checked([float(number) for number in numbers.split(",")], name, notes)
        except ValueError:
            notes.append(f"{name} has a GeoTransform that is no numbers and is left out")
    declared = [band.findtext("NoDataValue") for band in root.findall("PAMRasterBand")]
    values = {value.strip() for value in declared if value}
    if len(values) > 1:
        notes.append(f"{name} declares another value without data for each band, {', '.join(sorted(values))}; none is used")
    return affine, (root.findtext("SRS") or "").strip(), values.pop() if len(values) == 1 else None


class _NoDoctype(ET.TreeBuilder):
    """Builds a tree, and refuses a document type before one of its entities is read."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Refuse."""
        raise InputError(Problem(self._name, f"XML with a document type {name!r}", "XML without one", "Remove the <!DOCTYPE ...>."))


def parse_xml(text: str | bytes, name: str) -> ET.Element:
    """Parse XML; a document type is refused, as its entities may expand without bound. ``name`` is for the message.

    Raises:
        InputError: the XML has a document type.
        xml.etree.ElementTree.ParseError: it is damaged.
    """
    root: ET.Element = ET.fromstring(text, ET.XMLParser(target=_NoDoctype(name)))  # noqa: S314 - no entity can be declared
    return root
