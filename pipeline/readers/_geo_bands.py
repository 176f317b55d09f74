"""What the bands of an image that GDAL opens mean, and how much memory reads of them take."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.readers import Reader
from pipeline.readers._geo_dataset import CACHE_BYTES, open_dataset
from pipeline.readers._layout import REGION_BYTES, decoded_bytes, pixel_dtype, typed_nodata

if TYPE_CHECKING:
    import rasterio

__all__ = ["Bands", "Memory", "NoData", "check_members", "check_size", "files_looked_at", "is_lossy", "memory_of", "nodata_of"]

LOSSY = ("JPEG", "YCbCr JPEG", "WEBP", "JXL", "JPEG2000", "ECW", "LERC", "LERC_DEFLATE", "LERC_ZSTD", "JPIP")
LOSSY_DRIVERS = ("ECW", "JP2ECW", "JP2KAK", "JP2MrSID", "JP2OpenJPEG", "JPEG", "MrSID", "WEBP")
WHOLE_DRIVERS = ("BIGGIF", "GIF", "GRIB", "JPEG", "PNG", "USGSDEM", "WEBP", "XPM")  # decode a file from its start for each region
RAW_DRIVERS = ("BT", "EHdr", "ENVI", "ERS", "GTX", "GenBin", "ISCE", "KRO", "LCP", "PAux", "PCRaster", "ROI_PAC", "RRASTER", "RST", "SAGA")
"""Formats that store pixels as they are, in one file."""
HEADERS = (".hdr", ".ers", ".rdc", ".sgrd", ".prj", ".xml", ".stx", ".clr", ".aux")  # the other files beside it
CHECKED_BY_GDAL = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".webp", ".vrt", ".gpkg", ".asc", ".nc", ".h5", ".xml")
TILES_LOOKED_AT = 64  # of a GeoPackage, to learn how it is compressed
FILES_LOOKED_AT = 8  # of a VRT, the largest


class Bands:
    """The bands of a dataset."""

    def __init__(self, dataset: rasterio.DatasetReader, options: Reader, path: str) -> None:
        from rasterio.enums import ColorInterp

        self.count = dataset.count
        self.meanings = [one.name for one in dataset.colorinterp]
        self.alpha = tuple(index for index, one in enumerate(dataset.colorinterp) if one == ColorInterp.alpha) if self.count > 1 else ()
        types = {pixel_dtype(np.dtype(name) if name in np.sctypeDict else name, path) for name in dataset.dtypes}
        self.stored_dtype = next(iter(types)) if len(types) == 1 else pixel_dtype(np.result_type(*types), path)
        self.mixed = ", ".join(sorted(one.name for one in types)) if len(types) > 1 else ""
        is_palette = self.count - len(self.alpha) == 1 and self.meanings[0] == "palette" and self.stored_dtype.name in ("uint8", "uint16")
        self.keeps_indices = is_palette and options.palette == "index"
        self.table_NC = _table(dataset, self.stored_dtype) if is_palette and not self.keeps_indices else None
        self._dataset = dataset

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the channels."""
        return self.stored_dtype if self.table_NC is None else np.dtype(np.uint8)

    @property
    def channels(self) -> int:
        """Number of channels, opacity included."""
        return self.count if self.table_NC is None else 3

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each channel; empty where no band has one."""
        found = [(name or "").strip() for name in self._dataset.descriptions]
        return tuple(name or f"band {band}" for band, name in enumerate(found, 1)) if any(found) and self.table_NC is None else ()

    @cached_property
    def bits(self) -> int:
        """Used bits of a sample; 0: all of its type."""
        width = 8 * self.stored_dtype.itemsize
        if self.stored_dtype.kind != "u" or self.table_NC is not None:
            return 0
        found = [self._dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", "") for band in self._dataset.indexes]
        bits = max((int(one) if one.isdigit() else width for one in found), default=width)
        return bits if 0 < bits < width else 0

    def is_color(self, channels: Sequence[int]) -> bool:
        """Whether these channels are red, green and blue, in this order."""
        if self.table_NC is not None:
            return tuple(channels) == (0, 1, 2)
        return [self.meanings[channel] for channel in channels] == ["red", "green", "blue"]

    def notes(self) -> list[str]:
        """Return what a user may not expect of the values."""
        dataset = self._dataset
        notes = [f"bands of {self.mixed} are read as {self.stored_dtype}"] if self.mixed else []
        scaled = {pair for pair in zip(dataset.scales, dataset.offsets, strict=True) if pair != (1.0, 0.0)}
        if scaled:
            listed = ", ".join(f"scale {scale:g} and offset {offset:g}" for scale, offset in sorted(scaled)[:3])
            notes.append(f"bands declare {listed}, which are not applied: values are as stored")
        return notes


def _table(dataset: rasterio.DatasetReader, dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    """Return red, green, blue and opacity (N, 4) of each index; indices that the palette lacks are black and opaque."""
    table_NC = np.zeros((int(np.iinfo(dtype).max) + 1, 4), np.uint8)
    table_NC[:, 3] = 255
    for index, color in dataset.colormap(1).items():
        table_NC[index] = color
    return table_NC


@dataclass(frozen=True)
class NoData:
    """Values of pixels without data."""

    header: float | None = None  # one value for all channels
    stored: Mapping[int, float | None] = field(default_factory=dict)  # by band, where the header cannot hold it
    notes: tuple[str, ...] = ()

    def has_data(self, stored_BYX: NDArray[Any], bands: Sequence[int]) -> NDArray[np.bool_] | None:
        """Return where a band holds another value than its own, NaN being one; bands without a value do not count."""
        found_YX: NDArray[np.bool_] | None = None
        for band_YX, band in zip(stored_BYX, bands, strict=True):
            if (value := self.stored.get(band)) is not None:
                differs_YX = ~np.isnan(band_YX) if math.isnan(value) else band_YX != value
                found_YX = differs_YX if found_YX is None else found_YX | differs_YX
        return found_YX


def nodata_of(dataset: rasterio.DatasetReader, bands: Bands, chosen: Sequence[int], options: Reader) -> NoData:
    """Return the values without data of the chosen bands, numbered from 0.

    A single value is the header's. Where bands declare different ones, a pixel has no data if each band that declares one holds it.
    """
    if options.nodata is not None:
        values = [typed_nodata(options.nodata, bands.stored_dtype)] * len(chosen)
    else:
        declared = [dataset.nodatavals[band] for band in chosen]
        values = [None if one is None else typed_nodata(one, bands.stored_dtype) for one in declared]
    different = {repr(value) for value in values}
    if different == {"None"}:
        return NoData()
    if len(different) == 1 and bands.table_NC is None:
        return NoData(values[0])
    note = ", ".join("none" if value is None else f"{value:g}" for value in values[:8])
    rule = f"bands declare different values without data ({note}): a pixel has no data where each that declares one holds its own"
    return NoData(None, dict(zip(chosen, values, strict=True)), (rule,) if len(different) > 1 else ())


def is_lossy(dataset: rasterio.DatasetReader, path: str) -> bool:
    """Whether compression may have changed values."""
    found = {**dataset.tags(ns="IMAGE_STRUCTURE")}
    reversible = found.get("COMPRESSION_REVERSIBILITY", "").upper()
    if reversible:
        return "LOSSLESS" not in reversible or "POSSIBLY" in reversible
    if dataset.driver in ("GPKG", "MBTiles"):
        return _has_lossy_tiles(path, dataset.name)
    if found.get("COMPRESSION", "").startswith("LERC"):
        return float(found.get("MAX_Z_ERROR", 0) or 0) > 0
    return found.get("COMPRESSION", "") in LOSSY or dataset.driver in LOSSY_DRIVERS


def _has_lossy_tiles(path: str, name: str) -> bool:
    """Whether a GeoPackage or an MBTiles holds JPEG or WebP."""
    import sqlite3

    with sqlite3.connect(f"file:{path.replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=ro", uri=True) as base:
        names = [row[0] for row in base.execute("SELECT name FROM sqlite_master WHERE sql LIKE '%tile_data%'")]
        for table in [one for one in names if one in name] or names:
            quoted = table.replace('"', '""')
            query = f'SELECT substr(tile_data, 1, 4) FROM "{quoted}" LIMIT {TILES_LOOKED_AT}'  # noqa: S608 - quoted
            if any(bytes(row[0] or b"").startswith((b"\xff\xd8", b"RIFF")) for row in base.execute(query)):
                return True
    return False


def files_looked_at(paths: Sequence[str]) -> list[str]:
    """Return the largest of the files that exist: they tell how much memory the others may take."""
    sizes = {path: os.path.getsize(path) for path in paths if os.path.isfile(path)}  # noqa: PTH113, PTH202 - of many paths, quickly
    return sorted(sizes, key=lambda path: -sizes[path])[:FILES_LOOKED_AT]


@dataclass(frozen=True)
class Memory:
    """Bytes that reading takes, beside its result."""

    whole: int  # that each read decodes, whatever the box
    work: int


def memory_of(dataset: rasterio.DatasetReader, members: Iterable[str] = ()) -> tuple[Memory, bool]:
    """Return the memory to read a dataset, and whether a file of a VRT is lossy.

    Args:
        dataset: the image.
        members: files of a VRT: the largest are looked into.
    """
    whole, segment = _segment(dataset)
    lossy = False
    for member in members:
        try:
            with open_dataset(member) as inner:
                inner_whole, inner_segment = _segment(inner)
                lossy = lossy or is_lossy(inner, member)
        except Exception:  # noqa: BLE001 - a damaged file is told by the read of its pixels
            continue
        segment = max(segment, inner_whole, inner_segment)
        whole = max(whole, segment if segment > REGION_BYTES else 0)
    return Memory(whole, CACHE_BYTES + 2 * segment), lossy


def _segment(dataset: rasterio.DatasetReader) -> tuple[int, int]:
    """Return the bytes that every read decodes, and those of a block of all bands."""
    itemsize = max(np.dtype(name).itemsize for name in dataset.dtypes if name in np.sctypeDict) if dataset.count else 1
    is_pixel = dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE", "PIXEL").upper() == "PIXEL"
    across = itemsize * (dataset.count if is_pixel else 1)
    plane = dataset.height * dataset.width * across
    height, width = dataset.block_shapes[0]
    segment = min(height, dataset.height) * min(width, dataset.width) * across
    if dataset.driver in WHOLE_DRIVERS:
        return plane, plane
    return (0 if dataset.driver == "VRT" else decoded_bytes(segment, plane)), segment


def check_size(dataset: rasterio.DatasetReader, path: str) -> None:
    """Refuse a file that is cut off, of formats of which GDAL reads zeros or noise behind the end.

    Raises:
        InputError: the file is too short.
    """
    size = os.path.getsize(path)  # noqa: PTH202 - a text
    if dataset.driver == "PCIDSK":
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            blocks = file.read(32)[16:].strip()
        needed = 512 * int(blocks) if blocks.isdigit() else 0
    elif dataset.driver in RAW_DRIVERS and dataset.tags(ns="ENVI").get("file_compression", "0").strip() in ("", "0"):
        headers = (*HEADERS, ".grd") if dataset.driver == "RRASTER" else HEADERS
        data = [name for name in dataset.files if os.path.isfile(name) and not name.lower().endswith(headers)]  # noqa: PTH113 - as above
        size = max(map(os.path.getsize, data), default=0)
        first = dataset.tags(ns="ENVI").get("header_offset", "0").strip()
        pixel_bytes = sum(np.dtype(name).itemsize for name in dataset.dtypes if name in np.sctypeDict)
        needed = (int(first) if first.isdigit() else 0) + dataset.height * dataset.width * pixel_bytes
    else:
        return
    if size < needed:
        raise InputError(Problem(path, f"a file of {size} bytes, cut off", f"{needed} bytes, as its header says"))


def check_members(paths: Iterable[str]) -> None:
    """Refuse a file of a VRT that is cut off, of formats of which GDAL would not tell it; others fail where they are read.

    Raises:
        InputError: a file is too short.
    """
    for path in paths:
        if not path.lower().endswith(CHECKED_BY_GDAL) and os.path.isfile(path):  # noqa: PTH113 - of many paths, quickly
            try:
                dataset = open_dataset(path)
            except Exception:  # noqa: BLE001 - raw bytes; or damage, which the read of its pixels tells
                continue
            with dataset:
                check_size(dataset, path)
