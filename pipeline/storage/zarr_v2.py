"""Zarr v2 arrays, written by region, for programs that do not read version 3."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.raster import Header, Raster
from pipeline.storage.base import Storage
from pipeline.storage.block_store import chunk_side

if TYPE_CHECKING:
    import zarr

__all__ = ["ZarrV2Level"]


class ZarrV2Level(Raster):
    """An array of one channel: written in boxes of whole chunks, read in any box.

    Args:
        storage: where the array lies.
        header: its shape, type and planes.
        block: side of the boxes to write, pixels.
        fill: value of unwritten pixels.
    """

    def __init__(self, storage: Storage, header: Header, block: int, fill: int) -> None:
        self.storage, self.header, self.block, self.fill = storage, header, block, fill
        self.axes = (*header.planes, "y", "x")

    def create(self) -> None:
        """Create the array without pixels."""
        import zarr
        from numcodecs import Zstd

        from pipeline.storage.zarr_store import ZarrStore

        self.storage.make()
        self._writable = zarr.create_array(
            ZarrStore(self.storage, write_only=True),
            shape=(*self.header.planes.values(), *self.header.shape),
            chunks=(1,) * len(self.header.planes) + (chunk_side(self.block),) * 2,
            dtype=self.header.dtype,
            compressors=Zstd(level=1),
            fill_value=self.fill,
            zarr_format=2,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )

    @cached_property
    def _readable(self) -> zarr.Array[Any]:
        import zarr

        return zarr.open_array(self.storage.zarr(), mode="r", zarr_format=2)

    def write(self, box: Box, pixels: NDArray[Any], plane: int = 0) -> None:
        """Write a box, pixels (1, Y, X) or (Y, X)."""
        self._writable[self._index(box, plane)] = pixels.reshape(box.shape)

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Return the pixels of a box, pixels_CYX."""
        return np.asarray(self._readable[self._index(box, plane)])[None]

    def _index(self, box: Box, plane: int) -> tuple[Any, ...]:
        planes = np.unravel_index(plane, tuple(self.header.planes.values())) if self.header.planes else ()
        return (*(int(at) for at in planes), *box.slices)
