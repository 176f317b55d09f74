"""Tiled, compressed, pyramidal TIFF, streamed: level 0 is read once, in rows of tiles.

The smaller levels are computed in the same pass. A TIFF stores one level after the other, so their tiles wait, compressed, in a
spool: a temporary file without a name, which goes to disk only when it has grown::

    level 0  ████████ row of tiles ──▶ file
    level 1  ████ ─ half of it, until a row of tiles is full ──▶ spool ──▶ file, after level 0
    level 2  ██ ─ half of that ─── ...                       ──▶ spool ──▶ file, after level 1

So memory holds less than one row of tiles, whatever the height of the image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal
from uuid import NAMESPACE_URL, uuid5
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from pipeline.geometry import Box, ceil_to
from pipeline.raster import Raster
from pipeline.storage import Storage
from pipeline.writers import MaskMeta, Writer
from pipeline.writers._pyramid import halved, nearest, shapes

if TYPE_CHECKING:
    import tifffile

__all__ = ["Tiff"]

TILE = 512
SPAN = 8 * TILE  # pixels read at once along a row: few wide reads are faster than many narrow ones
SPOOL_BYTES = 16 << 20  # compressed tiles of one level kept in memory before they go to disk
CLASSIC_BYTES = 4 * 10**9  # a TIFF above 4 GiB needs 8-byte offsets; judged by the size without compression
GEOTIFF = (33550, 33922, 34264, 34735, 34736, 34737)  # pixel scale, tie points, transformation, geokeys and their values
GDAL_METADATA, GDAL_NODATA = 42112, 42113
OME_UNITS = {"micrometer": "µm", "meter": "m", "second": "s"}

Encode = Callable[[NDArray[Any]], bytes]


class Tiff(Writer):
    """A mask as a tiled, pyramidal (Geo)TIFF of class ids, which QGIS, GDAL, QuPath and OpenSlide read.

    With ``of: objects`` it holds ids of objects, 32 bits, in the folder ``instances``.

    GeoTIFF tags and pixel size are kept; *no prediction* is declared as GDAL nodata. Up to 255 classes have a colour
    table, and class names are in the metadata. The levels of a single plane are consecutive pages,
    each marked as reduced; a (t, z) stack is an OME-TIFF with levels in SubIFDs.

    Example::

        writers: [{name: tiff, compression: zstd}]
    """

    suffix: ClassVar[str] = ".tif"

    compression: Literal["deflate", "lzw", "zstd", "none"] = Field(default="deflate", description="deflate is read everywhere")
    of: Literal["mask", "objects"] = Field(default="mask", description="what the pixels are: class ids, or ids of objects")
    pyramid: bool = Field(default=True, description="also write smaller levels, for images of 1024 pixels and more")

    @property
    @override
    def folder(self) -> str:
        return "instances" if self.of == "objects" else "masks"

    @property
    @override
    def holds_mask(self) -> bool:
        return self.of == "mask"

    @property
    @override
    def needs_objects(self) -> bool:
        return self.of == "objects"

    def is_ome(self, meta: MaskMeta) -> bool:
        """Whether the file has OME-XML, with levels in SubIFDs."""
        return bool(meta.planes)

    @override
    def export(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        import tifffile

        if self.of == "objects":
            objects = self.objects_of(meta)
            mask, meta = objects.labels, objects.meta
        raw_bytes = mask.header.num_planes * meta.shape[0] * meta.shape[1] * np.dtype(meta.dtype).itemsize
        # Not durable: what a power cut takes, a resumed run misses by its size, and exports again.
        with (
            storage.local_file(key, durable=False) as path,
            tifffile.TiffWriter(path, bigtiff=raw_bytes * 4 // 3 > CLASSIC_BYTES, ome=self.is_ome(meta)) as file,
        ):
            self._write(file, mask, meta, path)

    def _write(self, file: tifffile.TiffWriter, mask: Raster, meta: MaskMeta, path: Path) -> None:
        tile = min(TILE, ceil_to(meta.shape[0], 16)), min(TILE, ceil_to(meta.shape[1], 16))
        encode, is_ome = _encoder(self.compression), self.is_ome(meta)
        options: dict[str, Any] = {
            "dtype": meta.dtype,
            "tile": tile,
            **_colors(meta, is_ome=is_ome),
            "compression": {"deflate": "zlib", "none": None}.get(self.compression, self.compression),
            "software": "gigaseg",
        }
        stack = tuple(meta.planes.values())
        with ExitStack() as spools:
            reduced: list[_Reduced] = []
            for shape in reversed(shapes(meta.shape, 2 * TILE - 1)[1:] if self.pyramid else []):
                spool = spools.enter_context(tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(path.parent)))
                rows_YX = np.empty((tile[0], shape[1]), meta.dtype)
                reduced.insert(0, _Reduced(shape, rows_YX, tile, encode, spool, reduced[0] if reduced else None))
            file.write(
                _level0(mask, np.dtype(meta.dtype), tile, encode, reduced[0] if reduced else None),
                shape=stack + meta.shape,
                metadata=_ome(meta, path.name) if is_ome else None,
                subifds=len(reduced) if is_ome else 0,
                extratags=_tags(meta, is_ome=is_ome),
                **options,
                **_resolution(meta, 0),
            )
            for number, level in enumerate(reduced, 1):
                file.write(level.tiles(), shape=stack + level.shape, metadata=None, subfiletype=1, **options, **_resolution(meta, number))


def _level0(mask: Raster, dtype: np.dtype[Any], tile: tuple[int, int], encode: Encode, below: _Reduced | None) -> Iterator[bytes]:
    """Yield the compressed tiles of every plane, row by row, and give what was read to the level below."""
    height, width = mask.header.shape
    for plane in range(mask.header.num_planes):
        for y in range(0, height, tile[0]):
            for x in range(0, width, SPAN):
                box = Box(y, x, y + tile[0], x + SPAN).clip((height, width))
                rows_YX = mask.read(box, plane)[0].astype(dtype, copy=False)
                if below:  # before the tiles, because nobody asks for more after the last one
                    below.put(x // 2, nearest(rows_YX))
                    if box.x1 == width:
                        below.advance(halved(box.shape)[0])
                yield from map(encode, _cut(rows_YX, tile))


class _Reduced:
    """One smaller level: collects a row of tiles from the level above, compresses it, halves it for the level below."""

    def __init__(
        self, shape: tuple[int, int], rows_YX: NDArray[Any], tile: tuple[int, int], encode: Encode, spool: IO[bytes], below: _Reduced | None
    ) -> None:
        self.shape, self.tile, self.encode, self.below = shape, tile, encode, below
        self.rows_YX = rows_YX  # one row of tiles
        self.num_rows = 0  # of rows_YX that are filled
        self.num_done = 0  # rows of this plane that are compressed
        self.spool = spool
        self.sizes: list[int] = []

    def put(self, x: int, part_YX: NDArray[Any]) -> None:
        """Take some columns of the rows that are being collected."""
        self.rows_YX[self.num_rows : self.num_rows + part_YX.shape[0], x : x + part_YX.shape[1]] = part_YX

    def advance(self, num_rows: int) -> None:
        """Count rows as complete, in every column, and compress them when they fill a row of tiles."""
        self.num_rows += num_rows
        if self.num_rows < self.tile[0] and self.num_done + self.num_rows < self.shape[0]:
            return
        rows_YX = self.rows_YX[: self.num_rows]
        self.sizes += [self.spool.write(self.encode(part_YX)) for part_YX in _cut(rows_YX, self.tile)]
        self.num_done = (self.num_done + self.num_rows) % self.shape[0]
        self.num_rows = 0
        if self.below:
            self.below.put(0, nearest(rows_YX))
            self.below.advance(halved(rows_YX.shape)[0])

    def tiles(self) -> Iterator[bytes]:
        """Yield the compressed tiles in order."""
        self.spool.seek(0)
        yield from map(self.spool.read, self.sizes)


def _cut(rows_YX: NDArray[Any], tile: tuple[int, int]) -> Iterator[NDArray[Any]]:
    """Yield the tiles of a row; those at the edge are filled up with zeros, which no reader shows."""
    for x in range(0, rows_YX.shape[1], tile[1]):
        part_YX = rows_YX[:, x : x + tile[1]]
        if part_YX.shape != tile:
            whole_YX = np.zeros(tile, rows_YX.dtype)
            whole_YX[: part_YX.shape[0], : part_YX.shape[1]] = part_YX
            part_YX = whole_YX
        yield np.ascontiguousarray(part_YX)


def _encoder(compression: str) -> Encode:
    import imagecodecs

    if compression == "none":
        return np.ndarray.tobytes
    encode: Callable[[NDArray[Any]], Any] = getattr(imagecodecs, f"{compression}_encode")
    return lambda tile: bytes(encode(tile))


def _ome(meta: MaskMeta, name: str) -> dict[str, Any]:
    uuid = uuid5(NAMESPACE_URL, f"{meta.source}#{name}")  # not random, so that exporting again gives the same bytes
    described: dict[str, Any] = {"axes": "".join(meta.planes).upper() + "YX", "Name": name, "UUID": f"urn:uuid:{uuid}"}
    unit = OME_UNITS.get(meta.unit)
    if meta.pixel_size and unit:
        for axis, size in zip("YX", meta.pixel_size, strict=True):
            described |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    for axis, key in (("z", "PhysicalSizeZ"), ("t", "TimeIncrement")):
        if (step := meta.plane_steps.get(axis)) and step.unit in OME_UNITS:
            described |= {key: step.step, f"{key}Unit": OME_UNITS[step.unit]}
    listed = {f"class {spec['id']}": f"{spec['name']} {spec['color']}" for spec in _classes(meta)}
    return {**described, "MapAnnotation": {"Namespace": "gigaseg/classes", **listed}} if listed else described


def _classes(meta: MaskMeta) -> Sequence[Mapping[str, Any]]:
    """Return the classes that pixels have."""
    return () if meta.holds_ids else meta.classes


def _colors(meta: MaskMeta, *, is_ome: bool) -> dict[str, Any]:
    """Return the colour table of 8-bit masks; none for OME-TIFF, as its readers do not agree on colour tables."""
    if is_ome or meta.dtype != "uint8" or not meta.classes:
        return {"photometric": "minisblack"}
    table = np.zeros((3, 256), np.uint16)
    for spec in meta.classes:
        table[:, spec["id"]] = [257 * value for value in bytes.fromhex(spec["color"].lstrip("#"))]
    return {"photometric": "palette", "colormap": table}


def _resolution(meta: MaskMeta, level: int) -> dict[str, Any]:
    """Return the resolution tags: pixels per centimetre (x, y), for pixel sizes in micrometres."""
    if not meta.pixel_size or meta.unit != "micrometer":
        return {}
    y, x = (10_000 / size / 2**level for size in meta.pixel_size)
    return {"resolution": (x, y), "resolutionunit": "CENTIMETER"}


def _tags(meta: MaskMeta, *, is_ome: bool) -> list[tuple[int, int, int, Any, bool]]:
    """Return the tags of the first page: georeference, nodata, class names."""
    tags: list[tuple[int, int, int, Any, bool]] = [(GDAL_NODATA, 2, 0, str(meta.fill), True)]
    if (classes := _classes(meta)) and not is_ome:
        items = (f'<Item name="class_{spec["id"]}">{escape(spec["name"])}</Item>' for spec in classes)
        tags.append((GDAL_METADATA, 2, 0, f"<GDALMetadata>{''.join(items)}</GDALMetadata>".encode(), True))
    for code in GEOTIFF:
        tag: Mapping[str, Any] | None = meta.georeference.get(str(code))
        if tag is None:
            continue
        value = tag["value"]
        if not isinstance(value, str):
            value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        tags.append((code, int(tag["type"]), len(value), value, True))
    return tags
