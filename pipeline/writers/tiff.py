"""Tiled, compressed, pyramidal TIFF, streamed (:mod:`pipeline.writers._tiff_levels`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from uuid import NAMESPACE_URL, uuid5
from xml.sax.saxutils import escape

import numpy as np
from pydantic import Field
from typing_extensions import override

from pipeline.raster import GEOTIFF_TAGS, Raster
from pipeline.storage import Storage
from pipeline.writers import MaskMeta, Writer
from pipeline.writers._pyramid import nearest
from pipeline.writers._tiff_levels import write_levels

if TYPE_CHECKING:
    import tifffile

__all__ = ["Tiff"]

CLASSIC_BYTES = 4 * 10**9  # a TIFF above 4 GiB needs 8-byte offsets; judged by the size without compression
GDAL_METADATA, GDAL_NODATA = 42112, 42113
GREY = {"photometric": "minisblack"}  # also of OME-TIFF: its readers do not agree on colour tables
OME_UNITS = {"micrometer": "µm", "meter": "m", "second": "s"}


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
        is_ome = self.is_ome(meta)
        shared = {**(GREY if is_ome else color_table(meta)), "software": "gigaseg"}
        write_levels(
            file,
            mask,
            meta.dtype,
            path.parent,
            stack=tuple(meta.planes.values()),
            compression=self.compression,
            halve=nearest if self.pyramid else None,
            first_page={"metadata": _ome(meta, path.name) if is_ome else None, "extratags": _tags(meta, is_ome=is_ome)},
            in_subifds=is_ome,
            every_page=lambda level: {**shared, **resolution(meta, level)},
        )


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


def color_table(meta: MaskMeta) -> dict[str, Any]:
    """Return the options that give an 8-bit mask the colours of its classes."""
    if meta.dtype != "uint8" or not meta.classes:
        return GREY
    table = np.zeros((3, 256), np.uint16)
    for spec in meta.classes:
        table[:, spec["id"]] = [257 * value for value in bytes.fromhex(spec["color"].lstrip("#"))]
    return {"photometric": "palette", "colormap": table}


def resolution(meta: MaskMeta, level: int) -> dict[str, Any]:
    """Return the resolution tags: pixels per centimetre (x, y), for pixel sizes in micrometres."""
    if not meta.pixel_size or meta.unit != "micrometer":
        return {}
    y, x = (10_000 / size / 2**level for size in meta.pixel_size)
    return {"resolution": (x, y), "resolutionunit": "CENTIMETER"}


def _tags(meta: MaskMeta, *, is_ome: bool) -> list[tuple[int, int, int, Any, bool]]:
    """Return the tags of the first page: georeference, nodata, class names."""
    tags: list[tuple[int, int, int, Any, bool]] = [(GDAL_NODATA, 2, 0, str(meta.fill), True)]
    if (classes := _classes(meta)) and not is_ome:
        # Escaped twice: GDAL reads the XML, then the text as XML.
        items = (f'<Item name="class_{spec["id"]}">{escape(escape(spec["name"]))}</Item>' for spec in classes)
        tags.append((GDAL_METADATA, 2, 0, f"<GDALMetadata>{''.join(items)}</GDALMetadata>".encode(), True))
    return tags + geotiff_tags(meta.georeference)


def geotiff_tags(georeference: Mapping[str, Any]) -> list[tuple[int, int, int, Any, bool]]:
    """Return the georeference of a header as extra tags of a TIFF."""
    tags: list[tuple[int, int, int, Any, bool]] = []
    for code in GEOTIFF_TAGS:
        tag: Mapping[str, Any] | None = georeference.get(str(code))
        if tag is None:
            continue
        value = tag["value"]
        if not isinstance(value, str):
            value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        tags.append((code, int(tag["type"]), len(value), value, True))
    return tags
