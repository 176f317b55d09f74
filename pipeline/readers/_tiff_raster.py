"""One level of one image of an open TIFF: a read decodes the segments that its box touches, converts, masks and turns them upright."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError, InputError, Problem
from pipeline.geometry import Box
from pipeline.raster import Header, Raster
from pipeline.readers._files import reading
from pipeline.readers._layout import Layout, decoded_bytes
from pipeline.readers._orientation import stored_box, turn
from pipeline.readers._tiff_samples import Samples
from pipeline.readers._tiff_segments import TiffSegments, segment_shape

if TYPE_CHECKING:
    import tifffile

__all__ = ["Decoding", "TiffRaster", "check_pages", "whole_bytes"]


@dataclass(frozen=True)
class Decoding:
    """How stored samples become the channels that are read."""

    layout: Layout  # stored axes; its channels are the stored channels to decode
    dtype: np.dtype[Any]  # of stored samples
    samples: Samples
    channels: tuple[int, ...]  # channels of the result, numbered as in `samples`
    fill: float = 0  # stored value of absent tiles
    hidden_nodata: float | None = None  # stored value of pixels without data, if conversion would hide it
    orientation: int = 1


def check_pages(layout: Layout, series: tifffile.TiffPageSeries, path: str) -> None:
    """Refuse axes whose rows and columns differ from those of a page, and size tags that are not one integer."""
    page = series.keyframe
    sizes = page.imagewidth, page.imagelength, page.tilewidth, page.tilelength, page.tiledepth, page.rowsperstrip, page.samplesperpixel
    if not all(isinstance(size, int) for size in sizes):
        raise InputError(Problem(path, "a tag of several numbers for a size", "one number", "The file is damaged."))
    separate, depth, height, width, samples = series.keyframe.shaped
    y, last = layout.axes.index("y"), layout.axes.index("x") + 1
    planes = math.prod(layout.shape[:y])
    stored = planes if series.dataoffset else len(series) * separate * depth
    if layout.shape[y:last] != (height, width) or layout.shape[last:] not in ((samples,), ()) or stored < planes:
        pages = f"{len(series)} pages of {height} rows x {width} columns x {samples} samples"
        raise InputError(Problem(path, f"axes {layout.axes!r} of {layout.shape} over {pages}", "y and x as each page has them"))


def whole_bytes(layout: Layout, page: tifffile.TiffPage, dtype: np.dtype[Any]) -> int:
    """Return the bytes that every read of a page decodes, whatever the box; 0 if a read decodes only its region."""
    if page.is_final:
        return 0
    height, width = segment_shape(page)
    height *= page.tiledepth if page.is_tiled else 1
    pixel_bytes = dtype.itemsize * page.shaped[4]
    num_segments = len(layout.channels) if page.shaped[4] == 1 else 1  # segments that hold one pixel's channels
    return decoded_bytes(height * width * pixel_bytes, page.imagelength * page.imagewidth * pixel_bytes) * num_segments


class TiffRaster(Raster):
    """One level of an open TIFF. Each of ``masks`` is not 0 where there is data; it has the size of this level or of another one."""

    def __init__(self, path: str, header: Header, decoding: Decoding, series: tifffile.TiffPageSeries) -> None:
        self.header = header
        self.masks: list[Raster] = []
        self.scanner = ""  # of a slide whose tags do not tell everything
        self._path, self._decoding, self._layout, self._series = path, decoding, decoding.layout, series
        self.page: tifffile.TiffPage = series.keyframe
        self._offset: int | None = series.dataoffset or None  # start of the pixels if all pages lie uncompressed, one after the other
        self.segments = TiffSegments(path, self.page, whole_bytes(decoding.layout, self.page, decoding.dtype))

    def close(self) -> None:
        """Stop threads that still read ahead from opening the file again."""
        self.segments.is_over = True
        for mask in self.masks:
            if isinstance(mask, TiffRaster):
                mask.close()

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Decode the segments that the box touches; nothing else is read."""
        return self._read(box, plane, [])[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Decode pixels and masks, each segment once."""
        return self._read(box, plane, self.masks)

    def _read(self, box: Box, plane: int, masks: list[Raster]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        decoding = self._decoding
        source = stored_box(box, (self.page.imagelength, self.page.imagewidth), decoding.orientation)
        with reading(self._path, box), self.segments.working():
            pixels_CYX = self._stored(source, plane)
            declared_YX = None
            if not decoding.samples.is_plain:
                pixels_CYX, declared_YX = decoding.samples.channels(pixels_CYX, decoding.channels, decoding.hidden_nodata)
        for mask in masks:
            keep_YX = self._mask_region(mask, source, plane)
            declared_YX = keep_YX if declared_YX is None else declared_YX & keep_YX
        if decoding.orientation != 1:
            pixels_CYX = turn(pixels_CYX, decoding.orientation)
            declared_YX = None if declared_YX is None else turn(declared_YX, decoding.orientation)
        return pixels_CYX, declared_YX

    def _mask_region(self, mask: Raster, box: Box, plane: int) -> NDArray[np.bool_]:
        """Return where a mask declares data; a mask of another size is resampled by nearest pixels."""
        plane = plane if mask.header.num_planes == self.header.num_planes else 0
        height, width = self.page.imagelength, self.page.imagewidth
        if mask.header.shape == (height, width):
            return np.asarray((mask.read(box, plane) != 0).any(axis=0))
        rows = ((np.arange(box.y0, box.y1) + 0.5) * (mask.header.shape[0] / height)).astype(int)
        columns = ((np.arange(box.x0, box.x1) + 0.5) * (mask.header.shape[1] / width)).astype(int)
        part = mask.read(Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1), plane)
        return np.asarray((part != 0).any(axis=0)[np.ix_(rows - rows[0], columns - columns[0])])

    def _stored(self, box: Box, plane: int) -> NDArray[Any]:
        """Return the stored channels (C, Y, X) of a box in stored coordinates."""
        stored_planes = self._stored_planes(plane)
        channels = len(self._layout.channels)
        interleaved = len(stored_planes) == 1  # the channels lie side by side in one page; keeping them so is faster
        out = np.empty((*box.shape, channels) if interleaved else (channels, *box.shape), self._decoding.dtype)
        out_CYX = np.moveaxis(out, 2, 0) if interleaved else out
        for stored_plane, pairs in stored_planes.items():
            is_as_stored = interleaved and [sample for _, sample in pairs] == list(range(self.page.shaped[4]))
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
        number, within = divmod(stored_plane, self.page.shaped[0] * self.page.shaped[1])
        with self.segments.lock:
            page = self._series[number] if self._offset is None else self.page
            start = self._uncompressed(page, number)
        if start is not None:
            yield self.segments.rows(page, start, within, box), (slice(None), slice(None))
            return
        height, width = segment_shape(self.page)
        rows, columns = range(box.y0 // height, (box.y1 - 1) // height + 1), range(box.x0 // width, (box.x1 - 1) // width + 1)
        for (row, column), pixels_YXS in self.segments.segments(page, number, within, list(itertools.product(rows, columns))):
            segment = Box(0, 0, height, width).shift(row * height, column * width)
            part = Box(max(segment.y0, box.y0), max(segment.x0, box.x0), min(segment.y1, box.y1), min(segment.x1, box.x1))
            yield self._cut(pixels_YXS, part.relative_to(segment)), part.relative_to(box).slices

    def _uncompressed(self, page: Any, number: int) -> int | None:
        """Return the offset of a page's pixels if they lie uncompressed, row after row; None if they must be decoded."""
        if page is None:
            raise BlockError(f"{self._path}: page {number} is missing from the file")
        if self._offset is not None:
            return self._offset + number * self.page.nbytes
        is_one_run = self.page.is_final and (page is self.page or len(page.dataoffsets) == 1)
        return page.dataoffsets[0] or None if is_one_run and page.databytecounts[0] else None

    def _cut(self, pixels_YXS: NDArray[Any] | None, part: Box) -> NDArray[Any]:
        """Return a part of a segment, which may be stored without its padding; an absent segment holds nodata, else 0."""
        if pixels_YXS is None:
            fill = np.asarray(self._decoding.fill, self._decoding.dtype)
            return np.broadcast_to(fill, (*part.shape, self.page.shaped[4]))
        if pixels_YXS.shape[0] < part.y1 or pixels_YXS.shape[1] < part.x1:
            raise BlockError(f"{self._path}: a segment of {pixels_YXS.shape[:2]} pixels, too few for its place")
        rows, columns = part.slices
        return pixels_YXS[rows, columns]
