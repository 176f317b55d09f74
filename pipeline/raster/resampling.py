"""Resampling by region: a pixel has the same bits in whatever region it is computed.

Pixel i of the new grid covers ``i * factor <= x < (i + 1) * factor`` of the old grid along each axis, so both grids begin at the same
corner. A pixel depends on its position in the image alone::

    factor > 1    the mean over the area that it covers, with partly covered old pixels weighted by their part (anti-aliasing)
    factor <= 1   linear interpolation between the centres of the old pixels
    classes       the old pixel under the centre of the new pixel

Old pixels without data have no weight; a new pixel is valid if less than half of its weight is missing. Sums are float32, or float64
for types of 32 bits and more; they run over rows, then columns, in order. Integers are rounded half to even.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.raster.georeference import coarsened
from pipeline.raster.opened import Header, Part, Raster

__all__ = ["NearestRaster", "ResampledRaster", "RescaledRaster", "SampleRange", "resampled_header", "resampled_shape"]

STRIP_ROWS = 16  # rows of the new grid computed at once: they fit into the processor's cache
MOST_MISSING = 0.5  # a new pixel is valid if less than this share of its weight lies on pixels without data
DECIMALS = 8  # of positions in old pixels: rounding moves products such as 3 * 0.1 onto exact edges


def resampled_shape(shape: tuple[int, int], factor: tuple[float, float]) -> tuple[int, int]:
    """Return height and width of the new grid: pixels that lie at least half inside the image; at least one.

    Example:
        >>> resampled_shape((511, 100), (2.0, 0.5)), resampled_shape((1, 3), (8.0, 8.0))
        ((256, 200), (1, 1))
    """
    height, width = (max(1, round(length / step)) for length, step in zip(shape, factor, strict=True))
    return height, width


def resampled_header(header: Header, factor: tuple[float, float], **changes: Any) -> Header:
    """Return the header on the new grid: shape, pixel size, offset and georeference; ``changes`` sets other fields.

    The offset moves by half the difference of the pixel sizes: viewers place the first pixel's centre there.
    """
    size, offset = header.pixel_size, header.offset
    if size is not None:
        offset = (offset[0] + (factor[0] - 1) * size[0] / 2, offset[1] + (factor[1] - 1) * size[1] / 2)
        size = (size[0] * factor[0], size[1] * factor[1])
    changes = {"shape": resampled_shape(header.shape, factor), "levels": (), **changes}
    changes = {"parts": _resampled_parts(header, factor, changes["shape"]), **changes}
    return replace(header, pixel_size=size, offset=offset, georeference=coarsened(header.georeference, factor), **changes)


def _resampled_parts(header: Header, factor: tuple[float, float], shape: tuple[int, int]) -> tuple[Part, ...]:
    """Return the files of a mosaic on the new grid; none where the edges of one would cut a pixel."""
    parts = []
    for part in header.parts:
        box = part.box
        edges = [round(at / step, DECIMALS) for at, step in zip((box.y0, box.x0, box.y1, box.x1), factor * 2, strict=True)]
        if any(edge != int(edge) for edge in edges) or edges[2] > shape[0] or edges[3] > shape[1]:
            return ()
        parts.append(Part(part.name, Box(*map(int, edges))))
    return tuple(parts)


@dataclass(frozen=True)
class _Axis:
    """One axis: the pixels of the new grid as weighted sums of old ones."""

    length: int  # of the old axis, pixels
    factor: float  # old pixels to a new one

    @cached_property
    def num_taps(self) -> int:
        """Number of old pixels that a new one may depend on: the same for all pixels, so that every sum has one order."""
        if self.factor <= 1:
            return 2
        return int(self.factor) if self.factor == int(self.factor) else int(np.ceil(self.factor)) + 1

    def taps(self, start: int, stop: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Return positions and weights (taps, pixels) of the old pixels for new pixels ``start..stop``; outside, the weight is 0."""
        index = np.arange(start, stop + 1)
        if self.factor > 1:
            edges = np.round(index * self.factor, DECIMALS)
            low, high = edges[:-1], np.minimum(edges[1:], self.length)
            positions = np.floor(low).astype(np.intp) + np.arange(self.num_taps)[:, None]
            weights = np.maximum(np.minimum(positions + 1, high) - np.maximum(positions, low), 0.0)
        else:
            centers = np.round((index[:-1] + 0.5) * self.factor - 0.5, DECIMALS)
            first = np.floor(centers).astype(np.intp)
            positions = np.stack([first, first + 1])
            weights = np.stack([1 - (centers - first), centers - first])
        return np.clip(positions, 0, self.length - 1), weights


class ResampledRaster(Raster):
    """An image on a coarser or finer grid.

    Args:
        source: the image on its own grid.
        header: on the new grid, from :func:`resampled_header`.
        factor: (y, x) old pixels to a new one.
    """

    def __init__(self, source: Raster, header: Header, factor: tuple[float, float]) -> None:
        self.header, self._source = header, source
        self._rows, self._cols = (_Axis(*pair) for pair in zip(source.header.shape, factor, strict=True))

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Resample a box."""
        return self.read_masked(box, plane)[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Resample a box, and find its valid pixels; the others are 0."""
        rows, cols = self._rows.taps(box.y0, box.y1), self._cols.taps(box.x0, box.x1)
        inside = Box(int(rows[0].min()), int(cols[0].min()), int(rows[0].max()) + 1, int(cols[0].max()) + 1)
        pixels_CYX, valid_YX = self._source.read_valid(inside, plane)
        local = (rows[0] - inside.y0, rows[1]), (cols[0] - inside.x0, cols[1])
        missing_YX = None
        if valid_YX is not None:
            pixels_CYX = pixels_CYX.copy(order="K")
            np.copyto(pixels_CYX, 0, where=~valid_YX)
            missing_YX = _Filter(*local, np.dtype(np.uint8)).missing((~valid_YX).view(np.uint8))
        mean = _Filter(*local, pixels_CYX.dtype)
        pixels_YXC = np.moveaxis(pixels_CYX, 0, 2)
        if pixels_YXC.flags.c_contiguous:  # keeps channels interleaved
            out_CYX = np.moveaxis(mean.means(pixels_YXC, missing_YX), 2, 0)
        else:
            out_CYX = np.stack([mean.means(channel_YX[:, :, None], missing_YX)[:, :, 0] for channel_YX in pixels_CYX])
        return out_CYX, None if missing_YX is None else missing_YX < MOST_MISSING


class _Filter:
    """Weighted means of the pixels of one region, over rows and then over columns.

    Args:
        rows, cols: positions in the region and weights, (taps, pixels).
        dtype: of the pixels.
    """

    def __init__(
        self,
        rows: tuple[NDArray[np.intp], NDArray[np.float64]],
        cols: tuple[NDArray[np.intp], NDArray[np.float64]],
        dtype: np.dtype[Any],
    ) -> None:
        self._dtype, self._sum_dtype = dtype, np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)
        (self._row_index, row_weights), (self._col_index, col_weights) = rows, cols
        self._row_weights, self._col_weights = row_weights.astype(self._sum_dtype), col_weights.astype(self._sum_dtype)
        height = len(row_weights[0])
        self._strips = [slice(start, min(start + STRIP_ROWS, height)) for start in range(0, height, STRIP_ROWS)]

    def missing(self, missing_YX: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the share of each new pixel's weight (Y, X) on missing old pixels (1); exactly 0 if none is missing."""
        return np.concatenate([(self._sums(missing_YX[:, :, None], rows) / self._totals(rows))[:, :, 0] for rows in self._strips])

    def means(self, pixels_YXC: NDArray[Any], missing_YX: NDArray[Any] | None) -> NDArray[Any]:
        """Return the means (Y, X, C) in the type of the pixels. Pixels without data must be 0, and are 0 in the result."""
        height, width = len(self._row_weights[0]), len(self._col_weights[0])
        out_YXC = np.empty((height, width, pixels_YXC.shape[2]), self._dtype)
        for rows in self._strips:
            mean_YXC = self._sums(pixels_YXC, rows)
            mean_YXC /= self._totals(rows)
            if missing_YX is not None:
                part_YX1 = missing_YX[rows, :, None]
                mean_YXC *= np.where(part_YX1 < MOST_MISSING, 1 / (1 - np.minimum(part_YX1, MOST_MISSING)), 0)
            if self._dtype.kind in "iu":
                np.rint(mean_YXC, out=mean_YXC)
            out_YXC[rows] = mean_YXC
        return out_YXC

    def _totals(self, rows: slice) -> NDArray[Any]:
        """Return the sum of each new pixel's weights, (Y, X, 1)."""
        totals: NDArray[Any] = self._row_weights[:, rows].sum(axis=0)[:, None, None] * self._col_weights.sum(axis=0)[:, None]
        return totals

    def _sums(self, pixels_YXC: NDArray[Any], rows: slice) -> NDArray[Any]:
        """Return weighted sums for some new rows. Each sum is computed elementwise, so it does not depend on the region."""
        height, width, channels = pixels_YXC.shape
        lines = pixels_YXC.reshape(height, width * channels)
        index, weights = self._row_index[:, rows], self._row_weights[:, rows, None]
        across: NDArray[Any] = np.multiply(lines[index[0]], weights[0], dtype=self._sum_dtype)
        for tap in range(1, len(index)):
            across += np.multiply(lines[index[tap]], weights[tap], dtype=self._sum_dtype)
        across_YXC = across.reshape(-1, width, channels)
        col_weights = np.repeat(self._col_weights, channels, axis=1)
        sums: NDArray[Any] = np.zeros((len(across), col_weights.shape[1]), self._sum_dtype)
        for tap in range(len(self._col_index)):
            part = np.take(across_YXC, self._col_index[tap], axis=1).reshape(sums.shape)
            part *= col_weights[tap]
            sums += part
        return sums.reshape(len(across), -1, channels)


class NearestRaster(Raster):
    """Classes or object ids on another grid: each new pixel has the value of the old pixel under its centre.

    Args:
        source: on its own grid.
        header: on the new grid.
        factor: (y, x) old pixels to a new one.
    """

    def __init__(self, source: Raster, header: Header, factor: tuple[float, float]) -> None:
        self.header, self._source, self._factor = header, source, factor

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Pick the pixels of a box."""
        return self.read_masked(box, plane)[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Pick the pixels of a box, and where they are valid."""
        rows, cols = self._index(0, box.y0, box.y1), self._index(1, box.x0, box.x1)
        inside = Box(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)
        pixels_CYX, valid_YX = self._source.read_valid(inside, plane)
        rows, cols = rows - inside.y0, cols - inside.x0
        return pixels_CYX[:, rows][:, :, cols], None if valid_YX is None else valid_YX[rows][:, cols]

    def _index(self, axis: int, start: int, stop: int) -> NDArray[np.intp]:
        centers = np.round((np.arange(start, stop) + 0.5) * self._factor[axis], DECIMALS)
        index: NDArray[np.intp] = np.minimum(np.floor(centers).astype(np.intp), self._source.header.shape[axis] - 1)
        return index


@dataclass(frozen=True)
class SampleRange:
    """A linear map from one range of samples to another, rounded and clipped to the new type."""

    dtype: str  # numpy name of the new type
    old: tuple[float, float]  # least and greatest value of the image
    new: tuple[float, float]  # the values that they become


class RescaledRaster(Raster):
    """An image whose samples are scaled to another range and type.

    Args:
        source: the image as stored.
        samples: the two ranges.
    """

    def __init__(self, source: Raster, samples: SampleRange) -> None:
        self.header = replace(source.header, dtype=samples.dtype, nodata=None, has_mask=True, bits=0)
        self._source, self._samples = source, samples

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Rescale a box."""
        return self.read_masked(box, plane)[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Rescale a box; validity is decided by the stored samples."""
        pixels_CYX, valid_YX = self._source.read_valid(box, plane)
        (low, high), (new_low, new_high), dtype = self._samples.old, self._samples.new, np.dtype(self._samples.dtype)
        values_CYX = pixels_CYX.astype(np.result_type(pixels_CYX.dtype, np.float32))
        with np.errstate(over="ignore"):  # values far beyond the range are clipped
            values_CYX = (values_CYX - low) * ((new_high - new_low) / (high - low)) + new_low
        if valid_YX is not None:
            np.copyto(values_CYX, 0, where=~valid_YX)
        if dtype.kind in "iu":
            np.rint(values_CYX, out=values_CYX)
            np.clip(values_CYX, np.iinfo(dtype).min, np.iinfo(dtype).max, out=values_CYX)
        return values_CYX.astype(dtype), valid_YX
