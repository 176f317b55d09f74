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
from pipeline.readers._axes import CHANNEL, Layout, decoded_bytes, layout, make_header, native, opening, reading, resolution
from pipeline.readers._held_arrays import held_array, is_array_path

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
            resolution(self, 1, path)
            found = layout(self, held.axes, held.array.shape, path)
            header = make_header(self, found, native(held.array.dtype, path), whole_bytes=_chunk_bytes(found, held.array))
        yield _HeldRaster(path, header, found, held.array)


def _chunk_bytes(found: Layout, array: Any) -> int:
    """Return the bytes that one read computes whatever its box: only where the chunks of a dask array are huge or whole planes."""
    if not hasattr(array, "chunks"):
        return 0
    largest = {letter: max(sizes) for letter, sizes in zip(found.axes, array.chunks, strict=True)}
    across = math.prod(largest.get(letter, 1) for letter in CHANNEL)
    apart: int = -(-found.length("c") * found.length("s") // across)
    itemsize: int = array.dtype.itemsize
    plane_bytes = found.length("y") * found.length("x") * across * itemsize
    chunk_bytes: int = math.prod(largest.values()) * itemsize
    return decoded_bytes(chunk_bytes, plane_bytes) * apart


class _HeldRaster(Raster):
    """One array; numpy and dask may be read by several threads."""

    def __init__(self, path: str, header: Header, found: Layout, array: Any) -> None:
        self.header = header
        self._path, self._layout, self._array = path, found, array

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Slice the array, and compute what a dask array has there."""
        found = self._layout
        rows, columns = box.slices
        channels: Any = list(found.channels)
        picks: dict[str, Any] = {letter: slice(at, at + 1) for letter, at in found.position(plane).items()} | {"y": rows, "x": columns}
        axis = "c" if found.length("s") == 1 else "s"
        if found.length("c") * found.length("s") == found.length(axis) and axis in found.axes:
            picks[axis], channels = channels, slice(None)  # a dask array then computes the chunks of these channels only
        with reading(self._path, box):
            part = self._array[tuple(picks.get(letter, slice(None)) for letter in found.axes)]
            pixels = np.asarray(part.compute() if hasattr(part, "compute") else part)
        left = [letter for letter in found.axes if letter in "csyx"]
        pixels = pixels.reshape([size for size, letter in zip(pixels.shape, found.axes, strict=True) if letter in "csyx"])
        pixels_CYX = pixels.transpose([left.index(letter) for letter in "csyx" if letter in left]).reshape(-1, *box.shape)
        out_CYX: NDArray[Any] = pixels_CYX[channels].astype(self.header.dtype, copy=False)
        return out_CYX
