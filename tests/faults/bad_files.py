"""Files that no reader may trust: cut, empty, mislabelled, encrypted, of absurd sizes, circular, and bombs of several kinds."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import tifffile
import zarr
from PIL import Image

from tests.readers.sample_files import SAMPLES, ome_zarr, scene
from tests.readers.test_jpeg2000 import SRGB, jp2
from tests.readers.test_tiff_damage import chain, directory, grey_tags
from tests.readers.tiff_files import ome_text
from tests.readers.zarr_stores import zip_store

ABSURD = 10**9
SHAPE = (128, 256)
LAUGHS = "".join(f'<!ENTITY l{number} "{f"&l{number - 1};" * 10}">' for number in range(1, 12))


def cut(sample: str, share: float):
    """A sample of which only the beginning is left."""

    def write(path: Path) -> None:
        made = SAMPLES[sample].make(path.parent / f".{path.name}", scene(*SHAPE))
        content = made.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write


def png_as_tiff(path: Path) -> None:
    """A PNG whose name ends in .tif."""
    Image.fromarray(scene(*SHAPE)).save(path, "PNG")


def encrypted(path: Path) -> None:
    """A zipped store whose entries are encrypted, as far as the zip says."""
    store = path.parent / ".encrypted.ome.zarr"
    ome_zarr(3)(store, scene(*SHAPE))
    zip_store(store, path)
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + place] |= 1
            at = content.find(mark, at + 4)
    path.write_bytes(content)
    assert all(info.flag_bits & 1 for info in zipfile.ZipFile(path).infolist())


def absurd_tiff(path: Path) -> None:
    """A billion rows and columns in a file of 300 bytes."""
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 72) + bytes(64) + directory(grey_tags(ABSURD, ABSURD), 0))


def png(side: int, packed: bytes) -> bytes:
    """A grey PNG of so many rows and columns, whose checksums are right."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def absurd_png(path: Path) -> None:
    """The same in a PNG."""
    path.write_bytes(png(ABSURD, zlib.compress(bytes(99))))


def absurd_zarr(path: Path) -> None:
    """The same in a Zarr array that stores no chunk."""
    zarr.create_array(str(path), shape=(ABSURD, ABSURD), chunks=(1024, 1024), dtype="u1", zarr_format=3, dimension_names=["y", "x"])


def absurd_chunk(path: Path) -> None:
    """A Zarr array whose one chunk has 10**12 pixels."""
    zarr.create_array(str(path), shape=(10**6, 10**6), chunks=(10**6, 10**6), dtype="u1", zarr_format=2)


def absurd_jp2(path: Path) -> None:
    """The same in a JP2, in the header of its codestream as well."""
    content = jp2(np.stack([scene(*SHAPE)] * 3, axis=-1), SRGB)
    height, width = SHAPE
    absurd = struct.pack(">I", ABSURD)
    content = content.replace(struct.pack(">II", height, width), absurd * 2, 1)
    path.write_bytes(content.replace(struct.pack(">II", width, height), absurd * 2))


def circular(path: Path) -> None:
    """A TIFF whose third directory is followed by its first."""
    chain(path, 3, -3)


def entity_bomb(path: Path) -> None:
    """An OME-TIFF whose XML would unfold to 10**11 words."""
    text = f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY l0 "ha">{LAUGHS}]>' + ome_text("&l11;").partition("?>")[2]
    tifffile.imwrite(path, scene(*SHAPE), description=text.encode(), metadata=None)


def packed_zeros(size: int, wbits: int = 15) -> bytes:
    """A stream of zlib, or with ``wbits`` 31 of gzip, that unfolds to so many zeros: one packed MiB, again and again."""
    packer = zlib.compressobj(9, wbits=wbits)
    start = packer.compress(b"") + packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + again * ((size >> 20) - 1) + packer.flush()


def png_bomb(path: Path) -> None:
    """A PNG of 2.5 GB of zeros in 2.5 MB."""
    side = 50_000
    path.write_bytes(png(side, packed_zeros(side * (side + 1))))


def tile_bomb(path: Path) -> None:
    """A TIFF whose tile of 64 x 64 pixels unfolds to 2 GB."""
    tile = packed_zeros(1 << 31)
    tifffile.imwrite(path, iter([tile]), shape=(64, 64), dtype="u1", tile=(64, 64), compression=8, photometric="minisblack", metadata=None)


def chunk_bomb(zarr_format: int, codec: str, **options):
    """A Zarr array whose chunk of 64 x 64 pixels unfolds to 2 GB."""

    def write(path: Path) -> None:
        arguments = {"compressors": getattr(zarr.codecs, codec)()} if zarr_format == 3 else {"compressors": {"id": "gzip", "level": 1}}
        named = {"dimension_names": ["y", "x"]} if zarr_format == 3 else {}
        array = zarr.create_array(
            str(path), shape=(64, 64), chunks=(64, 64), dtype="u1", zarr_format=zarr_format, **arguments, **named, **options
        )
        array[...] = 1
        (path / ("c/0/0" if zarr_format == 3 else "0.0")).write_bytes(packed_zeros(1 << 31, 31))

    return write


def no_metadata(path: Path) -> None:
    """A Zarr image whose metadata is no JSON."""
    ome_zarr(3)(path, scene(*SHAPE))
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text[: len(text) // 2])


def deep_json(path: Path) -> None:
    """A Zarr array whose metadata is nested 10**5 deep."""
    absurd_chunk(path)
    content = json.loads((path / ".zarray").read_text())
    content["filters"] = "X"
    (path / ".zarray").write_text(json.dumps(content).replace('"X"', "[" * 100_000 + "]" * 100_000))


UNOPENABLE = {
    "zero.tif": lambda path: path.write_bytes(b""),
    "zero.png": lambda path: path.write_bytes(b""),
    "zero.czi": lambda path: path.write_bytes(b""),
    "text.png": lambda path: path.write_text("no picture\n" * 99),
    "png.tif": png_as_tiff,
    "cut.tif": cut("ome-tiff", 0.002),
    "cut.jp2": cut("jpeg2000", 0.004),
    "cut.czi": cut("czi", 0.5),
    "cut.dcm": cut("dicom", 0.01),
    "cut.lif": cut("lif", 0.01),
    "cut.nd2": cut("nd2", 0.5),
    "cut.ndpi": cut("ndpi", 0.5),
    "encrypted.ozx": encrypted,
    "metadata.ome.zarr": no_metadata,
    "deep.zarr": deep_json,
    "absurd.tif": absurd_tiff,
    "absurd.png": absurd_png,
    "absurd.zarr": absurd_zarr,
    "chunk.zarr": absurd_chunk,
    "absurd.jp2": absurd_jp2,
    "circle.tif": circular,
    "bomb.png": png_bomb,
    "entities.ome.tif": entity_bomb,
}
"""What its header alone condemns."""

FAILING = {
    "pixels.svs": cut("svs", 0.4),
    "pixels.jpg": cut("jpeg", 0.5),
    "pixels.dcm": cut("dicom", 0.3),
    "tile.tif": tile_bomb,
    "gzip2.zarr": chunk_bomb(2, ""),
    "gzip3.zarr": chunk_bomb(3, "GzipCodec"),
}
"""What opens and cannot be decoded."""


def write_all(folder: Path, kinds) -> None:
    """Write files of these kinds into a folder, and nothing else."""
    for name, write in kinds.items():
        write(folder / name)
