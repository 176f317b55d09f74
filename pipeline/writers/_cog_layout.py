"""The pixels of a Cloud Optimized GeoTIFF before its tiles are put in order, and the table of its classes."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.geometry import Box
from pipeline.raster import Raster
from pipeline.writers import MaskMeta
from pipeline.writers._pyramid import mode, nearest
from pipeline.writers._tiff_levels import SPAN, TILE, cut, encoder, write_levels
from pipeline.writers.tiff import CLASSIC_BYTES, GDAL_METADATA, GDAL_NODATA, color_table, geotiff_tags, resolution

__all__ = ["attribute_table", "has_attribute_table", "write_mask_levels", "write_probability_levels"]

FAST = "zstd"  # of a file that is read once, by the process that wrote it

SOFTWARE = "gigaseg"

INTEGER, TEXT = 0, 2  # types of columns, and usages below: GDALRATFieldType and GDALRATFieldUsage of GDAL
COLUMNS = {"Value": (INTEGER, 5), "Class": (TEXT, 2), "Red": (INTEGER, 6), "Green": (INTEGER, 7), "Blue": (INTEGER, 8)}


def write_mask_levels(path: Path, mask: Raster, meta: MaskMeta) -> None:
    """Write a mask and its overviews as a TIFF, streamed, down to an overview that is one tile."""
    import tifffile

    raw_bytes = meta.shape[0] * meta.shape[1] * np.dtype(meta.dtype).itemsize
    classes = () if meta.holds_ids else meta.classes
    names = {f"class_{spec['id']}": str(spec["name"]) for spec in classes}
    items = [_item(name, text) for name, text in names.items()] + [_item("DESCRIPTION", "id" if meta.holds_ids else "class", 0)]
    tags = [_text_tag(GDAL_NODATA, str(meta.fill)), _text_tag(GDAL_METADATA, _metadata(items)), *geotiff_tags(meta.georeference)]
    shared = {**color_table(meta), "software": SOFTWARE}
    with tifffile.TiffWriter(path, bigtiff=raw_bytes * 4 // 3 > CLASSIC_BYTES) as file:
        write_levels(
            file,
            mask,
            meta.dtype,
            path.parent,
            compression=FAST,
            halve=nearest if meta.holds_ids else mode,
            largest=TILE,
            first_page={"metadata": None, "extratags": tags},
            every_page=lambda level: {**shared, **resolution(meta, level)},
        )


def write_probability_levels(path: Path, probs: Raster) -> None:
    """Write probabilities as a TIFF of a band for each class, streamed, without overviews."""
    import tifffile

    header = probs.header
    names = header.channel_names or tuple(f"class {index}" for index in range(header.channels))
    items = [_item("DESCRIPTION", name, band) for band, name in enumerate(names)]
    items += [_item("SCALE", repr(1 / 255), band) for band in range(header.channels)]
    tags = [_text_tag(GDAL_METADATA, _metadata(items)), *geotiff_tags(header.georeference)]
    raw_bytes = header.shape[0] * header.shape[1] * header.channels
    with tifffile.TiffWriter(path, bigtiff=raw_bytes * 4 // 3 > CLASSIC_BYTES) as file:
        file.write(
            _tiles_of(probs),
            shape=(*header.shape, header.channels),
            dtype=header.dtype,
            tile=(TILE, TILE),
            compression=FAST,
            photometric="minisblack",
            planarconfig="contig",
            metadata=None,
            software=SOFTWARE,
            extratags=tags,
        )


def _tiles_of(probs: Raster) -> Iterator[bytes]:
    """Yield the compressed tiles (Y, X, K), row by row."""
    encode, header = encoder(FAST), probs.header
    span = max(TILE, SPAN // header.channels // TILE * TILE)  # many classes are read in narrower parts
    for y in range(0, header.shape[0], TILE):
        for x in range(0, header.shape[1], span):
            part_CYX = probs.read(Box(y, x, y + TILE, x + span).clip(header.shape))
            yield from map(encode, cut(np.moveaxis(part_CYX, 0, -1), (TILE, TILE)))


def has_attribute_table(meta: MaskMeta) -> bool:
    """Whether a mask has classes, which a table beside its file lists."""
    return bool(meta.classes) and not meta.holds_ids


def attribute_table(meta: MaskMeta) -> bytes:
    """Return the names and colours of the classes as the XML in which GDAL keeps a raster attribute table and category names."""
    fields = "".join(
        f'<FieldDefn index="{index}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage></FieldDefn>'
        for index, (name, (kind, usage)) in enumerate(COLUMNS.items())
    )
    rows = "".join(f'<Row index="{index}">{_row(spec)}</Row>' for index, spec in enumerate(meta.classes))
    categories = "".join(f"<Category>{_escaped(spec['name'])}</Category>" for spec in meta.classes)
    table = f'<GDALRasterAttributeTable tableType="thematic">{fields}{rows}</GDALRasterAttributeTable>'
    band = f'<PAMRasterBand band="1"><CategoryNames>{categories}</CategoryNames>{table}</PAMRasterBand>'
    return f"<PAMDataset>{band}</PAMDataset>\n".encode()


def _row(spec: Mapping[str, Any]) -> str:
    color = bytes.fromhex(str(spec["color"]).lstrip("#"))
    return "".join(f"<F>{_escaped(value)}</F>" for value in (spec["id"], spec["name"], *color))


def _item(name: str, text: str, band: int | None = None) -> str:
    """Return an item of GDAL's metadata in a TIFF; of a band, the name is also the role."""
    of_band = "" if band is None else f' sample="{band}" role="{name.lower()}"'
    return f'<Item name="{name}"{of_band}>{_escaped(_escaped(text))}</Item>'  # twice: GDAL reads the XML, then the text as XML


def _metadata(items: Sequence[str]) -> str:
    return f"<GDALMetadata>{''.join(items)}</GDALMetadata>"


def _text_tag(code: int, text: str) -> tuple[int, int, int, bytes, bool]:
    return code, 2, 0, text.encode(), True


def _escaped(value: object) -> str:
    """Escape a text for XML; control characters, which XML cannot hold, are left out."""
    return html.escape("".join(letter for letter in str(value) if letter >= " " or letter in "\t\n"), quote=True)
