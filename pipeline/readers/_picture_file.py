"""Headers of PNG, JPEG, WebP and BMP, read without decoding a pixel; and the decoding of a whole picture."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.readers._files import is_remote
from pipeline.readers._remote_file import RemoteFile, open_file

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PictureFile", "content_kind", "read_file"]

STARTS = {  # first bytes of a file -> its kind
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"GIF8": "GIF",
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP archive",
    b"\x1f\x8b": "gzip archive",
    b"\x89HDF": "HDF5",
    b"<": "markup text such as XML, SVG or HTML",
}
CMYK_NOTE = "cyan, magenta, yellow and black become red, green and blue without a colour profile"
EXIF, ORIENTATION = b"Exif\x00\x00", 0x0112
MOST_CHUNKS = 1_000_000
MOST_PER_BYTE = {"PNG": 1032, "JPEG": 512, "BMP": 1 << 14}  # bytes of samples that one byte of a file can decode to
ROWS = 256  # copied at once from Pillow's picture
PNG_END = 1 << 17  # bytes of a PNG in which metadata after its pixels are looked for
LIBPNG_SIDE = 1_000_000  # libpng's default limit, pixels


@dataclass(frozen=True)
class PictureFile:
    """A picture whose header was read."""

    kind: str  # `PNG`, `JPEG`, `WebP` or `BMP`
    shape: tuple[int, int, int]  # of the stored samples, before the picture is turned upright (Y, X, S)
    dtype: str
    bits: int = 0  # used bits of a sample; 0: all
    orientation: int = 1  # 1..8, as EXIF says
    has_alpha: bool = False  # whether the last sample, or the last column of the palette, is opacity
    palette_NC: NDArray[np.uint8] | None = None  # colour of each palette index; None: samples are no indices
    is_cmyk: bool = False  # four samples of ink, inverted as Adobe's programs write them
    is_lossy: bool = False
    step: int = 1  # divisor of decoded values: libpng stretches grey of 1, 2 and 4 bits to 0..255
    scan_at: int = 0  # byte of a JPEG at which the first scan begins
    by_pillow: bool = False  # whether Pillow decodes it, else imagecodecs
    whole_bytes: int = 0  # memory that decoding takes, with the result
    notes: tuple[str, ...] = ()

    def decode(self, file: str) -> NDArray[Any]:
        """Decode all samples (Y, X, S); decoders may raise anything on damaged ones."""
        if self.by_pillow:
            return _decode_by_pillow(file, self.shape, self.dtype)
        import imagecodecs

        with open_file(file) as stream:
            data = stream.read()
        if self.kind == "JPEG":
            # libjpeg fills a truncated picture with grey without an error. Coded pixels never contain the end marker.
            if data.find(b"\xff\xd9", self.scan_at) < 0:
                raise ValueError("the picture is truncated")
            pixels = imagecodecs.jpeg8_decode(data, outcolorspace="CMYK" if self.is_cmyk else None)
        elif self.kind == "WebP":
            pixels = imagecodecs.webp_decode(data, hasalpha=self.has_alpha)
        else:
            pixels = imagecodecs.png_decode(data)
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if pixels.shape != self.shape or pixels.dtype != self.dtype:
            raise ValueError(f"the header says {self.shape} of {self.dtype}, decoded {pixels.shape} of {pixels.dtype}")
        if self.step > 1:
            np.floor_divide(pixels[..., 0], self.step, out=pixels[..., 0])
        return np.asarray(pixels)


class _UnreadKind(Exception):
    """A valid picture of an unsupported kind; the message names the kind."""


def content_kind(head: bytes) -> str:
    """Return the kind of a file by its first bytes; empty if unknown.

    Example:
        >>> content_kind(b"II*" + bytes(9)), content_kind(b"RIFF....WEBPVP8 "), content_kind(b"hello")
        ('TIFF', 'WebP', '')
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return next((kind for start, kind in STARTS.items() if head.startswith(start)), "")


def read_file(stream: BinaryIO, kind: str, size: int, path: str) -> PictureFile:
    """Read the header of a file of ``size`` bytes.

    Raises:
        InputError: it is no picture, an unsupported one, or one that cannot fit into so few bytes.
    """
    readers = {"PNG": _read_png, "JPEG": _read_jpeg, "WebP": _read_webp, "BMP": _read_bmp}
    if kind not in readers:
        raise InputError(Problem(path, f"a {kind}" if kind else "a file that is no picture", "a PNG, JPEG, WebP or BMP"))
    try:
        picture = readers[kind](stream)
    except _UnreadKind as error:
        raise InputError(Problem(path, str(error), "", "Convert it to PNG or TIFF.")) from error
    except (struct.error, ValueError, IndexError, KeyError, SyntaxError) as error:
        raise InputError(Problem(path, f"a {kind} whose header is damaged")) from error
    height, width, samples = picture.shape
    sample_bits = picture.bits if picture.kind == "PNG" and picture.bits else 8 * np.dtype(picture.dtype).itemsize
    if not height or not width or height * width * samples * sample_bits > 8 * size * MOST_PER_BYTE.get(kind, math.inf):
        raise InputError(Problem(path, f"a header of {height} x {width} pixels in a file of {size} bytes", "a picture that fits its file"))
    return replace(picture, whole_bytes=picture.whole_bytes + (0 if picture.by_pillow else size))


def _read_png(stream: BinaryIO) -> PictureFile:
    chunks: dict[bytes, bytes] = {}
    for name, content in _png_chunks(stream):
        chunks.setdefault(name, content)
    width, height, bits, color = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    orientation, notes = _orientation(chunks.get(b"eXIf", b""))
    notes += ("the first picture of an animation is read",) if b"acTL" in chunks else ()
    dtype, used = "uint16" if bits == 16 else "uint8", bits if bits < 8 else 0
    if color == 3:
        table = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)
        has_alpha = b"tRNS" in chunks
        if has_alpha:
            declared = np.frombuffer(chunks[b"tRNS"], np.uint8)[: len(table)]
            table = np.column_stack([table, np.pad(declared, (0, len(table) - len(declared)), constant_values=255)])
        shape = height, width, 1
        return PictureFile(
            "PNG", shape, dtype, used, orientation, has_alpha, table, whole_bytes=2 * height * width, by_pillow=True, notes=notes
        )
    by_pillow = max(width, height) > LIBPNG_SIDE
    if by_pillow and (bits != 8 or b"tRNS" in chunks):
        raise _UnreadKind(f"a PNG of {height} x {width} pixels of {bits} bits, longer than {LIBPNG_SIDE} a side")
    is_keyed = color in (0, 2) and b"tRNS" in chunks  # one colour is transparent: libpng returns opacity for it
    shape = height, width, samples + is_keyed
    whole_bytes = math.prod(shape) * (2 if bits == 16 else 1) + (4 * height * width if by_pillow else 0)
    step = 255 // (2**bits - 1) if bits < 8 else 1
    return PictureFile(
        *("PNG", shape, dtype, used, orientation, is_keyed or color in (4, 6)),
        step=step,
        by_pillow=by_pillow,
        whole_bytes=whole_bytes,
        notes=notes,
    )


def _png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each chunk that affects the meaning of pixels; skip the others.

    At a URL the pixels, many small chunks, are not walked through: what follows them is looked for at the end of the file.
    """
    at = 8
    for _ in range(MOST_CHUNKS):
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8:
            return
        length, name = struct.unpack(">I4s", head)
        if name in (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"acTL"):
            yield name, stream.read(min(length, 1 << 20))
        elif name == b"IDAT" and isinstance(stream, RemoteFile):
            yield from _orientation_at_end(stream)
            return
        at += length + 12


def _orientation_at_end(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield the eXIf chunk among the last bytes of a PNG, which its checksum tells from pixels."""
    stream.seek(max(0, stream.seek(0, io.SEEK_END) - PNG_END))
    end = stream.read(PNG_END)
    at = end.find(b"eXIf")
    while at >= 4:
        length = int.from_bytes(end[at - 4 : at], "big")
        chunk, checksum = end[at : at + 4 + length], end[at + 4 + length : at + 8 + length]
        if zlib.crc32(chunk).to_bytes(4, "big") == checksum:
            yield b"eXIf", chunk[4:]
        at = end.find(b"eXIf", at + 1)


def _read_jpeg(stream: BinaryIO) -> PictureFile:
    exif, frame, coding, scan_samples, scan_at = b"", b"", 0, 0, 0
    for code, at, content in _jpeg_segments(stream):
        if code == 0xE1 and content.startswith(EXIF):
            exif += content[len(EXIF) :] if exif else content
        elif 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            coding, frame = code, content
        elif code == 0xDA:
            scan_samples, scan_at = content[0], at
    bits, height, width, samples = struct.unpack_from(">BHHB", frame)
    if samples not in (1, 3, 4) or (samples == 4 and bits != 8):
        raise _UnreadKind(f"a JPEG of {samples} samples of {bits} bits")
    areas = [(factor >> 4) * (factor & 15) for factor in frame[7 : 7 + 3 * samples : 3]]  # sampling factors, horizontal times vertical
    keeps_coefficients = coding in (0xC2, 0xC6, 0xCA, 0xCE) or scan_samples < samples  # libjpeg keeps them until the last scan
    coefficients = 2 * height * width * sum(areas) // max(areas) if keeps_coefficients else 0
    orientation, notes = _orientation(exif)
    return PictureFile(
        "JPEG",
        (height, width, samples),
        "uint8" if bits <= 8 else "uint16",
        bits if bits not in (8, 16) else 0,
        orientation,
        is_cmyk=samples == 4,
        is_lossy=coding not in (0xC3, 0xC7, 0xCB, 0xCF),
        scan_at=scan_at,
        whole_bytes=height * width * samples * (1 if bits <= 8 else 2) + coefficients,
        notes=notes + ((CMYK_NOTE,) if samples == 4 else ()),
    )


def _jpeg_segments(stream: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yield code, position and content of each segment up to the start of the first scan."""
    at = 2
    for _ in range(MOST_CHUNKS):
        stream.seek(at)
        head = stream.read(4)
        if len(head) < 4 or head[0] != 0xFF:
            return
        if head[1] == 0xFF:  # a fill byte
            at += 1
            continue
        length = struct.unpack(">H", head[2:])[0]
        yield head[1], at, stream.read(max(length - 2, 0))
        if head[1] == 0xDA:
            return
        at += 2 + max(length, 2)


def _read_webp(stream: BinaryIO) -> PictureFile:
    exif, names, has_alpha = b"", set[bytes](), False
    at, canvas = 12, (0, 0)
    for _ in range(MOST_CHUNKS):
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8:
            break
        name, length = struct.unpack("<4sI", head)
        content = stream.read(min(length, 1 << 20 if name == b"EXIF" else 16))
        names.add(name)
        if name == b"VP8X":
            has_alpha = bool(content[0] & 0x10)
            canvas = int.from_bytes(content[7:10], "little") + 1, int.from_bytes(content[4:7], "little") + 1
        elif name == b"VP8L" and canvas == (0, 0):
            word = int.from_bytes(content[1:5], "little")
            has_alpha, canvas = bool(word >> 28 & 1), ((word >> 14 & 0x3FFF) + 1, (word & 0x3FFF) + 1)
        elif name == b"VP8 " and canvas == (0, 0):
            width, height = struct.unpack_from("<HH", content, 6)
            canvas = height & 0x3FFF, width & 0x3FFF
        elif name == b"EXIF":
            exif = content
        at += 8 + length + length % 2
    orientation, notes = _orientation(exif)
    if b"ANMF" in names:
        raise _UnreadKind("an animated WebP")
    shape, is_lossy = (*canvas, 3 + has_alpha), b"VP8L" not in names
    whole_bytes = math.prod(shape) + (0 if is_lossy else 4 * math.prod(canvas))
    return PictureFile("WebP", shape, "uint8", 0, orientation, has_alpha, is_lossy=is_lossy, whole_bytes=whole_bytes, notes=notes)


def _read_bmp(stream: BinaryIO) -> PictureFile:
    stream.seek(0)
    with _open_pillow(stream) as image:
        samples = {"1": 1, "L": 1, "P": 1, "RGB": 3, "RGBA": 4}[image.mode]
        table = None
        if image.mode == "P" and image.palette:
            order, entries = image.palette.getdata()
            table = np.frombuffer(entries, np.uint8).reshape(-1, len(order))[:, [order.index(letter) for letter in "RGB"]]
        shape = image.height, image.width, samples
        whole_bytes = math.prod(shape) + image.height * image.width * (1 if samples == 1 else 4)
        bits = 1 if image.mode == "1" else 0
    return PictureFile("BMP", shape, "uint8", bits, 1, samples == 4, table, by_pillow=True, whole_bytes=whole_bytes)


def _orientation(exif: bytes) -> tuple[int, tuple[str, ...]]:
    """Return the EXIF orientation 1..8, and a note if EXIF is damaged. EXIF is a small TIFF."""
    tiff = exif.removeprefix(EXIF)
    if not tiff:
        return 1, ()
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, first)
        for index in range(count):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, first + 2 + 12 * index)
            if tag == ORIENTATION:
                (value,) = struct.unpack_from(f"{order}{'I' if kind == 4 else 'H'}", tiff, first + 10 + 12 * index)
                return (value if value in range(1, 9) else 1), ()
    except (KeyError, struct.error):
        return 1, ("EXIF is damaged: the picture is read as stored, without a turn",)
    return 1, ()


def _open_pillow(source: str | BinaryIO) -> Image.Image:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # whole_bytes is checked against the memory limit instead
    return Image.open(source)


def _decode_by_pillow(file: str, shape: tuple[int, int, int], dtype: str) -> NDArray[Any]:
    """Decode by Pillow, and copy a few rows at a time: one copy of all would take three times the memory."""
    out_YXS = np.empty(shape, dtype)
    with open_file(file) as stream, _open_pillow(io.BytesIO(stream.read()) if is_remote(file) else stream) as image:
        image.load()
        for y in range(0, shape[0], ROWS):
            rows = np.asarray(image.crop((0, y, shape[1], min(y + ROWS, shape[0]))))
            out_YXS[y : y + ROWS] = rows.reshape(*rows.shape[:2], -1)
    return out_YXS
