"""Arrays in memory: numpy, dask and Zarr arrays that the Python API was given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.raster import Header, Raster
from pipeline.readers import Reader
from pipeline.readers._files import opening, reading
from pipeline.readers._held_arrays import held_array, is_array_path
from pipeline.readers._layout import Layout, check_level, make_header, pixel_dtype, resolve_layout

__all__ = ["Array"]


class Array(Reader):
    """Arrays of this process. The Python API names them ``array://HASH/NAME``; other processes cannot read them.

    Two axes are (y, x); three are (y, x, channel) where the last is at most 4, else (channel, y, x); a last axis of 3
    holds colours. For a dask array, a read computes only the chunks that its region touches.

    Example::

        reader: {name: array, axes: zyx}
    """

    def claims(self, path: str) -> bool:
        """Whether the path stands for an array in memory."""
        return is_array_path(path)

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Look the array up; nothing is computed yet."""
        with opening(path):
            held = held_array(path)
            check_level(self, 1, path)
            layout = resolve_layout(self, held.axes, held.array.shape, path)
            chunks = [max(sizes) for sizes in getattr(held.array, "chunks", ())]  # numpy has none
            whole_bytes = layout.whole_bytes(chunks, held.array.dtype.itemsize) if chunks else 0
            is_color = layout.axes[-1] in "cs" and layout.shape[-1] == 3 and layout.channels == (0, 1, 2)
            header = make_header(self, layout, pixel_dtype(held.array.dtype, path), whole_bytes=whole_bytes, is_color=is_color)
        yield _HeldRaster(path, header, layout, held.array)


class _HeldRaster(Raster):
    """One array; numpy and dask may be read by several threads."""

    def __init__(self, path: str, header: Header, layout: Layout, array: Any) -> None:
        self.header = header
        self._path, self._layout, self._array = path, layout, array

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Slice the array, and compute what a dask array has there."""
        with reading(self._path, box):
            return self._layout.read(self._array, box, plane).astype(self.header.dtype, copy=False)
