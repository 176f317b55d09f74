"""GDAL's virtual rasters: which files a VRT names, which of them are missing, and which pixels none of them covers.

A VRT is a text that anybody may have written, so what it names is looked at before GDAL opens it. Refused are code, files at
URLs, GDAL's virtual file systems, and connection strings of services. Files of this machine are read wherever they lie.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.readers._world_file import parse_xml

__all__ = ["Coverage", "Vrt", "is_vector_vrt", "named_files", "read_vrt"]

MOST_BYTES = 1 << 26  # of a VRT: that of 100,000 tiles has half as much
MOST_NESTED = 8
SOURCES = ("SimpleSource", "ComplexSource", "AveragedSource", "NoDataFromMaskSource", "KernelFilteredSource")
FILE_TAGS = ("SourceFilename", "SourceDataset", "CutlineDataset")
LOCAL_PREFIXES = ("GTIFF_DIR", "GPKG", "HDF4_SDS", "HDF5", "NETCDF", "NITF_IM", "SENTINEL2_L1B", "SENTINEL2_L1C", "SENTINEL2_L2A")
"""Of names of one image of several in a file of this machine, such as ``NETCDF:"a.nc":height``."""
LOCAL_ROOTS = ("VRTDataset", "Dimap_Document")  # of XML that GDAL opens without a server
OUTSIDE = re.compile(r"\.gti\.|\.kmz$", re.IGNORECASE)  # files that may name servers themselves
Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True)
class Coverage:
    """Which pixels the files of a VRT cover; for VRTs that declare no value without data."""

    bands: tuple[NDArray[np.int64], ...]  # different sets (N, 4) of rectangles y0, x0, y1, x1; a pixel holds data where each covers it
    shape: tuple[int, int]

    def of(self, box: Box, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Return covered_YX of a box of a level of this shape; None: everywhere."""
        covered_YX: NDArray[np.bool_] | None = None
        zoom = np.array([self.shape[0] / shape[0], self.shape[1] / shape[1]] * 2)
        for rectangles in self.bands:
            boxes = np.rint(rectangles / zoom).astype(np.int64)
            near = (boxes[:, 0] < box.y1) & (boxes[:, 2] > box.y0) & (boxes[:, 1] < box.x1) & (boxes[:, 3] > box.x0)
            part_YX = np.zeros(box.shape, np.bool_)
            for y0, x0, y1, x1 in (boxes[near] - [box.y0, box.x0, box.y0, box.x0]).clip(min=0).tolist():
                part_YX[y0:y1, x0:x1] = True
            covered_YX = part_YX if covered_YX is None else covered_YX & part_YX
        return covered_YX

    def is_whole(self) -> bool:
        """Whether every pixel is covered."""
        return all(_fills(rectangles, self.shape) for rectangles in self.bands)


@dataclass(frozen=True)
class Vrt:
    """A VRT that may be opened."""

    target: str  # what GDAL opens: the path, or the text without the files that are missing
    files: tuple[str, ...]  # paths that it names, and those of the VRTs that it names; some may be missing
    missing: tuple[str, ...]
    coverage: Coverage | None  # None: what holds data is declared otherwise, or all does
    crs: str  # coordinate system, as it states it
    notes: tuple[str, ...]


def is_vector_vrt(path: str) -> bool:
    """Whether a VRT is one of features, such as points of a CSV, which is no image."""
    with open(path, "rb") as file:  # noqa: PTH123 - a path as it is, quickly
        return b"<OGRVRTDataSource" in file.read(4096)


def named_files(path: str, nested: int = 0) -> list[str]:
    """Return the paths that a VRT names, and those of VRTs among them, without a check; empty where it cannot be parsed."""
    if nested > MOST_NESTED:
        return []
    found: dict[str, None] = {}
    for element in _root(path).iter():
        if element.tag in FILE_TAGS and (name := _path_of(element, os.path.dirname(path))):  # noqa: PTH120 - of many names, quickly
            found[name] = None
            if name.lower().endswith(".vrt") and os.path.isfile(name):  # noqa: PTH113 - as above
                found |= dict.fromkeys(named_files(name, nested + 1))
    return list(found)


def read_vrt(path: str) -> Vrt:
    """Check a VRT, and find what it names.

    Raises:
        InputError: it is no VRT, it holds code or names something at a URL, or what is missing cannot be left out.
    """
    parsed = _Parsed(path, ())
    notes, missing = list[str](), tuple(parsed.missing)
    if missing:
        first = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        images = [name for name in parsed.files if name not in parsed.nested]
        if set(images) <= set(missing):
            raise InputError(Problem(path, f"a VRT of files that do not exist: {first}", "files beside it, or where it says"))
        number = f"{len(missing)} of {len(images)}"
        notes.append(f"{number} files that the VRT names do not exist, so that their pixels hold no data: {first}")
    coverage = None if parsed.declares_nodata else parsed.coverage()
    if coverage is not None and coverage.is_whole():
        coverage = None
    elif coverage is not None and not missing:
        notes.append("pixels that no file of the VRT covers hold no data, as it declares no value for them")
    return Vrt(
        parsed.text if missing else path, tuple(parsed.files), missing, coverage, (parsed.root.findtext("SRS") or "").strip(), tuple(notes)
    )


def _root(path: str) -> ET.Element:
    if os.path.getsize(path) > MOST_BYTES:  # noqa: PTH202 - as above
        raise InputError(Problem(path, f"a VRT of more than {MOST_BYTES >> 20} MiB", "a smaller one"))
    try:
        return parse_xml(Path(path).read_bytes(), path)
    except ET.ParseError as error:
        raise InputError(Problem(path, f"a VRT that is damaged ({error})")) from error


def _path_of(element: ET.Element, folder: str) -> str:
    """Return the path that an element of a VRT names; empty where it names no file of its own."""
    text = (element.text or "").strip()
    if not text or text.startswith("<"):
        return ""
    if found := re.fullmatch(r'([A-Z][A-Z0-9_]+):(?:\d+:)?"?(.+?)"?(?::[^/]*)?', text):
        text = found[2]
    return os.path.normpath(os.path.join(folder, text)) if _is_relative(element) else os.path.normpath(text)  # noqa: PTH118 - quickly


def _is_relative(element: ET.Element) -> bool:
    return element.get("relativeToVRT", element.get("relativetoVRT", "0")).strip() == "1"


class _Parsed:
    """One VRT of a file, with the VRTs that it names."""

    def __init__(self, path: str, above: tuple[str, ...]) -> None:
        self.path, self.above, self.folder = path, (*above, os.path.realpath(path)), os.path.dirname(path)  # noqa: PTH120 - a text
        if len(above) > MOST_NESTED or os.path.realpath(path) in above:
            raise InputError(Problem(path, "a VRT that names itself, or VRTs in VRTs", f"at most {MOST_NESTED} in each other"))
        self.root = _root(path)
        if self.root.tag != "VRTDataset":
            raise InputError(Problem(path, f"a VRT that begins with <{self.root.tag}>", "<VRTDataset>, an image"))
        self.shape = self._size("rasterYSize"), self._size("rasterXSize")
        self.files: dict[str, None] = {}
        self.missing: dict[str, None] = {}
        self.nested: dict[str, _Parsed] = {}  # by path
        self.inner: dict[ET.Element, _Parsed] = {}  # by the element that names it
        self._check_code()
        self._read_files()

    def _size(self, name: str) -> int:
        text = self.root.get(name, "512")  # GDAL's own default
        if not text.strip().isdigit() or not 0 < int(text) < 2**31:
            raise InputError(Problem(f"{self.path}: {name}", repr(text), "a number of pixels from 1 to 2147483647"))
        return int(text)

    @property
    def text(self) -> str:
        """The VRT as XML, with absolute paths and without missing files."""
        return ET.tostring(self.root, encoding="unicode")

    @property
    def kind(self) -> str:
        """What makes its pixels otherwise than by a mosaic of files; empty for a mosaic."""
        kinds = {band.get("subClass", "VRTSourcedRasterBand") for band in self.root.iter("VRTRasterBand")} - {"VRTSourcedRasterBand"}
        return self.root.get("subClass", "") or ", ".join(sorted(kinds))

    @property
    def declares_nodata(self) -> bool:
        """Whether a value, a mask or an alpha band tells which pixels hold data."""
        bands = self.root.findall("VRTRasterBand")
        has_alpha = any((band.findtext("ColorInterp") or "").strip() == "Alpha" for band in bands)
        is_hidden = any((band.findtext("HideNoDataValue") or "").strip() == "1" for band in bands)
        has_value = any(band.find("NoDataValue") is not None for band in bands) and not is_hidden
        return has_value or has_alpha or self.root.find(".//MaskBand") is not None or bool(self.kind)

    def _check_code(self) -> None:
        """Refuse code, and whatever names a virtual file system."""
        for element in self.root.iter():
            language = (element.text or "").strip() if element.tag == "PixelFunctionLanguage" else ""
            if language not in ("", "C", "builtin") or element.tag == "PixelFunctionCode":
                fix = "Compute it once: gdal_translate of a VRT that you trust, with GDAL_VRT_ENABLE_PYTHON=YES."
                raise InputError(Problem(self.path, f"a VRT that holds code ({language or 'PixelFunctionCode'})", "files and numbers", fix))
            for text in (element.text or "", *element.attrib.values()):
                if "/vsi" in text and "<" not in text:
                    self._refuse(text.strip())

    def _check_raw(self, band: ET.Element, name: str) -> None:
        """Refuse bytes that are read as pixels from a file elsewhere, or from behind the end of one, where GDAL reads zeros."""
        if not os.path.realpath(name).startswith(os.path.realpath(self.folder) + "/"):
            fix = "Move the file beside the VRT."
            raise InputError(Problem(self.path, f"a VRT that reads the bytes of {name} as pixels", "a file beside it or below", fix))
        try:
            first, pixel, line = (int(band.findtext(key) or 0) for key in ("ImageOffset", "PixelOffset", "LineOffset"))
        except ValueError as error:
            raise InputError(Problem(self.path, "a band of raw bytes whose offsets are no numbers", "whole numbers")) from error
        last = first + max(line * (self.shape[0] - 1), 0) + max(pixel * (self.shape[1] - 1), 0)
        if os.path.getsize(name) <= last:  # noqa: PTH202 - of many names, quickly
            raise InputError(Problem(self.path, f"{name} of {os.path.getsize(name)} bytes, cut off", f"more than {last} bytes"))  # noqa: PTH202 - as above

    def _refuse(self, name: str) -> None:
        fix = "Copy the files to a disk and make the VRT of them, or list the URLs of the images themselves: each is read by ranges."
        raise InputError(Problem(self.path, f"a VRT that names {name[:200]!r}", "files of this machine", fix))

    def _read_files(self) -> None:
        """Make paths absolute, leave out what is missing, and look into the VRTs among the files."""
        parents = {child: parent for parent in self.root.iter() for child in parent}
        for element in [one for one in self.root.iter() if one.tag in FILE_TAGS]:
            text = (element.text or "").strip()
            prefix = re.match(r"([A-Za-z][A-Za-z0-9_]+):", text) if not os.path.isfile(os.path.join(self.folder, text)) else None  # noqa: PTH113, PTH118 - a colon in a file name
            if "://" in text or text.startswith(("<", "{")) or OUTSIDE.search(text) or (prefix and prefix[1] not in LOCAL_PREFIXES):
                self._refuse(text)
            name = _path_of(element, self.folder)
            if name and not os.path.isabs(name):  # noqa: PTH117 - of many names, quickly
                name = os.path.abspath(name)  # noqa: PTH100 - relative to the working directory, as GDAL takes it
            if not prefix:
                element.text = name
                element.attrib.pop("relativetoVRT", None)
                element.set("relativeToVRT", "0")
            self.files[name] = None
            if not os.path.isfile(name):  # noqa: PTH113 - as above
                self._leave_out(element, parents, name)
            else:
                if parents[element].get("subClass") == "VRTRawRasterBand":
                    self._check_raw(parents[element], name)
                self._look_into(element, name)

    def _leave_out(self, element: ET.Element, parents: dict[ET.Element, ET.Element], name: str) -> None:
        """Remove the source of a missing file; refuse where the pixels are computed from it."""
        source = parents[element]
        band = parents.get(source)
        is_overview = source.tag == "Overview"
        is_mosaic = source.tag in SOURCES and band is not None and band.get("subClass", "VRTSourcedRasterBand") == "VRTSourcedRasterBand"
        if band is None or not (is_overview or is_mosaic):
            found = f"a VRT whose file {name} does not exist"
            raise InputError(Problem(self.path, found, "all of its files, as it is no plain mosaic"))
        band.remove(source)
        if not is_overview:
            self.missing[name] = None

    def _look_into(self, element: ET.Element, name: str) -> None:
        """Check a file that is XML; put the text of a VRT that lacks files into this one."""
        if name not in self.nested:
            with open(name, "rb") as file:  # noqa: PTH123 - as above
                start = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
            if not start.startswith((b"<", b"{")):
                return
            tag = re.search(rb"<([A-Za-z_]\w*)", start)
            if tag is None or tag[1].decode() not in LOCAL_ROOTS:
                self._refuse(name)
            if tag is not None and tag[1] != b"VRTDataset":
                return
            self.nested[name] = _Parsed(name, self.above)
        inner = self.nested[name]
        self.files |= inner.files
        self.missing |= inner.missing
        self.inner[element] = inner
        if inner.missing:
            element.text = inner.text

    def coverage(self) -> Coverage:
        """Return which pixels the files cover."""
        bands = {tuple(sorted(self.rectangles(band))) for band in self.root.findall("VRTRasterBand")}
        return Coverage(tuple(np.array([_rounded(one, self.shape) for one in band], np.int64).reshape(-1, 4) for band in bands), self.shape)

    def rectangles(self, band: ET.Element) -> Iterator[Rectangle]:
        """Yield what the sources of a band cover: all of their place, or what the files of a VRT in this VRT cover of it."""
        for source in band:
            if source.tag not in SOURCES:
                continue
            place = _rectangle(source.find("DstRect")) or (0.0, 0.0, float(self.shape[1]), float(self.shape[0]))
            named = source.find("SourceFilename")
            inner = None if named is None else self.inner.get(named)
            if inner is None or inner.declares_nodata:
                yield place
                continue
            number = int(source.findtext("SourceBand") or 1)
            of_band = inner.root.findall("VRTRasterBand")[number - 1 : number] or inner.root.findall("VRTRasterBand")[:1]
            seen = _rectangle(source.find("SrcRect")) or (0.0, 0.0, float(inner.shape[1]), float(inner.shape[0]))
            for one in of_band:
                yield from _moved(inner.rectangles(one), seen, place)


def _rectangle(element: ET.Element | None) -> Rectangle | None:
    if element is None:
        return None
    try:
        x, y, width, height = (float(element.get(name, "")) for name in ("xOff", "yOff", "xSize", "ySize"))
    except ValueError:
        return None
    return x, y, x + width, y + height


def _moved(rectangles: Iterable[Rectangle], seen: Rectangle, place: Rectangle) -> Iterator[Rectangle]:
    """Yield the parts of rectangles in ``seen``, of one grid, where they lie in ``place``, of another.

    Example:
        >>> list(_moved([(0.0, 0.0, 10.0, 10.0)], (5.0, 0.0, 15.0, 10.0), (0.0, 0.0, 20.0, 20.0)))
        [(0.0, 0.0, 10.0, 20.0)]
    """
    steps = [(place[at + 2] - place[at]) / max(seen[at + 2] - seen[at], 1e-9) for at in (0, 1)]
    for one in rectangles:
        x0, y0, x1, y1 = (min(max(value, seen[at % 2]), seen[at % 2 + 2]) for at, value in enumerate(one))
        if x0 < x1 and y0 < y1:
            corners = [place[at % 2] + (value - seen[at % 2]) * steps[at % 2] for at, value in enumerate((x0, y0, x1, y1))]
            yield corners[0], corners[1], corners[2], corners[3]


def _rounded(one: Rectangle, shape: tuple[int, int]) -> list[int]:
    """Return y0, x0, y1, x1 inside the image, in whole pixels."""
    x0, y0, x1, y1 = (int(np.floor(value + 0.5)) for value in one)
    return [min(max(value, 0), size) for value, size in zip((y0, x0, y1, x1), (*shape, *shape), strict=True)]


def _fills(rectangles: NDArray[np.int64], shape: tuple[int, int]) -> bool:
    """Whether rectangles (N, 4), y0, x0, y1, x1, cover every pixel of an image.

    Example:
        >>> _fills(np.array([[0, 0, 4, 3], [0, 2, 4, 9]]), (4, 9)), _fills(np.array([[0, 0, 4, 3], [1, 2, 4, 9]]), (4, 9))
        (True, False)
    """
    edges: Sequence[Any] = np.unique([0, shape[0], *rectangles[:, 0].tolist(), *rectangles[:, 2].tolist()]).tolist()
    for y in edges[:-1]:
        reached = 0
        spans = rectangles[(rectangles[:, 0] <= y) & (rectangles[:, 2] > y)]
        for x0, x1 in spans[np.argsort(spans[:, 1], kind="stable")][:, [1, 3]].tolist():
            if x0 > reached:
                return False
            reached = max(reached, x1)
        if reached < shape[1]:
            return False
    return True
