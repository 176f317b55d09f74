"""TIFF: one pyramid level, of which a read decodes only the strips or tiles that its box touches."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError, InputError, Problem
from pipeline.geometry import Box
from pipeline.raster import Header, Raster
from pipeline.readers import Reader
from pipeline.readers._files import local_path, opening, reading
from pipeline.readers._layout import Layout, check_level, color_notes, decoded_bytes, make_header, pixel_dtype, resolve_layout
from pipeline.readers._tiff_segments import TiffSegments, segment_shape
from pipeline.readers._tiff_tags import band_names, georeference, missing_value, scale

if TYPE_CHECKING:
    import tifffile

__all__ = ["Tiff"]


class Tiff(Reader):
    """TIFF and its dialects: BigTIFF, OME-TIFF, ImageJ, GeoTIFF and COG, pyramids (SubIFDs or a flat chain), SVS.

    The first image of the file is read. Pixels are read as stored, whatever the Orientation tag, the colour map and the
    photometric tag say; only YCbCr inside JPEG and JPEG 2000 becomes RGB. Pages of equal size that the file numbers without
    a name are z planes. A tile that is absent from a sparse file holds the declared nodata value, else 0.

    Example::

        reader: {name: tiff, level: 0}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".ome.tiff", ".ome.tif", ".ome.btf", ".qptiff", ".tiff", ".ndpi", ".tif", ".btf", ".tf8", ".svs")

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Open a file; nothing is decoded yet."""
        import tifffile

        # tifffile logs every odd tag of a damaged file; the errors below say what matters.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        with opening(path):
            tif = tifffile.TiffFile(local_path(path))
        with tif:
            with opening(path):
                raster = _raster(self, tif, path)
            try:
                yield raster
            finally:
                raster.segments.is_over = True


def _raster(options: Tiff, tif: tifffile.TiffFile, path: str) -> _TiffRaster:
    """Find the level, the axes, the type and the scale."""
    if not tif.series:
        raise InputError(Problem(path, "a TIFF without an image"))
    levels = tif.series[0].levels
    series, base = levels[check_level(options, len(levels), path)], levels[0].keyframe
    page = series.keyframe
    layout = resolve_layout(options, series.axes.lower(), tuple(series.shape), path)
    _check_pages(layout, series, path)
    dtype = pixel_dtype(page.dtype, path)
    zoom = (base.imagelength / page.imagelength, base.imagewidth / page.imagewidth)
    geo = georeference(base, zoom)
    pixel_size, unit, offset = scale(tif, base, geo, zoom)
    header = make_header(
        options,
        layout,
        dtype,
        pixel_size=pixel_size,
        unit=unit,
        offset=offset,
        nodata=missing_value(base),
        whole_bytes=_whole_bytes(layout, page, dtype),
        georeference=geo,
        channel_names=band_names(tif),
        notes=_notes(layout, page),
    )
    return _TiffRaster(path, header, layout, series)


def _notes(layout: Layout, page: tifffile.TiffPage) -> tuple[str, ...]:
    """Return notes on what the photometric tag and the extra samples say; extra samples of kind 1 and 2 are opacity."""
    first = page.samplesperpixel - len(page.extrasamples)
    alpha = [first + index for index, kind in enumerate(page.extrasamples) if kind in (1, 2)]
    return color_notes(layout, palette=page.photometric == 3, cmyk=page.photometric == 5, alpha=alpha)


def _check_pages(layout: Layout, series: tifffile.TiffPageSeries, path: str) -> None:
    """Refuse axes whose rows and columns are not those of a page."""
    separate, depth, height, width, samples = series.keyframe.shaped
    y, last = layout.axes.index("y"), layout.axes.index("x") + 1
    planes = math.prod(layout.shape[:y])
    stored = planes if series.dataoffset else len(series) * separate * depth
    if layout.shape[y:last] != (height, width) or layout.shape[last:] not in ((samples,), ()) or stored < planes:
        pages = f"{len(series)} pages of {height} rows x {width} columns x {samples} samples"
        raise InputError(Problem(path, f"axes {layout.axes!r} of {layout.shape} over {pages}", "y and x as each page has them"))


def _whole_bytes(layout: Layout, page: tifffile.TiffPage, dtype: np.dtype[Any]) -> int:
    if page.is_final:
        return 0
    height, width = segment_shape(page)
    height *= page.tiledepth if page.is_tiled else 1
    pixel_bytes = dtype.itemsize * page.shaped[4]
    num_segments = len(layout.channels) if page.shaped[4] == 1 else 1  # that hold the channels of one pixel
    return decoded_bytes(height * width * pixel_bytes, page.imagelength * page.imagewidth * pixel_bytes) * num_segments


class _TiffRaster(Raster):
    """One level of an open TIFF."""

    def __init__(self, path: str, header: Header, layout: Layout, series: tifffile.TiffPageSeries) -> None:
        self.header = header
        self._path, self._layout, self._series = path, layout, series
        self._page: tifffile.TiffPage = series.keyframe
        self._offset: int | None = series.dataoffset or None  # where all pages lie uncompressed, one after the other
        self.segments = TiffSegments(path, self._page, header.whole_bytes)

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Decode the segments that the box touches; nothing else is read."""
        with reading(self._path, box), self.segments.working():
            stored_planes = self._stored_planes(plane)
            channels = self.header.channels
            interleaved = len(stored_planes) == 1  # the channels of one page lie side by side, and stay so
            out = np.empty((*box.shape, channels) if interleaved else (channels, *box.shape), np.dtype(self.header.dtype))
            out_CYX = np.moveaxis(out, 2, 0) if interleaved else out
            for stored_plane, pairs in stored_planes.items():
                is_as_stored = interleaved and [sample for _, sample in pairs] == list(range(self._page.shaped[4]))
                for pixels_YXS, (rows, columns) in self._pieces(stored_plane, box):
                    if is_as_stored:
                        out[rows, columns] = pixels_YXS
                        continue
                    for channel, sample in pairs:
                        out_CYX[channel, rows, columns] = pixels_YXS[..., sample]
            return out_CYX

    def _stored_planes(self, plane: int) -> dict[int, list[tuple[int, int]]]:
        """Return which stored planes a read needs: index over all axes before y -> [(channel read, sample in the page)]."""
        layout = self._layout
        y = layout.axes.index("y")
        after = layout.axes[layout.axes.index("x") + 1 :]
        indices = layout.position(plane)
        stored_planes: dict[int, list[tuple[int, int]]] = {}
        for channel, stored in enumerate(layout.channels):
            indices["c"], indices["s"] = divmod(stored, layout.length("s"))
            before = [indices.get(letter, 0) for letter in layout.axes[:y]]
            stored_plane = int(np.ravel_multi_index(before, layout.shape[:y])) if before else 0
            stored_planes.setdefault(stored_plane, []).append((channel, indices.get(after, 0)))
        return stored_planes

    def _pieces(self, stored_plane: int, box: Box) -> Iterator[tuple[NDArray[Any], tuple[slice, slice]]]:
        """Yield parts (Y, X, S) of one stored plane, each with its place in the box."""
        number, within = divmod(stored_plane, self._page.shaped[0] * self._page.shaped[1])
        with self.segments.lock:
            page = self._series[number] if self._offset is None else self._page
            start = self._uncompressed(page, number)
        if start is not None:
            yield self.segments.rows(page, start, within, box), (slice(None), slice(None))
            return
        height, width = segment_shape(self._page)
        for row in range(box.y0 // height, (box.y1 - 1) // height + 1):
            for column in range(box.x0 // width, (box.x1 - 1) // width + 1):
                segment = Box(0, 0, height, width).shift(row * height, column * width)
                part = Box(max(segment.y0, box.y0), max(segment.x0, box.x0), min(segment.y1, box.y1), min(segment.x1, box.x1))
                pixels_YXS = self.segments.segment(page, number, within, (row, column))
                yield self._cut(pixels_YXS, part.relative_to(segment)), part.relative_to(box).slices

    def _uncompressed(self, page: Any, number: int) -> int | None:
        """Return the offset of a page's pixels where they lie uncompressed, row after row; None where they must be decoded."""
        if page is None:
            raise BlockError(f"{self._path}: page {number} is missing from the file")
        if self._offset is not None:
            return self._offset + number * self._page.nbytes
        is_one_run = self._page.is_final and (page is self._page or len(page.dataoffsets) == 1)
        return page.dataoffsets[0] or None if is_one_run and page.databytecounts[0] else None

    def _cut(self, pixels_YXS: NDArray[Any] | None, part: Box) -> NDArray[Any]:
        """Return a part of a segment, which may be stored without its padding; nodata, else 0, where the segment is absent."""
        if pixels_YXS is None:
            nodata = np.asarray(self._page.nodata, self.header.dtype)
            return np.broadcast_to(nodata, (*part.shape, self._page.shaped[4]))
        if pixels_YXS.shape[0] < part.y1 or pixels_YXS.shape[1] < part.x1:
            raise BlockError(f"{self._path}: a segment of {pixels_YXS.shape[:2]} pixels, too few for its place")
        rows, columns = part.slices
        return pixels_YXS[rows, columns]
