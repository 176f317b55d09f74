"""Arrays in memory: numpy, dask and Zarr arrays that the Python API was given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.raster import Header, Raster
from pipeline.readers import Reader
from pipeline.readers._files import opening, reading
from pipeline.readers._held_arrays import held_array, is_array_path
from pipeline.readers._layout import CHANNEL_AXES, Layout, check_level, decoded_bytes, make_header, pixel_dtype, resolve_layout

__all__ = ["Array"]


class Array(Reader):
    """Arrays of this process, ``array://HASH/NAME``, which the Python API names so; other processes cannot read them.

    Two axes are (y, x); three are (y, x, channel) where the last is at most 4, else (channel, y, x). Of a dask array,
    only the chunks that a region touches are computed.

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
            header = make_header(self, layout, pixel_dtype(held.array.dtype, path), whole_bytes=_chunk_bytes(layout, held.array))
        yield _HeldRaster(path, header, layout, held.array)


def _chunk_bytes(layout: Layout, array: Any) -> int:
    """Return the bytes that one read computes whatever its box: only where the chunks of a dask array are huge or whole planes."""
    if not hasattr(array, "chunks"):
        return 0
    largest = {letter: max(sizes) for letter, sizes in zip(layout.axes, array.chunks, strict=True)}
    across = math.prod(largest.get(letter, 1) for letter in CHANNEL_AXES)
    apart: int = -(-layout.length("c") * layout.length("s") // across)
    itemsize: int = array.dtype.itemsize
    plane_bytes = layout.length("y") * layout.length("x") * across * itemsize
    chunk_bytes: int = math.prod(largest.values()) * itemsize
    return decoded_bytes(chunk_bytes, plane_bytes) * apart


class _HeldRaster(Raster):
    """One array; numpy and dask may be read by several threads."""

    def __init__(self, path: str, header: Header, layout: Layout, array: Any) -> None:
        self.header = header
        self._path, self._layout, self._array = path, layout, array

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Slice the array, and compute what a dask array has there."""
        layout = self._layout
        rows, columns = box.slices
        channels: Any = list(layout.channels)
        picks: dict[str, Any] = {letter: slice(at, at + 1) for letter, at in layout.position(plane).items()} | {"y": rows, "x": columns}
        axis = "c" if layout.length("s") == 1 else "s"
        if layout.length("c") * layout.length("s") == layout.length(axis) and axis in layout.axes:
            picks[axis], channels = channels, slice(None)  # a dask array then computes the chunks of these channels only
        with reading(self._path, box):
            part = self._array[tuple(picks.get(letter, slice(None)) for letter in layout.axes)]
            pixels = np.asarray(part.compute() if hasattr(part, "compute") else part)
        pixels = pixels.reshape([size for size, letter in zip(pixels.shape, layout.axes, strict=True) if letter in "csyx"])
        out_CYX: NDArray[Any] = layout.channels_first(pixels)[channels].astype(self.header.dtype, copy=False)
        return out_CYX
