"""JPEG XR of a CZI tile, checked before decoding: the decoder trusts the headers, and false ones crash the process.

The container around the codestream is written anew. The fields of the codestream's header (ITU-T T.832, 8.3 and 8.4) that set
buffer sizes must fit the tile.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_jpegxr"]

FORMATS = {  # type and samples of a tile -> last bytes of its allowed pixel formats, and the byte of format and bit depth
    ("uint8", 1): (b"\x08", 0x01),
    ("uint16", 1): (b"\x0b", 0x02),
    ("float32", 1): (b"\x11", 0x07),
    ("uint8", 3): (b"\x0c\x0d", 0x71),  # blue, green, red; and red, green, blue
    ("uint16", 3): (b"\x15", 0x72),
}
PIXEL_FORMAT = bytes.fromhex("24c3dd6f034efe4bb1853d77768dc9")  # all but the last byte
SIGNATURE = b"WMPHOTO\0"
GREY, COLORS = (0,), (1, 2, 3)  # internal colour formats: luminance alone; 4:2:0, 4:2:2 and 4:4:4
FULL_COLOR = 3
BITS_16, FLOAT = 2, 7  # bit depths
ISOLATED_BANDS = 4  # band codes from here on are refused: no image writer omits such frequency bands
TAG_FORMAT, TAG_WIDTH, TAG_HEIGHT, TAG_OFFSET, TAG_COUNT = 0xBC01, 0xBC80, 0xBC81, 0xBCC0, 0xBCC1


def decode_jpegxr(data: bytes, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Decode pixels (Y, X, S), colours as red, green, blue.

    Raises:
        ValueError: the codestream has another shape or type, or damaged headers.
        RuntimeError: the codestream is damaged.
    """
    import imagecodecs

    height, width, samples = shape
    formats, depth = FORMATS.get((dtype.name, samples), (b"", 0))
    tags = _tags(data)
    pixel_format, start = tags.get(TAG_FORMAT, 0), tags.get(TAG_OFFSET, 0)
    last = data[pixel_format + 15 : pixel_format + 16]
    code = data[start : start + tags.get(TAG_COUNT, 0)] if tags.get(TAG_COUNT) else data[start:]
    is_known = data[pixel_format : pixel_format + 15] == PIXEL_FORMAT and last and last in formats
    if not is_known or _described(code) != (width, height, depth) or _inner_format(code) not in (COLORS if samples == 3 else GREY):
        raise ValueError(f"JPEG XR that is not {height} x {width} pixels of {samples} x {dtype.name}, as its tile is, or is damaged")
    entries = {TAG_FORMAT: (1, 16, 8), TAG_WIDTH: (4, 1, width), TAG_HEIGHT: (4, 1, height)}
    head = 24 + 2 + 12 * (len(entries) + 2) + 4
    entries |= {TAG_OFFSET: (4, 1, head), TAG_COUNT: (4, 1, len(code))}
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in entries.items()) + bytes(4)
    container = b"II\xbc\x01" + struct.pack("<I", 24) + PIXEL_FORMAT + last + directory + code
    return np.asarray(imagecodecs.jpegxr_decode(container, out=np.empty(shape if samples > 1 else shape[:2], dtype))).reshape(shape)


def _tags(data: bytes) -> dict[int, int]:
    """Return the values of the container's first directory by tag; tags of more than four bytes have their offset."""
    if data[:3] != b"II\xbc":
        return {}
    at = int.from_bytes(data[4:8], "little")
    count = min(int.from_bytes(data[at : at + 2], "little"), (len(data) - at - 2) // 12)
    entries = (struct.unpack_from("<HHII", data, at + 2 + 12 * index) for index in range(count))
    return {tag: value for tag, _, _, value in entries}


def _described(code: bytes) -> tuple[int, int, int] | None:
    """Return width, height, and the byte of format and bit depth; None if the header is invalid, turned or has opacity."""
    if not code.startswith(SIGNATURE) or len(code) < 32 or code[8] & 0xF7 != 0x11 or code[9] & 0x38 or code[10] & 0x0B:
        return None
    width, height = struct.unpack_from(">HH" if code[10] & 0x80 else ">II", code, 12)
    return width + 1, height + 1, code[11]


def _inner_format(code: bytes) -> int:
    """Return the internal colour format from the plane header, which follows the tile sizes; -1: damaged."""
    is_short, is_windowed, is_tiled = code[10] & 0x80, code[10] & 0x20, code[9] & 0x80
    at = 16 if is_short else 20
    if is_tiled:
        bits = int.from_bytes(code[at : at + 3], "big")
        at += 3 + ((bits >> 12) + (bits & 0xFFF)) * (1 if is_short else 2)
    at += 3 if is_windowed else 0
    plane = code[at : at + 3]
    if len(plane) < 3 or plane[0] & 0xF >= ISOLATED_BANDS:
        return -1
    inner = plane[0] >> 5
    is_reserved = inner == FULL_COLOR and plane[1]
    shift = plane[2] if inner in COLORS else plane[1]  # for 16 bits; for floats, the mantissa bits
    is_too_far = code[11] & 0xF in (BITS_16, FLOAT) and shift > (15 if code[11] & 0xF == BITS_16 else 23)
    return -1 if is_reserved or is_too_far else inner
