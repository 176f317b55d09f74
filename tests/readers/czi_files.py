"""Writes CZI files as chapter 4 of the ZISRAW specification says, also what pylibCZIrw cannot write: pyramids, masks, JPEG XR."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np

PIXEL_TYPES = {("uint8", 1): 0, ("uint16", 1): 1, ("float32", 1): 2, ("uint8", 3): 3, ("uint16", 3): 4, ("uint8", 4): 9, ("uint32", 1): 12}
COMPRESSIONS = {"raw": 0, "jpeg": 1, "lzw": 2, "jpegxr": 4, "zstd0": 5, "zstd1": 6, "zstd1-split": 6}
MASK = uuid.UUID("CBE3EA67-5BFC-492B-A16A-ECE378031448").bytes_le


@dataclass
class Tile:
    """One sub-block: pixels (Y, X) or (Y, X, S), colours as red, green, blue."""

    pixels: np.ndarray
    y: int = 0
    x: int = 0
    dims: Mapping[str, int] = field(default_factory=dict)  # start on each other axis, such as {"C": 1, "M": 3}
    size: tuple[int, int] | None = None  # pixels of the plane that it covers; None: as many as it stores
    compression: str = "raw"
    pyramid: int = 0
    mask: np.ndarray | None = None


def encoded(tile):
    """The pixels of a tile as they are stored."""
    pixels = tile.pixels
    if tile.compression == "jpegxr":
        return imagecodecs.jpegxr_encode(pixels, level=1.0)
    if tile.compression == "jpeg":
        return imagecodecs.jpeg8_encode(pixels, level=95)
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    raw = np.ascontiguousarray(pixels).tobytes()
    if tile.compression == "zstd1-split":
        split = np.frombuffer(raw, np.uint8).reshape(-1, 2).T.tobytes()
        return b"\x03\x01\x01" + imagecodecs.zstd_encode(split)
    packed = {"raw": bytes, "lzw": imagecodecs.lzw_encode, "zstd0": imagecodecs.zstd_encode, "zstd1": imagecodecs.zstd_encode}
    return (b"\x01" if tile.compression == "zstd1" else b"") + packed[tile.compression](raw)


def mask_chunk(mask):
    """A chunk that says which pixels of a tile are valid."""
    bits = np.packbits(mask, axis=1)
    content = struct.pack("<4i", mask.shape[1], mask.shape[0], 0, bits.shape[1]) + bits.tobytes()
    return MASK + struct.pack("<i", len(content)) + content


def directory_entry(tile, position):
    """Where a tile is and what it covers."""
    (height, width), samples = tile.pixels.shape[:2], tile.pixels.shape[2] if tile.pixels.ndim == 3 else 1
    rows, columns = tile.size or (height, width)
    dimensions = [
        ("X", tile.x, columns, width),
        ("Y", tile.y, rows, height),
        *((letter, start, 1, 0) for letter, start in tile.dims.items()),
    ]
    kinds = PIXEL_TYPES[tile.pixels.dtype.name, samples], position, 0, COMPRESSIONS[tile.compression], tile.pyramid
    head = struct.pack("<2siqiiB5xi", b"DV", *kinds, len(dimensions))
    return head + b"".join(struct.pack("<4siifi", letter.encode(), start, size, 0.0, stored) for letter, start, size, stored in dimensions)


def write_czi(path, tiles: Sequence[Tile], xml: str = "", times: Sequence[float] = ()):
    """Write tiles, metadata and the time stamps of the time points."""
    with Path(path).open("wb") as file:

        def segment(name, content):
            file.seek(-(-file.tell() // 32) * 32)
            position, room = file.tell(), -(-len(content) // 32) * 32
            file.write(struct.pack("<16sqq", name, room, len(content)) + content.ljust(room, b"\0"))
            return position

        segment(b"ZISRAWFILE", bytes(512))
        entries = []
        for tile in tiles:
            file.seek(-(-file.tell() // 32) * 32)
            entry, data = directory_entry(tile, file.tell()), encoded(tile)
            about = b"<METADATA><AttachmentSchema><DataFormat>CHUNKCONTAINER</DataFormat></AttachmentSchema></METADATA>"
            extra = b"" if tile.mask is None else mask_chunk(tile.mask)
            head = struct.pack("<iiq", len(about), len(extra), len(data)) + entry
            segment(b"ZISRAWSUBBLOCK", head.ljust(256, b"\0") + about + data + extra)
            entries.append(entry)
        directory = segment(b"ZISRAWDIRECTORY", struct.pack("<i", len(entries)).ljust(128, b"\0") + b"".join(entries))
        text = xml.encode()
        metadata = segment(b"ZISRAWMETADATA", struct.pack("<ii", len(text), 0).ljust(256, b"\0") + text)
        attachments = 0
        if times:
            stamps = struct.pack(f"<ii{len(times)}d", 8 + 8 * len(times), len(times), *times)
            held = segment(b"ZISRAWATTACH", struct.pack("<i", len(stamps)).ljust(256, b"\0") + stamps)
            entry = struct.pack("<2s10xqi16s8s80s", b"A1", held, 0, bytes(16), b"CZTIMS", b"TimeStamps")
            attachments = segment(b"ZISRAWATTDIR", struct.pack("<i", 1).ljust(256, b"\0") + entry)
        file.seek(0)
        ids = uuid.UUID(int=7).bytes_le * 2
        header = struct.pack("<iiii32siqqiq", 1, 0, 0, 0, ids, 0, directory, metadata, 0, attachments)
        file.write(struct.pack("<16sqq", b"ZISRAWFILE", 512, 512) + header)
