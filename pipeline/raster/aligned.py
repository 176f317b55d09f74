"""Pixels of a raster of classes on the grid of another image, as :mod:`pipeline.raster.alignment` says; a region needs bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.raster.alignment import Alignment, alignment_of, moved_box
from pipeline.raster.opened import Header, Raster

__all__ = ["AlignedRaster", "align", "aligned_header"]

DECIMALS = 6  # of positions in pixels: rounding moves positions onto exact edges; coordinates of millions have no more
SIDE = 512  # of the regions in which positions are computed, pixels
MOST_WINDOW = 1 << 22  # pixels of the source that are read at once; a region that needs more is split
POSITION_BYTES = 64  # of a pixel while its position is computed


def align(raster: Raster, target: Header) -> Raster:
    """Return a raster of classes on the grid of an image; the raster itself where it lies on it, or where one has no coordinates.

    Raises:
        InputError: their coordinate systems cannot be compared.
    """
    alignment = alignment_of(raster.header, target)
    if alignment is None or alignment.kind == "same":
        return raster
    return AlignedRaster(raster, aligned_header(raster.header, target), alignment)


def aligned_header(source: Header, target: Header) -> Header:
    """Return the header of the raster that :func:`align` returns.

    Raises:
        InputError: their coordinate systems cannot be compared.
    """
    alignment = alignment_of(source, target)
    if alignment is None or alignment.kind == "same":
        return source
    place = {name: getattr(target, name) for name in ("shape", "pixel_size", "unit", "offset", "pixel_size_from", "georeference")}
    depth = source.channels * np.dtype(source.dtype).itemsize + 2
    extra = 0 if alignment.kind == "pixels" else SIDE * SIDE * POSITION_BYTES + min(MOST_WINDOW, source.shape[0] * source.shape[1]) * depth
    may_miss = source.has_mask or alignment.kind != "pixels" or alignment.share < 1
    return replace(source, **place, has_mask=may_miss, work_bytes=source.work_bytes + extra, levels=(), parts=())


class AlignedRaster(Raster):
    """Classes or object ids on another grid: each pixel of the image has the value of the source's pixel under its centre.

    Args:
        source: on its own grid.
        header: on the image's grid, from :func:`aligned_header`.
        alignment: how one lies on the other.
    """

    def __init__(self, source: Raster, header: Header, alignment: Alignment) -> None:
        self.header, self._source, self._alignment = header, source, alignment

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Pick the pixels of a box; those that the source does not have are 0."""
        return self.read_masked(box, plane)[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Pick the pixels of a box, and where the source has them and they are valid."""
        pixels_CYX = np.zeros((self.header.channels, *box.shape), np.dtype(self.header.dtype))
        valid_YX = np.zeros(box.shape, bool)
        if self._alignment.kind == "pixels":
            self._copy(box, plane, pixels_CYX, valid_YX)
        else:
            for y0 in range(box.y0, box.y1, SIDE):
                for x0 in range(box.x0, box.x1, SIDE):
                    part = Box(y0, x0, min(y0 + SIDE, box.y1), min(x0 + SIDE, box.x1))
                    here = part.relative_to(box).slices
                    x, y = self._alignment.positions.centers(part)
                    self._pick(_Nearest.of(x, y, self._source.header.shape), plane, pixels_CYX[:, *here], valid_YX[here])
        return pixels_CYX, None if valid_YX.all() else valid_YX

    def _copy(self, box: Box, plane: int, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_]) -> None:
        """Copy the pixels of a box that are whole pixels away."""
        matrix = self._alignment.matrix
        region = moved_box(matrix, box).intersection(Box(0, 0, *self._source.header.shape))
        if region is None:
            return
        here = moved_box(np.linalg.inv(matrix), region).relative_to(box).slices
        found_CYX, found_YX = self._source.read_valid(region, plane)
        pixels_CYX[:, *here] = _turn(found_CYX, matrix)
        valid_YX[here] = True if found_YX is None else _turn(found_YX[None], matrix)[0]

    def _pick(self, nearest: _Nearest, plane: int, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_]) -> None:
        """Fill in nearest pixels, in parts of which none needs more than the largest window."""
        window = nearest.window
        if window is None:
            return
        if window.area > MOST_WINDOW and nearest.inside_YX.size > 1:
            for half in nearest.halves():
                self._pick(nearest.part(half), plane, pixels_CYX[:, *half], valid_YX[half])
            return
        found_CYX, found_YX = self._source.read_valid(window, plane)
        rows, cols = nearest.rows_YX[nearest.inside_YX] - window.y0, nearest.cols_YX[nearest.inside_YX] - window.x0
        pixels_CYX[:, nearest.inside_YX] = found_CYX[:, rows, cols]
        valid_YX[nearest.inside_YX] = True if found_YX is None else found_YX[rows, cols]


@dataclass(frozen=True, eq=False)
class _Nearest:
    """The source's pixel under each pixel of a region; meaningless outside ``inside_YX``."""

    rows_YX: NDArray[np.int64]
    cols_YX: NDArray[np.int64]
    inside_YX: NDArray[np.bool_]

    @classmethod
    def of(cls, x: NDArray[np.float64], y: NDArray[np.float64], shape: tuple[int, int]) -> _Nearest:
        """Return the pixels under positions, in a source of this shape."""
        with np.errstate(invalid="ignore"):
            across, down = np.floor(np.round(x, DECIMALS)), np.floor(np.round(y, DECIMALS))
            inside = (across >= 0) & (across < shape[1]) & (down >= 0) & (down < shape[0])
            rows, cols = np.where(inside, down, 0).astype(np.int64), np.where(inside, across, 0).astype(np.int64)
        return cls(rows, cols, inside)

    @property
    def window(self) -> Box | None:
        """The region of the source that holds all of them; None: there are none."""
        rows, cols = self.rows_YX[self.inside_YX], self.cols_YX[self.inside_YX]
        return Box(int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1) if len(rows) else None

    def halves(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Cut the region in two across its longer side."""
        height, width = self.inside_YX.shape
        if height >= width:
            return (slice(height // 2), slice(None)), (slice(height // 2, None), slice(None))
        return (slice(None), slice(width // 2)), (slice(None), slice(width // 2, None))

    def part(self, where: tuple[slice, slice]) -> _Nearest:
        """Return a part of the region."""
        return _Nearest(self.rows_YX[where], self.cols_YX[where], self.inside_YX[where])


def _turn(pixels_CYX: NDArray[Any], matrix: NDArray[Any]) -> NDArray[Any]:
    """Turn or flip pixels of the source as a matrix of whole numbers, from target to source, says."""
    if matrix[0, 0] == 0:  # rows of the target run along columns of the source
        pixels_CYX = pixels_CYX.transpose(0, 2, 1)
        down, right = matrix[0, 1], matrix[1, 0]
    else:
        down, right = matrix[1, 1], matrix[0, 0]
    return pixels_CYX[:, :: int(down), :: int(right)]
