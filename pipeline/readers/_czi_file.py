"""The parts of a CZI file: directory of sub-blocks, pixels, metadata.

Follows "ZISRAW (CZI) File Format", DS_ZISRAW-FileFormat, Carl Zeiss Microscopy 2023; chapters are named in brackets.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.readers._file_bytes import DecodedParts, open_bytes
from pipeline.readers._jpegxr import decode_jpegxr

__all__ = ["PIXELS", "CziFile", "SubBlocks"]

HEADER_BYTES = 32  # of every segment [4.1]
PIXELS = {  # by pixel type: name, type and number of samples [5.1]; colours are stored as blue, green, red
    0: ("Gray8", "<u1", 1),
    1: ("Gray16", "<u2", 1),
    2: ("Gray32Float", "<f4", 1),
    3: ("Bgr24", "<u1", 3),
    4: ("Bgr48", "<u2", 3),
    8: ("Bgr96Float", "<f4", 3),
    9: ("Bgra32", "<u1", 4),
    12: ("Gray32", "<u4", 1),
    13: ("Gray64", "<f8", 1),
}
RAW, JPEG, LZW, JPEG_XR, ZSTD, ZSTD_WITH_HEADER = 0, 1, 2, 4, 5, 6  # [5.3]
COMPRESSIONS = (RAW, JPEG, LZW, JPEG_XR, ZSTD, ZSTD_WITH_HEADER)
LOSSY = (JPEG, JPEG_XR)
VALID_PIXELS = uuid.UUID("CBE3EA67-5BFC-492B-A16A-ECE378031448").bytes_le  # a chunk that holds a mask [4.5.4, 4.5.5]
MASK_BYTES = 36  # before its bits: the chunk's name and size, width, height, kind and bytes of a row
ENTRY_BYTES, DIMENSION_BYTES = 32, 20  # of a directory entry, and of each dimension in it [4.4.6]
MANY_DIMENSIONS = 40


@dataclass(frozen=True)
class SubBlocks:
    """The directory: arrays with one number for each sub-block. A dimension that a sub-block lacks has start 0 and size 1."""

    position: NDArray[np.int64]  # of the segment in the file
    pixel_type: NDArray[np.int64]
    compression: NDArray[np.int64]
    is_pyramid: NDArray[np.bool_]
    start: Mapping[str, NDArray[np.int64]]
    size: Mapping[str, NDArray[np.int64]]
    stored: Mapping[str, NDArray[np.int64]]  # size as stored, which differs from `size` in a pyramid

    def __getitem__(self, chosen: Any) -> SubBlocks:
        """Keep some of them."""
        kept = (self.position[chosen], self.pixel_type[chosen], self.compression[chosen], self.is_pyramid[chosen])
        by_letter = ({letter: array[chosen] for letter, array in arrays.items()} for arrays in (self.start, self.size, self.stored))
        return SubBlocks(*kept, *by_letter)

    def __len__(self) -> int:
        """Number of sub-blocks."""
        return len(self.position)


class CziFile:
    """An open CZI file; opening reads its directory alone.

    Raises:
        InputError: it is no CZI file, or has no directory.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.bytes = open_bytes(path)
        try:
            self._header = self._segment(0, b"ZISRAWFILE")[:80]
            self.sub_blocks = self._directory()
        except BaseException:
            self.bytes.close()
            raise

    def close(self) -> None:
        """Free the handle."""
        self.bytes.close()

    @cached_property
    def metadata(self) -> ET.Element:
        """Root of the XML; an empty element if there is none [4.3].

        Raises:
            InputError: the XML declares entities, which may expand without end; no microscope writes them.
        """
        position = int.from_bytes(self._header[60:68], "little")
        if not position:
            return ET.Element("ImageDocument")
        content = self._segment(position, b"ZISRAWMETADATA")
        xml = content[256 : 256 + int.from_bytes(content[:4], "little")].rstrip(b"\0")
        if b"<!DOCTYPE" in xml or b"<!ENTITY" in xml:
            raise InputError(Problem(self._path, "metadata that declares XML entities", "plain XML"))
        return ET.fromstring(xml) if xml else ET.Element("ImageDocument")  # noqa: S314 - entities are refused above

    def timestamps(self) -> NDArray[np.float64]:
        """Seconds of each time point since the program started; empty if the file does not say [4.7.6]."""
        position = int.from_bytes(self._header[72:80], "little")
        if not position:
            return np.empty(0)
        directory = self._segment(position, b"ZISRAWATTDIR")
        for at in range(256, 256 + 128 * int.from_bytes(directory[:4], "little"), 128):
            entry = directory[at : at + 128]
            if entry[48:].startswith(b"TimeStamps\0"):
                content = self._segment(int.from_bytes(entry[12:20], "little"), b"ZISRAWATTACH")[256:]
                return np.frombuffer(content, "<f8", min(int.from_bytes(content[4:8], "little"), len(content) // 8 - 1), 8)
        return np.empty(0)

    def has_mask(self, sub_blocks: SubBlocks, number: int) -> bool:
        """Whether a sub-block says which of its pixels are valid."""
        _, end, attachment_bytes = self._places(sub_blocks, number)
        return attachment_bytes >= MASK_BYTES and self.bytes.read(end, 16) == VALID_PIXELS

    def mask(self, sub_blocks: SubBlocks, number: int, box: Box) -> NDArray[np.bool_] | None:
        """Return the valid pixels (Y, X) of a box of a sub-block; None if its attachments hold no mask."""
        if not self.has_mask(sub_blocks, number):
            return None
        start, shape = self._places(sub_blocks, number)[1], _stored_shape(sub_blocks, number)
        width, height, kind, stride = struct.unpack("<4i", self.bytes.read(start + 20, 16))
        if (height, width) != shape or kind or stride * 8 < width:
            raise ValueError(f"a mask of {height} x {width} pixels for a sub-block of {shape[0]} x {shape[1]}")
        bits = np.frombuffer(self.bytes.read(start + MASK_BYTES, stride * height), np.uint8).reshape(height, stride)
        return np.unpackbits(bits, axis=1, count=width).astype(bool)[box.slices]

    def read(self, sub_blocks: SubBlocks, number: int, box: Box, decoded: DecodedParts) -> NDArray[Any]:
        """Return the pixels (S, Y, X) of a box of a sub-block, with colours as red, green, blue.

        Raises:
            ValueError, EOFError: the sub-block is damaged, truncated or contradicts the directory.
        """
        start, end, _ = self._places(sub_blocks, number)
        _, dtype, samples = PIXELS[int(sub_blocks.pixel_type[number])]
        shape = _stored_shape(sub_blocks, number)
        compression = int(sub_blocks.compression[number])
        if compression == RAW:
            pixel_bytes = np.dtype(dtype).itemsize * samples
            if shape[0] * shape[1] * pixel_bytes > end - start:
                raise ValueError(f"a sub-block of {shape[0]} x {shape[1]} pixels in {end - start} bytes, too few")
            pixels_YXS = self.bytes.pixels(start, (shape[1] * pixel_bytes, pixel_bytes), box, np.dtype(dtype), samples)
        else:
            decode = lambda: _decoded(self.bytes.read(start, end - start), compression, np.dtype(dtype), (*shape, samples))
            pixels_YXS = _joined(decoded.get(int(sub_blocks.position[number]), decode), box)
        if samples == 3 and compression not in LOSSY:
            pixels_YXS = pixels_YXS[..., ::-1]
        elif samples == 4 and compression not in LOSSY:
            pixels_YXS = pixels_YXS[..., [2, 1, 0, 3]]
        return np.moveaxis(pixels_YXS, -1, 0)

    def _segment(self, position: int, name: bytes) -> bytes:
        """Return the content of a segment."""
        found, allocated, used = struct.unpack("<16sqq", self.bytes.read(position, HEADER_BYTES))
        if found.rstrip(b"\0") != name:
            raise InputError(Problem(self._path, f"{found!r} at byte {position}", f"{name.decode()}, as in a CZI file"))
        return self.bytes.read(position + HEADER_BYTES, used or allocated)

    def _directory(self) -> SubBlocks:
        """Read the directory of sub-blocks [4.6]; entries of equal length are parsed together, as there may be 100 000."""
        position = int.from_bytes(self._header[52:60], "little")
        if not position:
            raise InputError(Problem(self._path, "a CZI file without a directory", "", "It was not closed properly: save it again in ZEN."))
        content = self._segment(position, b"ZISRAWDIRECTORY")
        count, at = int.from_bytes(content[:4], "little"), 128
        starts, lengths = [], []
        for _ in range(count):
            dimensions = int.from_bytes(content[at + 28 : at + 32], "little")
            if content[at : at + 2] != b"DV" or dimensions > MANY_DIMENSIONS:
                raise InputError(Problem(self._path, f"a damaged directory entry at byte {position + HEADER_BYTES + at}"))
            starts.append(at)
            lengths.append(dimensions)
            at += ENTRY_BYTES + DIMENSION_BYTES * dimensions
        return _sub_blocks(np.frombuffer(content, np.uint8), np.array(starts, int), np.array(lengths, int))

    def _places(self, sub_blocks: SubBlocks, number: int) -> tuple[int, int, int]:
        """Return the first byte of a sub-block's pixels, the end of them, and the size of the attachments after them [4.4]."""
        position = int(sub_blocks.position[number])
        head = self.bytes.read(position, HEADER_BYTES + 16 + ENTRY_BYTES)
        name, metadata_bytes, attachment_bytes, data_bytes = struct.unpack_from("<16s16xiiq", head)
        kind, pixel_type, compression, dimensions = struct.unpack_from("<2si12xi6xi", head, HEADER_BYTES + 16)
        said = (int(sub_blocks.pixel_type[number]), int(sub_blocks.compression[number]))
        is_sound = min(metadata_bytes, attachment_bytes, data_bytes) >= 0 and 0 < dimensions <= MANY_DIMENSIONS
        if name.rstrip(b"\0") != b"ZISRAWSUBBLOCK" or kind != b"DV" or not is_sound or (pixel_type, compression) != said:
            raise ValueError(f"the sub-block at byte {position} is damaged, or is not as the directory says")
        fixed = max(256, 16 + ENTRY_BYTES + DIMENSION_BYTES * dimensions)
        start = position + HEADER_BYTES + fixed + metadata_bytes
        return start, start + data_bytes, attachment_bytes


def _stored_shape(sub_blocks: SubBlocks, number: int) -> tuple[int, int]:
    """Return height and width of a sub-block as stored."""
    return int(sub_blocks.stored["Y"][number]), int(sub_blocks.stored["X"][number])


def _sub_blocks(content: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> SubBlocks:
    """Parse directory entries that begin at ``starts`` in the content and have ``lengths`` dimensions each."""
    letters = "XYCZTSMRIHVB"
    numbers = np.zeros((3, len(starts)), np.int64)
    is_pyramid = np.zeros(len(starts), bool)
    start, size, stored = ({letter: np.full(len(starts), default) for letter in letters} for default in (0, 1, 1))
    dimension = np.dtype([("letter", "S4"), ("start", "<i4"), ("size", "<i4"), ("coordinate", "<f4"), ("stored", "<i4")])
    for length in np.unique(lengths):
        head = [("kind", "S2"), ("pixel_type", "<i4"), ("position", "<i8"), ("part", "<i4"), ("compression", "<i4")]
        tail = [("pyramid", "u1"), ("spare", "V5"), ("count", "<i4"), ("dimensions", dimension, (int(length),))]
        entry = np.dtype([*head, *tail])
        rows = np.flatnonzero(lengths == length)
        entries = content[starts[rows][:, None] + np.arange(entry.itemsize)].view(entry)[:, 0]
        numbers[:, rows] = entries["position"], entries["pixel_type"], entries["compression"]
        is_pyramid[rows] = entries["pyramid"] > 0
        for column in range(int(length)):
            found = entries["dimensions"][:, column]
            for letter in letters:
                here = found["letter"] == letter.encode()
                start[letter][rows[here]], size[letter][rows[here]] = found["start"][here], found["size"][here]
                stored[letter][rows[here]] = np.where(found["stored"] > 0, found["stored"], found["size"])[here]
    return SubBlocks(numbers[0], numbers[1], numbers[2], is_pyramid, start, size, stored)


def _decoded(data: bytes, compression: int, dtype: np.dtype[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Decode the pixels of a sub-block (Y, X, S), or their separate low and high bytes (2, Y, X, S).

    ``shape`` limits how far a stream may expand.
    """
    import imagecodecs

    num_bytes = shape[0] * shape[1] * shape[2] * dtype.itemsize
    if compression == JPEG_XR:
        return decode_jpegxr(data, shape, dtype)
    if compression == JPEG:
        return np.asarray(imagecodecs.jpeg8_decode(data, out=np.empty(shape if shape[2] > 1 else shape[:2], dtype))).reshape(shape)
    is_split = False
    if compression == ZSTD_WITH_HEADER:  # [5.3.2]
        header_bytes = data[0]
        if header_bytes not in (1, 3) or (header_bytes == 3 and data[1] != 1):
            raise ValueError(f"an unknown Zstd header {data[:4]!r}")
        is_split = header_bytes == 3 and bool(data[2] & 1)
        data = data[header_bytes:]
    raw = imagecodecs.lzw_decode(data, out=num_bytes) if compression == LZW else imagecodecs.zstd_decode(data, out=num_bytes)
    if len(raw) != num_bytes:
        raise ValueError(f"{len(raw)} bytes of pixels where {num_bytes} are expected")
    return np.frombuffer(raw, np.uint8).reshape(2, *shape) if is_split else np.frombuffer(raw, dtype).reshape(shape)


def _joined(decoded: NDArray[Any], box: Box) -> NDArray[Any]:
    """Return the pixels (Y, X, S) of a box; low and high bytes are joined first."""
    if decoded.ndim == 3:
        return decoded[box.slices]
    low, high = decoded[:, *box.slices]
    pixels_YXS: NDArray[Any] = np.left_shift(high, 8, dtype=np.uint16)
    pixels_YXS |= low
    return pixels_YXS
