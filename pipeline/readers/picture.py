"""Pictures: PNG, JPEG, BMP and JPEG 2000, which decode only as a whole."""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError, InputError, Problem, one_of
from pipeline.geometry import Box
from pipeline.raster import Header, Raster
from pipeline.readers import Reader
from pipeline.readers._files import local_path, opening, reading
from pipeline.readers._layout import Layout, check_level, color_notes, make_header, pixel_dtype, resolve_layout

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Picture"]

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG2000_SIZE = b"\xff\x4f\xff\x51"  # start of codestream, then the SIZ marker
HEAD_BYTES = 1 << 20
MODES = {"1": 1, "L": 1, "P": 1, "I;16": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3}


class Picture(Reader):
    """PNG, JPEG, BMP and JPEG 2000 files.

    Palette images are read as indices, so that a truth drawn with a palette holds class ids. Grey of 1, 2 or 4 bits is read as
    its small numbers, 0 and 1 for one bit. The first read decodes the whole picture (``whole_bytes``), which stays in memory
    while the file is open.

    Example::

        reader: {name: picture}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".jpeg", ".png", ".jpg", ".bmp", ".jp2", ".j2k")

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Read the header; the first read decodes the pixels."""
        with opening(path):
            check_level(self, 1, path)
            picture = _read_header(local_path(path), path)
            stored = picture.shape if picture.shape[2] > 1 else picture.shape[:2]
            layout = resolve_layout(self, "yxs"[: len(stored)], stored, path)
            dtype = pixel_dtype(np.dtype(picture.dtype), path)
            whole_bytes = math.prod(picture.shape) * dtype.itemsize
            alpha = {"LA": [1], "RGBA": [3]}.get(picture.mode, ())
            notes = color_notes(layout, palette=picture.mode == "P", cmyk=picture.mode == "CMYK", alpha=alpha)
            raster = _PictureRaster(path, make_header(self, layout, dtype, whole_bytes=whole_bytes, notes=notes), layout, picture)
        yield raster


@dataclass(frozen=True)
class _PictureFile:
    """A picture whose header was read."""

    path: str
    shape: tuple[int, int, int]  # (Y, X, S)
    dtype: str
    codec: str = "pillow"  # what decodes it: `pillow`, or a codec of imagecodecs
    step: int = 1  # what decoded values are divided by, as Pillow stretches grey of few bits to 0..255
    mode: str = ""  # Pillow's name for its colours

    def decode(self) -> NDArray[Any]:
        """Decode all pixels (Y, X, S)."""
        if self.codec == "pillow":
            with _open_pillow(self.path) as image:
                pixels = np.asarray(image)
        else:
            import imagecodecs

            decode = getattr(imagecodecs, f"{self.codec}_decode")
            pixels = decode(Path(self.path).read_bytes())
        pixels = pixels.reshape(*pixels.shape[:2], -1).astype(self.dtype, copy=False)
        if pixels.shape != self.shape:
            raise BlockError(f"{self.path}: the header says {self.shape}, decoded {pixels.shape}")
        return pixels // self.step if self.step > 1 else pixels


def _read_header(file: str, path: str) -> _PictureFile:
    """Read a header without decoding a pixel."""
    with Path(file).open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    start = head.find(JPEG2000_SIZE)
    if start == 0 or (start > 0 and head[4:8] == b"jP  "):
        return _read_jpeg2000(file, head[start + 4 :], path)
    if head.startswith(PNG_START):
        width, height, bits, kind = struct.unpack(">IIBB", head[16:26])
        samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
        if bits == 16 and samples > 1:  # Pillow would cut these to 8 bits
            return _PictureFile(file, (height, width, samples), "uint16", codec="png", mode={4: "LA", 6: "RGBA"}.get(kind, ""))
        if kind == 0 and bits in (2, 4):  # Pillow stretches these to 0..255
            return _PictureFile(file, (height, width, 1), "uint8", step=255 // (2**bits - 1))
    return _read_pillow(file, path)


def _open_pillow(file: str) -> Image.Image:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # the memory limit bounds whole_bytes; Pillow's fixed number is not needed
    return Image.open(file)


def _read_pillow(file: str, path: str) -> _PictureFile:
    with _open_pillow(file) as image:
        if image.mode not in MODES:
            raise InputError(Problem(path, f"a picture of mode {image.mode}", one_of(list(MODES))))
        dtype = "uint16" if image.mode == "I;16" else "uint8"
        return _PictureFile(file, (image.height, image.width, MODES[image.mode]), dtype, mode=image.mode)


def _read_jpeg2000(file: str, size: bytes, path: str) -> _PictureFile:
    """Parse the SIZ marker segment: sizes and offsets on the reference grid, then bits and sampling of each component."""
    x1, y1, x0, y0 = struct.unpack(">4I", size[4:20])
    count = struct.unpack(">H", size[36:38])[0]
    bits = {(size[38 + 3 * component] & 0x7F) + 1 for component in range(count)}
    signed = {size[38 + 3 * component] >> 7 for component in range(count)}
    if len(signed) != 1 or max(bits) > 16:
        raise InputError(Problem(path, f"JPEG 2000 components of {sorted(bits)} bits", "at most 16 bits, all with or all without a sign"))
    dtype = f"{'int' if signed == {1} else 'uint'}{8 if max(bits) <= 8 else 16}"
    return _PictureFile(file, (y1 - y0, x1 - x0, count), dtype, codec="jpeg2k")


class _PictureRaster(Raster):
    """An open picture; the first read decodes it."""

    def __init__(self, path: str, header: Header, layout: Layout, file: _PictureFile) -> None:
        self.header = header
        self._path, self._picture, self._layout = path, file, layout
        self._pixels: NDArray[Any] | None = None
        self._lock = threading.Lock()

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Cut the box out of the decoded picture."""
        with reading(self._path, box), self._lock:
            if self._pixels is None:
                self._pixels = self._picture.decode().reshape(self._layout.shape)
            return self._layout.read(self._pixels, box, plane)
