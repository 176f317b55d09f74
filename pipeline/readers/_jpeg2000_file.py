"""Headers of a JPEG 2000 file: sizes and coding from the codestream, colours from the boxes around it."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem

__all__ = ["Codestream", "Colors", "Jpeg2000File", "ManyBits", "read_file"]

CODESTREAM_START, BOXES_START = b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "
GEOTIFF = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03")  # the UUID of a box that holds a GeoTIFF of one pixel
MOST_BOXES, MOST_SEGMENTS, MOST_TILE_PARTS, MOST_BOX_BYTES = 1000, 10_000, 100_000, 1 << 24
PIXELS_OF_A_BYTE = 1 << 30  # an empty packet of the largest precinct
LEAST_BLOCKS = 1 << 17  # code blocks that any file may have; a file of more bits may have one a bit
CMYK, GREY, SYCC = 12, 17, 18
REFUSED_SPACES = {1: "YCbCr(1)", 3: "YCbCr(2)", 4: "YCbCr(3)", 13: "YCCK", 14: "CIELAB", 19: "CIEJab", 23: "YPbPr", 24: "e-sYCC"}
PROFILES = {b"GRAY": GREY, b"CMYK": CMYK, b"Lab ": 14, b"YCbr": 1}


class ManyBits(InputError):
    """The components have more than 16 bits, which GDAL reads."""


@dataclass(frozen=True)
class Codestream:
    """The coded image. Positions are on the reference grid; a component stores every ``steps``-th (y, x) point of it."""

    start: tuple[int, int]  # (y, x) of the image
    stop: tuple[int, int]
    steps: tuple[tuple[int, int], ...]  # of each component
    bits: tuple[int, ...]  # of each component
    is_signed: bool
    reductions: int  # times that the resolution can be halved
    is_lossy: bool  # coded by the irreversible wavelet
    mixes_colors: bool  # coded as differences of the first three components, which are then red, green and blue
    tile_pixels: int  # of the largest tile
    tile_bytes: int  # compressed bytes of the largest tile
    tile_blocks: int  # code blocks of the largest tile

    def first(self, reduction: int = 0) -> tuple[int, int]:
        """Position (y, x) of the first pixel after halving the resolution."""
        return -(-self.start[0] >> reduction), -(-self.start[1] >> reduction)

    def shape(self, reduction: int = 0) -> tuple[int, int]:
        """Height and width after halving the resolution."""
        y, x = self.first(reduction)
        return -(-self.stop[0] >> reduction) - y, -(-self.stop[1] >> reduction) - x


@dataclass(frozen=True)
class Colors:
    """How components become channels: through the palette, then in the order of the channel definition."""

    space: int = 0  # enumerated colour space; 0: unknown
    palette_NC: NDArray[np.unsignedinteger] | None = None
    mapping: tuple[tuple[int, int | None], ...] = ()  # component of each channel, and its column of the palette; None: as it is
    order: tuple[int, ...] = ()  # channels: colours first, opacity last; empty: as stored
    has_alpha: bool = False  # whether the last channel is opacity
    is_premultiplied: bool = False


@dataclass(frozen=True)
class Jpeg2000File:
    """A file whose headers were read."""

    codestream: Codestream
    start: int  # byte at which the codestream begins
    is_boxed: bool
    colors: Colors = field(default_factory=Colors)
    geotiff: bytes = b""  # the content of a GeoJP2 box
    has_gml: bool = False  # whether a GMLJP2 box places the image


def read_file(stream: BinaryIO, size: int, path: str) -> Jpeg2000File:
    """Read the headers of a file of ``size`` bytes.

    Raises:
        InputError: it is no JPEG 2000, or its image cannot fit into so few bytes.
    """
    head = stream.read(1 << 20)
    is_boxed = head.startswith(BOXES_START)
    start = 0 if head.startswith(CODESTREAM_START) else -1
    colors, geotiff, has_gml = Colors(), b"", False
    if is_boxed:
        for kind, at, length in _boxes(stream, 0, size):
            content = b"" if kind == b"jp2c" else _content(stream, at, min(length, MOST_BOX_BYTES))
            if kind == b"jp2c" and start < 0:
                start = at
            elif kind == b"jp2h":
                colors = _read_colors(content, path)
            elif kind == b"uuid" and content.startswith(GEOTIFF):
                geotiff = content[16:]
            elif kind == b"asoc":
                has_gml = has_gml or b"RectifiedGrid" in content
        start = head.find(CODESTREAM_START) if start < 0 else start  # an earlier box has a wrong length
    if start < 0:
        raise InputError(Problem(path, "no JPEG 2000 codestream in the file"))
    codestream = _read_codestream(stream, start, size, path)
    _check_size(codestream, size, path)
    return Jpeg2000File(codestream, start, is_boxed, colors, geotiff, has_gml)


def _content(stream: BinaryIO, at: int, length: int) -> bytes:
    stream.seek(at)
    return stream.read(length)


def _boxes(stream: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, position and length of each box's content, up to the first invalid box."""
    for _ in range(MOST_BOXES):
        head = _content(stream, at, 16)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head[:8])
        skip = 8
        if length == 1 and len(head) == 16:
            length, skip = struct.unpack(">Q", head[8:])[0], 16
        length = length or end - at
        if length < skip:
            return
        yield kind, at + skip, length - skip
        at += length


def _inner_boxes(content: bytes) -> dict[bytes, bytes]:
    """Return the boxes inside a box by kind; the first of each kind."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        length = length or len(content) - at
        if length < 8:
            break
        found.setdefault(kind, content[at + 8 : at + length])
        at += length
    return found


def _read_colors(content: bytes, path: str) -> Colors:
    """Read colour space, palette and channel definition from a header box."""
    boxes = _inner_boxes(content)
    try:
        space = _color_space(boxes.get(b"colr", b""))
        palette = _palette(boxes[b"pclr"]) if b"pclr" in boxes else None
        mapping = [struct.unpack_from(">HBB", boxes[b"cmap"], at) for at in range(0, len(boxes[b"cmap"]), 4)] if b"cmap" in boxes else []
        definition = boxes.get(b"cdef", b"\0\0")
        entries = struct.iter_unpack(">3H", definition[2 : 2 + 6 * struct.unpack(">H", definition[:2])[0]])
        kinds = {channel: (kind, place) for channel, kind, place in entries}
    except struct.error as error:
        raise InputError(Problem(path, f"a damaged JPEG 2000 header ({error})")) from error
    if space in REFUSED_SPACES:
        raise InputError(Problem(path, f"{REFUSED_SPACES[space]} colours", "grey, sRGB, sYCC or CMYK", "Convert the file first."))
    columns = tuple((component, column if kind == 1 else None) for component, kind, column in mapping)
    if palette is not None and any(column is not None and column >= palette.shape[1] for _, column in columns):
        raise InputError(Problem(path, "channels of a palette column that does not exist"))
    color = sorted((channel for channel, (kind, _) in kinds.items() if kind == 0), key=lambda channel: kinds[channel][1])
    alpha = [channel for channel, (kind, _) in kinds.items() if kind in (1, 2)]
    other = [channel for channel in kinds if channel not in color + alpha]
    has_alpha = len(alpha) == 1
    return Colors(
        space=space,
        palette_NC=palette if columns else None,
        mapping=columns if palette is not None else (),
        order=(*color, *other, *alpha),
        has_alpha=has_alpha,
        is_premultiplied=has_alpha and kinds[alpha[0]][0] == 2,
    )


def _color_space(content: bytes) -> int:
    """Return the enumerated colour space of a box, stated or implied by its profile; 0 if unknown."""
    if content[:1] == b"\x01":
        return int(struct.unpack_from(">I", content, 3)[0])
    return PROFILES.get(content[19:23], 0) if content[:1] in (b"\x02", b"\x03") else 0


def _palette(content: bytes) -> NDArray[np.unsignedinteger]:
    """Return the entries (N, C) of a palette."""
    count, columns = struct.unpack_from(">HB", content)
    bits = [(depth & 0x7F) + 1 for depth in content[3 : 3 + columns]]
    record = np.dtype([(str(index), ">u1" if depth <= 8 else ">u2") for index, depth in enumerate(bits)])
    if not columns or max(bits) > 16 or len(content) < 3 + columns + count * record.itemsize:
        raise struct.error("palette")
    entries = np.frombuffer(content, record, count, 3 + columns)
    dtype = np.uint8 if max(bits) <= 8 else np.uint16
    return np.stack([entries[str(index)].astype(dtype) for index in range(columns)], axis=-1)


def _read_codestream(stream: BinaryIO, start: int, size: int, path: str) -> Codestream:
    """Read the main header of a codestream, and the sizes of its tiles."""
    segments: dict[int, list[bytes]] = {}
    at = start + 2
    for _ in range(MOST_SEGMENTS):
        head = _content(stream, at, 4)
        marker, length = struct.unpack(">HH", head) if len(head) == 4 else (0, 0)
        if marker < 0xFF00 or marker == 0xFF90:  # a tile begins
            break
        if marker in (0xFF51, 0xFF52, 0xFF53):  # SIZ, COD, COC
            segments.setdefault(marker, []).append(_content(stream, at + 4, length - 2))
        at += 2 + length
    try:
        return _codestream(segments[0xFF51][0], segments[0xFF52][0], segments.get(0xFF53, []), _tile_bytes(stream, at, size), path)
    except (struct.error, KeyError, IndexError, ZeroDivisionError) as error:
        raise InputError(Problem(path, "a damaged JPEG 2000 codestream header")) from error


def _codestream(siz: bytes, cod: bytes, cocs: list[bytes], tile_bytes: Mapping[int, int], path: str) -> Codestream:
    x1, y1, x0, y0, tile_x, tile_y = struct.unpack_from(">6I", siz, 2)
    count = struct.unpack_from(">H", siz, 34)[0]
    components = [struct.unpack_from("3B", siz, 36 + 3 * index) for index in range(count)]
    bits = tuple((depth & 0x7F) + 1 for depth, _, _ in components)
    signs = {depth >> 7 for depth, _, _ in components}
    if len(signs) != 1 or max(bits) > 16:
        kind, fix = (ManyBits, 'GDAL reads files of a disk: pip install "gigaseg[geo]"') if len(signs) == 1 else (InputError, "")
        raise kind(
            Problem(path, f"JPEG 2000 components of {sorted(set(bits))} bits", "at most 16 bits, all with or all without a sign", fix)
        )
    if not (x0 < x1 < 2**31 and y0 < y1 < 2**31 and tile_x and tile_y and all(dx and dy for _, dx, dy in components)):
        raise InputError(Problem(path, f"an image of {x1 - x0} x {y1 - y0} pixels", "at least one pixel, and fewer than 2**31 a side"))
    short = 2 if count < 257 else 3
    codings = [cod[5:], *(coc[short:] for coc in cocs)]  # levels, sizes of code blocks, style, wavelet, sizes of precincts
    height, width = min(tile_y, y1 - y0), min(tile_x, x1 - x0)
    has_precincts = cod[0] & 1
    block = 2 ** sum(
        min(codings[0][1 + axis] + 2, *((codings[0][-1] >> 4 * axis & 15) - 1,) if has_precincts else (15,)) for axis in (0, 1)
    )
    return Codestream(
        start=(y0, x0),
        stop=(y1, x1),
        steps=tuple((dy, dx) for _, dx, dy in components),
        bits=bits,
        is_signed=bool(components[0][0] >> 7),
        reductions=min(coding[0] for coding in codings),
        is_lossy=any(coding[4] == 0 for coding in codings),
        mixes_colors=bool(cod[4]) and count >= 3,
        tile_pixels=height * width,
        tile_bytes=max(tile_bytes.values(), default=0),
        tile_blocks=math.ceil(height * width / max(block, 1) * 4 / 3) * count,
    )


def _tile_bytes(stream: BinaryIO, at: int, size: int) -> dict[int, int]:
    """Return the compressed bytes of each tile, summed over its parts."""
    found: dict[int, int] = {}
    for _ in range(MOST_TILE_PARTS):
        head = _content(stream, at, 10)
        if len(head) < 10 or head[:2] != b"\xff\x90":
            break
        index, length = struct.unpack(">HI", head[4:10])
        length = min(length or size, size - at)
        if length < 12:
            break
        found[index] = found.get(index, 0) + length
        at += length
    return found


def _check_size(codestream: Codestream, size: int, path: str) -> None:
    """Refuse an image too large for a file of ``size`` bytes: allocating its empty structures would exhaust memory."""
    height, width = codestream.shape()
    if height * width > size * PIXELS_OF_A_BYTE or codestream.tile_blocks > max(8 * size, LEAST_BLOCKS):
        raise InputError(Problem(path, f"a header of {height} x {width} pixels in a file of {size} bytes", "an image that fits its file"))
