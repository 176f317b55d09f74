"""Whole slides that openslide reads: one level of the pyramid. A read decodes only the tiles that its box touches."""

from __future__ import annotations

import configparser
import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError, InputError, Problem
from pipeline.geometry import Box
from pipeline.raster import Header, Raster
from pipeline.readers import Reader
from pipeline.readers._files import local_path, opening, reading
from pipeline.readers._layout import Layout, check_level, make_header, resolve_layout

if TYPE_CHECKING:
    import openslide

__all__ = ["Slide"]

TIFF_VENDORS = ("hamamatsu", "leica", "philips", "trestle", "ventana")
"""Scanners whose TIFF tags do not tell everything: overlapping tiles, several scanned areas, padded levels."""
CACHE_BYTES = 1 << 25  # openslide's cache of decoded tiles, which neighbouring regions share
PIECE = 2048  # side of what openslide paints at a time, pixels
PIECE_BYTES = 16  # memory for a pixel of a piece: openslide's result and canvas, Pillow's copy, and a margin
CELL = 512  # side of a piece of a level whose downsampling is not a whole number, pixels
LARGEST_PIXEL = 100.0  # micrometres; a larger size comes from resolution tags of a print
LISTING_BYTES = 1 << 20
VMU = "Uncompressed Virtual Microscope Specimen"
VMU_SAMPLES = {"BitsPerPixel": "36", "PixelOrder": "RGB"}
Span = tuple[int, int, int]  # on one axis: start of a region to decode, then start and stop of the wanted part of it


class Slide(Reader):
    """NDPI, MRXS, SCN, BIF, VMS, VMU, SVSlide, and the TIFF files of Philips, Ventana, Trestle and Leica scanners.

    Colours are read as stored; ICC profiles are not applied. The image is openslide's whole canvas;
    areas that were not scanned hold no data. Labels, macros and thumbnails are never read. By name, this reader also opens
    what `tiff` reads faster: SVS and tiled TIFF.

    Example::

        reader: {name: slide, level: 0}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".svslide", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu")
    packages: ClassVar[tuple[str, ...]] = ("openslide",)
    extra: ClassVar[str] = "slide"

    def claims(self, path: str) -> bool:
        """Whether the path ends in a slide's suffix, or is a TIFF of one of ``SCANNERS``."""
        is_tiff = path.lower().endswith((".tif", ".tiff")) and not self.missing(path)
        return super().claims(path) or (is_tiff and _vendor(path.removeprefix("file://")) in TIFF_VENDORS)

    def companions(self, path: str) -> Sequence[str]:
        """Return the folder of an MRXS and the files in it, or the files that a VMS or VMU lists."""
        file = Path(path.removeprefix("file://"))
        if file.suffix.lower() == ".mrxs":
            folder = file.with_suffix("")
            return [str(folder), *(str(one) for one in sorted(folder.iterdir()))] if folder.is_dir() else [str(folder)]
        if file.suffix.lower() in (".vms", ".vmu") and file.is_file():
            return [str(file.with_name(name)) for name in _listed_files(file)]
        return ()

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Open a slide; nothing is decoded yet."""
        with opening(path):
            file = local_path(path)
            if not Path(file).exists():
                raise InputError(Problem(path, "no file at this path"))
            self._check_options(path)
            _check_vmu(Path(file), path)
            raster = _open_raster(self, file, path)
        try:
            yield raster
        finally:
            raster.close()

    def _check_options(self, path: str) -> None:
        problems = []
        if self.series not in ("largest", "all", 0):
            expected = "largest: a slide is one image, and its label, macro and thumbnail are none"
            problems.append(Problem(path, f"reader.series {self.series!r}", expected))
        if self.axes is not None and self.axes.lower() not in ("yxs", "yxc"):
            problems.append(Problem(path, f"reader.axes {self.axes!r}", "yxs, as a slide holds one plane of colours"))
        if problems:
            raise InputError(problems)


def _vendor(path: str) -> str | None:
    """Return openslide's name of the file's vendor; None for files that it does not know."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return _vendor_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _vendor_of(path: str, mtime_ns: int, size: int) -> str | None:
    import openslide

    del mtime_ns, size  # part of the cache key: a changed file is read again
    return openslide.OpenSlide.detect_format(path)


def _listing(file: Path) -> configparser.ConfigParser:
    """Return the settings of a VMS or VMU; empty if it cannot be read."""
    parser = configparser.ConfigParser(delimiters="=", strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # openslide's keys are case-sensitive
    with suppress(configparser.Error, OSError), file.open(encoding="latin-1") as stream:
        parser.read_string(stream.read(LISTING_BYTES))
    return parser


def _listed_files(file: Path) -> list[str]:
    """Return the names of the files that a VMS or VMU lists; all lie in its folder."""
    parser = _listing(file)
    kinds = ("ImageFile", "MapFile", "OptimisationFile", "MacroImage")
    names = [value for section in parser.sections() for key, value in parser.items(section) if key.startswith(kinds)]
    return [name for name in names if name and name == Path(name).name]


def _check_vmu(file: Path, path: str) -> None:
    """Refuse a VMU whose sample format is missing or unknown: openslide would crash the process."""
    if not file.is_file() or _vendor(str(file)) != "hamamatsu":
        return
    parser = _listing(file)
    for key, expected in VMU_SAMPLES.items():
        if VMU in parser and (found := parser[VMU].get(key)) != expected:
            raise InputError(Problem(f"{path}: {key}", None if found is None else repr(found), expected))


def _open_raster(options: Slide, file: str, path: str) -> _SlideRaster:
    """Choose the level, and make the header."""
    slide = _open(file)
    properties = slide.properties
    levels = tuple((height, width) for width, height in slide.level_dimensions if min(height, width) > 0)
    level = check_level(options, len(levels), path)
    downsample = slide.level_downsamples[level]
    layout = resolve_layout(options, "yxs", (*levels[level], 3), path)
    sizes, notes = _pixel_size(properties)
    header = make_header(
        options,
        layout,
        np.dtype(np.uint8),
        pixel_size=sizes and (sizes[0] * downsample, sizes[1] * downsample),
        pixel_size_from="openslide" if sizes else "",
        unit="micrometer" if sizes else "",
        has_mask=True,
        is_color=layout.channels == (0, 1, 2),
        is_lossy=True,
        levels=levels,
        work_bytes=CACHE_BYTES + PIECE_BYTES * min(PIECE, levels[level][0]) * min(PIECE, levels[level][1]),
        notes=(*notes, *_notes(properties)),
    )
    return _SlideRaster(path, file, header, layout, slide, level, downsample)


def _open(file: str) -> openslide.OpenSlide:
    import openslide

    slide = openslide.OpenSlide(file)
    slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
    return slide


def _pixel_size(properties: Any) -> tuple[tuple[float, float] | None, list[str]]:
    """Return the (y, x) size of a pixel of level 0 in micrometres (None: unknown), and notes."""
    try:
        sizes = float(properties["openslide.mpp-y"]), float(properties["openslide.mpp-x"])
    except (KeyError, ValueError):
        return None, []
    if all(0 < size <= LARGEST_PIXEL for size in sizes):
        return sizes, []
    return None, [f"the slide gives a pixel of {sizes[0]:g} x {sizes[1]:g} micrometres, which is no size: it is ignored"]


def _notes(properties: Any) -> list[str]:
    """Return notes on an ICC profile that is not applied, and on a canvas larger than the scanned area."""
    notes = ["colours are as stored: the slide's ICC profile is not applied"] if "openslide.icc-size" in properties else []
    try:
        x, y, width, height = (int(properties[f"openslide.bounds-{name}"]) for name in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return notes
    scanned = f"rows {y}..{y + height} and columns {x}..{x + width} of level 0"
    return [
        *notes,
        f"only {scanned} were scanned; programs that crop to these bounds, such as QuPath, count pixels from their corner",
    ]


class _SlideRaster(Raster):
    """One level of an open slide; threads may read at once."""

    def __init__(
        self, path: str, file: str, header: Header, layout: Layout, slide: openslide.OpenSlide, level: int, downsample: float
    ) -> None:
        self.header = header
        self._path, self._file, self._layout, self._level, self._downsample = path, file, layout, level, downsample
        self._lock = threading.Lock()
        self._slide: openslide.OpenSlide | None = slide
        self._is_closed = False

    def close(self) -> None:
        """Release the slide; the last running read closes it."""
        with self._lock:
            self._slide, self._is_closed = None, True

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Return the colours; areas that were not scanned are black."""
        return self.read_masked(box, plane)[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return the colours, and where the slide was scanned."""
        out_YXS = np.empty((*box.shape, 3), np.uint8)
        scanned_YX: NDArray[np.bool_] | None = None
        is_exact = float(self._downsample).is_integer()
        with reading(self._path, box):
            for y_span in _spans(box.y0, box.y1, is_exact):
                for x_span in _spans(box.x0, box.x1, is_exact):
                    rows, columns = Box(y_span[1], x_span[1], y_span[2], x_span[2]).relative_to(box).slices
                    part_YX = self._decode_into(out_YXS[rows, columns], y_span, x_span)
                    if part_YX is not None:
                        scanned_YX = np.ones(box.shape, np.bool_) if scanned_YX is None else scanned_YX
                        scanned_YX[rows, columns] = part_YX
        return self._layout.read(out_YXS, Box(0, 0, *box.shape), plane), scanned_YX

    def _decode_into(self, out_YXS: NDArray[np.uint8], y_span: Span, x_span: Span) -> NDArray[np.bool_] | None:
        """Decode a piece into ``out_YXS`` (Y, X, 3); return where it was scanned, None: everywhere.

        openslide takes a region's corner in whole pixels of level 0. If the level's downsampling is not a whole number, it shifts the
        region by a fraction of a pixel and interpolates. Cells of a fixed grid are then read from their own corners, so that a
        pixel has the same value whatever the box.
        """
        (y, y0, y1), (x, x0, x1) = y_span, x_span
        corner = round(x * self._downsample), round(y * self._downsample)
        rgba_YXS = self._region(corner, (x1 - x, y1 - y))[y0 - y :, x0 - x :]
        for channel in range(3):  # four times as fast as all three at once
            out_YXS[..., channel] = rgba_YXS[..., channel]
        return None if _is_opaque(rgba_YXS) else rgba_YXS[..., 3] > 0

    def _region(self, corner: tuple[int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
        """Decode a region (Y, X, RGBA). After an error openslide refuses every read, so the next read opens the slide again."""
        import openslide

        with self._lock:
            if self._is_closed:
                raise BlockError(f"{self._path}: read after it was closed")
            slide = self._slide = self._slide or _open(self._file)
        try:
            return np.asarray(slide.read_region(corner, self._level, size))
        except openslide.OpenSlideError as error:
            with self._lock:
                self._slide = None
            raise _system_error(error) or error from error


def _spans(start: int, stop: int, is_exact: bool) -> Iterator[Span]:
    """Yield the spans of the pieces of an axis.

    Example:
        >>> list(_spans(100, 1100, False)), list(_spans(100, 1100, True))
        ([(0, 100, 512), (512, 512, 1024), (1024, 1024, 1100)], [(100, 100, 1100)])
    """
    step = PIECE if is_exact else CELL
    for first in range(start if is_exact else start // step * step, stop, step):
        yield first, max(first, start), min(first + step, stop)


def _is_opaque(rgba_YXS: NDArray[np.uint8]) -> bool:
    """Whether every alpha is 255; contiguous pixels are compared as 32-bit words."""
    if rgba_YXS.flags.c_contiguous:
        return bool(rgba_YXS.view("<u4").min() >> 24 == 255)
    return bool(rgba_YXS[..., 3].min() == 255)


def _system_error(error: Exception) -> OSError | None:
    """Return the OSError behind an openslide error, which carries it as text alone; None for other errors.

    Example:
        >>> _system_error(ValueError("Couldn't read slide: Input/output error")), _system_error(ValueError("Not a JPEG file"))
        (OSError(5, 'Input/output error'), None)
    """
    numbers = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT)
    return next((OSError(number, os.strerror(number)) for number in numbers if os.strerror(number) in str(error)), None)
