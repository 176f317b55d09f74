"""TIFF: a pyramid level is read by region, decoding only the strips or tiles that the box touches."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError, InputError, Problem
from pipeline.geometry import Box
from pipeline.raster import Header, Raster
from pipeline.readers import Reader
from pipeline.readers._axes import Layout, color_notes, decoded_bytes, layout, local_path, make_header, native, opening, reading, resolution
from pipeline.readers._tiff_tags import band_names, georeference, missing_value, scale

if TYPE_CHECKING:
    import tifffile

__all__ = ["Tiff"]

JPEG = (6, 7, 34892, 33007)
APERIO_YCC = 33003
Span = tuple[slice, slice]


class Tiff(Reader):
    """TIFF and its dialects: BigTIFF, OME-TIFF, ImageJ, GeoTIFF and COG, pyramids (SubIFDs or a flat chain), SVS.

    The first image of the file is read. Pixels come as stored, whatever the Orientation tag, the
    colour map and the photometric tag say; only YCbCr inside JPEG and JPEG 2000 is turned into RGB. Pages
    of equal size that the file numbers but does not name are z planes. A tile that is absent from a
    sparse file holds the declared nodata value, else 0.

    Example::

        reader: {name: tiff, level: 0}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".ome.tiff", ".ome.tif", ".ome.btf", ".qptiff", ".tiff", ".ndpi", ".tif", ".btf", ".tf8", ".svs")

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Open a file; nothing is decoded yet."""
        import tifffile

        # It logs every odd tag of a damaged file; what matters of them is said by the errors below.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        with opening(path):
            tif = tifffile.TiffFile(local_path(path))
        with tif:
            with opening(path):
                raster = _raster(self, tif, path)
            try:
                yield raster
            finally:
                raster.is_over = True


def _raster(options: Tiff, tif: tifffile.TiffFile, path: str) -> _TiffRaster:
    """Find level, axes, type and scale."""
    if not tif.series:
        raise InputError(Problem(path, "a TIFF without an image"))
    levels = tif.series[0].levels
    series, base = levels[resolution(options, len(levels), path)], levels[0].keyframe
    page = series.keyframe
    found = layout(options, series.axes.lower(), tuple(series.shape), path)
    _check_pages(found, series, path)
    dtype = native(page.dtype, path)
    zoom = (base.imagelength / page.imagelength, base.imagewidth / page.imagewidth)
    geo = georeference(base, zoom)
    pixel_size, unit, offset = scale(tif, base, geo, zoom)
    header = make_header(
        options, found, dtype, pixel_size=pixel_size, unit=unit, offset=offset, nodata=missing_value(base),
        whole_bytes=_whole_bytes(found, page, dtype), georeference=geo, channel_names=band_names(tif), notes=_notes(found, page),
    )  # fmt: skip
    return _TiffRaster(path, header, found, series)


def _notes(found: Layout, page: tifffile.TiffPage) -> tuple[str, ...]:
    """What the photometric tag and the extra samples say; 1 and 2 of the latter are opacity."""
    first = page.samplesperpixel - len(page.extrasamples)
    alpha = [first + at for at, kind in enumerate(page.extrasamples) if kind in (1, 2)]
    return color_notes(found, palette=page.photometric == 3, cmyk=page.photometric == 5, alpha=alpha)


def _check_pages(found: Layout, series: tifffile.TiffPageSeries, path: str) -> None:
    """Refuse axes under which rows and columns would not be those of a page."""
    separate, depth, height, width, samples = series.keyframe.shaped
    y, last = found.axes.index("y"), found.axes.index("x") + 1
    planes = math.prod(found.shape[:y])
    stored = planes if series.dataoffset else len(series) * separate * depth
    if found.shape[y:last] != (height, width) or found.shape[last:] not in ((samples,), ()) or stored < planes:
        pages = f"{len(series)} pages of {height} rows x {width} columns x {samples} samples"
        raise InputError(Problem(path, f"axes {found.axes!r} of {found.shape} over {pages}", "y and x as each page has them"))


def _segment_shape(page: tifffile.TiffPage) -> tuple[int, int]:
    """Height and width of a tile or strip, pixels."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _whole_bytes(found: Layout, page: tifffile.TiffPage, dtype: np.dtype[Any]) -> int:
    if page.is_final:
        return 0
    height, width = _segment_shape(page)
    height *= page.tiledepth if page.is_tiled else 1
    pixel_bytes = dtype.itemsize * page.shaped[4]
    apart = len(found.channels) if page.shaped[4] == 1 else 1  # segments that hold one pixel's channels
    return decoded_bytes(height * width * pixel_bytes, page.imagelength * page.imagewidth * pixel_bytes) * apart


class _TiffRaster(Raster):
    """One level of an open TIFF. File seeks are locked; decoding is not."""

    def __init__(self, path: str, header: Header, found: Layout, series: tifffile.TiffPageSeries) -> None:
        self.header = header
        self._path, self._layout, self._series = path, found, series
        self._page: tifffile.TiffPage = series.keyframe
        self._offset: int | None = series.dataoffset or None  # where all pages lie uncompressed, one after the other
        self._page.decode  # noqa: B018 - builds the decoder here, once, rather than in two threads at once
        file = self._page.parent.filehandle
        file.set_lock(True)
        self._lock = file.lock
        self.is_over = False
        self._kept: OrderedDict[tuple[int, int], NDArray[Any] | None] = OrderedDict()

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Decode the segments that the box touches; nothing else is read."""
        with reading(self._path, box), self._working():
            wanted = self._wanted(plane)
            channels = self.header.channels
            interleaved = len(wanted) == 1  # channels of one page lie side by side: keep them so
            out = np.empty((*box.shape, channels) if interleaved else (channels, *box.shape), np.dtype(self.header.dtype))
            out_CYX = np.moveaxis(out, 2, 0) if interleaved else out
            for flat, pairs in wanted.items():
                as_stored = interleaved and [sample for _, sample in pairs] == list(range(self._page.shaped[4]))
                for pixels_YXS, (rows, columns) in self._pieces(flat, box):
                    if as_stored:
                        out[rows, columns] = pixels_YXS
                        continue
                    for channel, sample in pairs:
                        out_CYX[channel, rows, columns] = pixels_YXS[..., sample]
            return out_CYX

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Close the file where the system fails, for the next read to open it anew: a handle that is stale stays so."""
        file = self._page.parent.filehandle
        with self._lock:
            self._open(file)
        try:
            yield
        except OSError:
            with self._lock:
                file.close()
            raise

    def _open(self, file: tifffile.FileHandle) -> None:
        """Open a file that is closed: after a failure, or another one of a multi-file OME-TIFF; never when reading is over."""
        if self.is_over:  # a thread was still reading ahead
            raise BlockError(f"{self._path}: closed, reading is over")
        file.open()

    def _wanted(self, plane: int) -> dict[int, list[tuple[int, int]]]:
        """Which stored planes a read needs: index over all axes before y -> [(channel handed out, sample in the page)]."""
        found = self._layout
        y = found.axes.index("y")
        after = found.axes[found.axes.index("x") + 1 :]
        at = found.position(plane)
        wanted: dict[int, list[tuple[int, int]]] = {}
        for channel, stored in enumerate(found.channels):
            at["c"], at["s"] = divmod(stored, found.length("s"))
            before = [at.get(letter, 0) for letter in found.axes[:y]]
            flat = int(np.ravel_multi_index(before, found.shape[:y])) if before else 0
            wanted.setdefault(flat, []).append((channel, at.get(after, 0)))
        return wanted

    def _pieces(self, flat: int, box: Box) -> Iterator[tuple[NDArray[Any], Span]]:
        """Parts (Y, X, S) of one stored plane, each with its place in the box."""
        number, within = divmod(flat, self._page.shaped[0] * self._page.shaped[1])
        with self._lock:
            page = self._series[number] if self._offset is None else self._page
            start = self._uncompressed(page, number)
        if start is not None:
            yield self._rows(page, start, within, box), (slice(None), slice(None))
            return
        height, width = _segment_shape(self._page)
        for row in range(box.y0 // height, (box.y1 - 1) // height + 1):
            for column in range(box.x0 // width, (box.x1 - 1) // width + 1):
                segment = Box(0, 0, height, width).shift(row * height, column * width)
                part = Box(max(segment.y0, box.y0), max(segment.x0, box.x0), min(segment.y1, box.y1), min(segment.x1, box.x1))
                pixels_YXS = self._segment(page, number, within, (row, column))
                yield self._cut(pixels_YXS, part.within(segment)), part.within(box).slices

    def _uncompressed(self, page: Any, number: int) -> int | None:
        """Offset of a page's pixels where they lie in the file as they are, row after row; None where they must be decoded."""
        if page is None:
            raise BlockError(f"{self._path}: page {number} is missing from the file")
        if self._offset is not None:
            return self._offset + number * self._page.nbytes
        one_run = self._page.is_final and (page is self._page or len(page.dataoffsets) == 1)
        return page.dataoffsets[0] or None if one_run and page.databytecounts[0] else None

    def _rows(self, page: Any, start: int, within: int, box: Box) -> NDArray[Any]:
        """Uncompressed pixels (Y, X, S): whole rows, or only the part of each row where the box is narrow."""
        _, _, length, width, samples = self._page.shaped
        stored = np.dtype(self._page.dtype).newbyteorder(self._page.parent.byteorder)
        pixel = stored.itemsize * samples
        first = start + (within * length + box.y0) * width * pixel
        rows, columns = box.shape
        if columns * 2 >= width:
            data = self._bytes(page, first, rows * width * pixel)
            return np.frombuffer(data, stored).reshape(rows, width, samples)[:, box.x0 : box.x1]
        starts = range(first + box.x0 * pixel, first + rows * width * pixel, width * pixel)
        data = b"".join(self._bytes(page, at, columns * pixel) for at in starts)
        return np.frombuffer(data, stored).reshape(rows, columns, samples)

    def _segment(self, page: Any, number: int, within: int, at: tuple[int, int]) -> NDArray[Any] | None:
        """One strip or tile, (Y, X, S); None where absent. Segments that every read needs are kept."""
        depth, tiledepth = self._page.shaped[1], self._page.tiledepth if self._page.is_tiled else 1
        down, across = (-(-size // step) for size, step in zip(self._page.shaped[2:4], _segment_shape(self._page), strict=True))
        sample, level = divmod(within, depth)
        index = ((sample * -(-depth // tiledepth) + level // tiledepth) * down + at[0]) * across + at[1]
        if not self.header.whole_bytes:
            volume_DYXS = self._decode(page, index)
        else:
            with self._lock:
                volume_DYXS = self._keep(page, number, index)
        return None if volume_DYXS is None else volume_DYXS[level % tiledepth]

    def _keep(self, page: Any, number: int, index: int) -> NDArray[Any] | None:
        """Decode once what is too large to decode for each box; holds at most ``whole_bytes``."""
        key = (number, index)
        if key not in self._kept:
            decoded = self._decode(page, index)
            room = self.header.whole_bytes - (0 if decoded is None else decoded.nbytes)
            while self._kept and sum(kept.nbytes for kept in self._kept.values() if kept is not None) > room:
                self._kept.popitem(last=False)
            self._kept[key] = decoded
        return self._kept[key]

    def _decode(self, page: Any, index: int) -> NDArray[Any] | None:
        """Decode one segment (D, Y, X, S); None where the file holds none."""
        with self._lock:  # tags may be read from the file only now
            offsets, counts = page.dataoffsets, page.databytecounts
            tables = {"jpegtables": page.jpegtables, "jpegheader": self._page.jpegheader} if self._page.compression in JPEG else {}
        if index >= min(len(offsets), len(counts)):
            raise BlockError(f"{self._path}: segment {index} is not listed, the file lists {len(offsets)}")
        if not offsets[index] or not counts[index]:
            return None
        data = self._bytes(page, offsets[index], counts[index])
        pixels_DYXS = self._page.decode(data, index, **tables)[0]
        if pixels_DYXS is None:
            return None
        return _rgb(pixels_DYXS) if self._page.compression == APERIO_YCC and _holds_ycc(data) else pixels_DYXS

    def _bytes(self, page: Any, start: int, count: int) -> bytes:
        """Bytes of the file; never fewer than asked for."""
        file = page.parent.filehandle
        with self._lock:
            self._open(file)
            if start + count > file.size:
                raise BlockError(f"{self._path}: truncated, needs bytes {start}..{start + count} of {file.size}")
            file.seek(start)
            data: bytes = file.read(count)
        return data

    def _cut(self, pixels_YXS: NDArray[Any] | None, part: Box) -> NDArray[Any]:
        """A part of a segment, which may be stored without its padding; nodata, else 0, where it is absent."""
        if pixels_YXS is None:
            nodata = np.asarray(self._page.nodata, self.header.dtype)
            return np.broadcast_to(nodata, (*part.shape, self._page.shaped[4]))
        if pixels_YXS.shape[0] < part.y1 or pixels_YXS.shape[1] < part.x1:
            raise BlockError(f"{self._path}: a segment of {pixels_YXS.shape[:2]} pixels, too few for its place")
        rows, columns = part.slices
        return pixels_YXS[rows, columns]


def _holds_ycc(codestream: bytes) -> bool:
    """Whether JPEG 2000 code leaves its colour transform to the reader: COD marker, multiple component transform 0."""
    marker = codestream.find(b"\xff\x52")
    return marker >= 0 and codestream[marker + 8 : marker + 9] == b"\x00"


def _rgb(pixels: NDArray[Any]) -> NDArray[Any]:
    """Full-range BT.601 YCbCr on the last axis to RGB, uint8, rounded."""
    luma, blue, red = np.moveaxis(pixels.astype(np.float32), -1, 0)
    blue, red = blue - 128, red - 128
    rgb = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)
    return np.asarray(np.clip(np.rint(rgb), 0, 255), pixels.dtype)
