"""Arrays that are written block by block and read by region: masks, probabilities, converted images.

One block is one shard is one file, and it is always written whole::

    zarr.json                    shape, dtype, axes: written by the first process, with the same bytes by all
    c/[plane.../][0/]row/col     one block: its chunks, and the index that finds them

So no two processes write one file, nothing is read before it is written, and a write that is cut short leaves the file of
before. The format is Zarr v3; any reader of sharded arrays opens it.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import warnings
from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError, StoreError
from pipeline.geometry import Box, ceil_to
from pipeline.raster import Header, Raster
from pipeline.storage.base import StorageLike
from pipeline.storage.opening import open_storage

if TYPE_CHECKING:
    import zarr

__all__ = ["BlockStore", "chunk_side", "with_fast_codecs"]

METADATA = "zarr.json"
ZSTD_LEVEL = 1  # on label images levels 3 and 5 save 1 % to 16 % of the bytes and cost up to twice the time


def chunk_side(block: int) -> int:
    """Return the side of the chunks of a block: its divisor nearest 512 within 128..1024, else the block itself.

    Example:
        >>> chunk_side(2048), chunk_side(2000), chunk_side(96), chunk_side(2 * 1013)
        (512, 500, 96, 1013)
    """
    divisors = [side for side in range(128, 1025) if block % side == 0]
    return min(divisors, key=lambda side: abs(side - 512), default=block)


class BlockStore(Raster):
    """An array that is written in whole blocks and read in any box. A value: it travels between processes.

    A block has a side of ``block`` pixels; pixels whose block has not been written have the value ``fill``. The header's nodata is
    kept in the array's attribute ``_FillValue``.
    """

    def __init__(self, where: StorageLike, header: Header, block: int, fill: float = 0) -> None:
        self.storage, self.header, self.block, self.fill = open_storage(where), header, block, fill

    @classmethod
    def open(cls, where: StorageLike) -> BlockStore:
        """Open an array; raises StoreError where there is none."""
        storage = open_storage(where)
        try:
            metadata = json.loads(storage.get(METADATA) or b"")
        except (StoreError, ValueError) as error:
            raise StoreError(f"{storage}: holds no array: {error}") from error
        length = dict(zip(metadata["dimension_names"], metadata["shape"], strict=True))
        planes = {axis: length[axis] for axis in length if axis not in "cyx"}
        header = Header((length["y"], length["x"]), length.get("c", 1), metadata["data_type"], planes)
        block = max(metadata["chunk_grid"]["configuration"]["chunk_shape"][-2:])
        store = cls(storage, header, block, float(metadata["fill_value"]))
        store.metadata, store.axes = metadata, tuple(metadata["dimension_names"])
        return store

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes, in OME-Zarr's order t, c, z, y, x; c is there for several channels, or a named one."""
        present = [*self.header.planes, "y", "x"]
        if self.header.channels > 1 or self.header.channel_names:
            present.append("c")
        return tuple(sorted(present, key="tczyx".index))

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Content of ``zarr.json`` by the Zarr v3 specification; zarr-python itself would write it in several steps."""
        return _metadata(self)

    def create(self, *, replace: bool = False) -> None:
        """Make the array, without pixels; an equal one that exists stays as it is, pixels included.

        Several processes may call this at once. A different array that is in the way is replaced, or raises StoreError.
        """
        self.storage.make()
        try:
            existing = json.loads(self.storage.get(METADATA) or b"null")
        except ValueError:
            existing = None
        if existing == self.metadata:
            return
        if existing is not None and not replace:
            have, want = (f"{one['shape']} {one['data_type']} in {one['chunk_grid']}" for one in (existing, self.metadata))
            raise StoreError(f"{self.storage}: holds another array: {have}; this run writes {want}. Remove the folder, or use --fresh")
        self.storage.delete_tree("c")
        self.storage.put(METADATA, json.dumps(self.metadata).encode(), durable=False)

    def write(self, box: Box, pixels: NDArray[Any], plane: int = 0) -> dict[str, int]:
        """Write one whole block; an earlier one is replaced as a whole, even if it was damaged.

        Args:
            box: the block's pixels, clipped to the image.
            pixels: (C, Y, X), or (Y, X) of a single channel.
            plane: index over the stack axes in C order.

        Returns:
            Size in bytes by key of the file.
        """
        whole = Box(box.y0, box.x0, box.y0 + self.block, box.x0 + self.block).clip(self.header.shape)
        if box.y0 % self.block or box.x0 % self.block or box != whole:
            raise ValueError(f"{box} is not a block of side {self.block} in {self.header.shape}")
        index, key = self._index(box, plane), self._key(box, plane)
        self._writable[index] = pixels.reshape(tuple(at.stop - at.start for at in index if isinstance(at, slice)))
        size = self.storage.size(key)
        if size is None:
            raise StoreError(f"{self.storage}/{key}: was written and is not there")
        return {key: size}

    def delete(self, box: Box, plane: int = 0) -> None:
        """Remove one block: its pixels have the fill value again."""
        self.storage.delete(self._key(box, plane))

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Return the pixels of a box, pixels_CYX; the fill value where nothing was written.

        Raises:
            BlockError: a file is damaged, or the box is not inside the array.
        """
        try:
            return np.asarray(self._readable[self._index(box, plane)]).reshape(self.header.channels, *box.shape)
        except (OSError, RuntimeError, ValueError, IndexError) as error:  # IndexError: the array was made for an image of another shape
            raise BlockError(f"{self.storage}: cannot be read at (y={box.y0}, x={box.x0}): {error}") from error

    def _key(self, box: Box, plane: int) -> str:
        """The file of a block."""
        leading = (str(at) if isinstance(at, int) else "0" for at in self._index(box, plane)[:-2])
        return "/".join(["c", *leading, str(box.y0 // self.block), str(box.x0 // self.block)])

    def _index(self, box: Box, plane: int) -> tuple[int | slice, ...]:
        planes = self.header.planes
        position = dict(zip(planes, map(int, np.unravel_index(plane, tuple(planes.values()))), strict=True)) if planes else {}
        index: Mapping[str, int | slice] = {**position, "c": slice(0, self.header.channels), "y": box.slices[0], "x": box.slices[1]}
        return tuple(index[axis] for axis in self.axes)

    @cached_property
    def _readable(self) -> zarr.Array[Any]:
        import zarr
        from zarr.storage import StorePath

        return with_fast_codecs(zarr.Array.from_dict(StorePath(self.storage.zarr()), self.metadata))

    @cached_property
    def _writable(self) -> zarr.Array[Any]:
        import zarr
        from zarr.storage import StorePath

        from pipeline.storage.zarr_store import ZarrStore

        array = zarr.Array.from_dict(StorePath(ZarrStore(self.storage, write_only=True)), self.metadata)
        # A block that holds only the fill value is written as well: its file is what proves that the block is done.
        return array.with_config({"write_empty_chunks": True})

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the open arrays."""
        return {name: value for name, value in vars(self).items() if name not in ("_readable", "_writable")}


def with_fast_codecs(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the array with zarrs as its decoder, where zarrs is installed: the same pixels for half the processor time.

    Arrays of Zarr v2 are returned as they are: zarrs cannot read some of their byte orders, and says so only when it reads.
    """
    if array.metadata.zarr_format != 3 or find_spec("zarrs") is None:
        return array
    import zarr

    # The setting holds only while this array is opened: other arrays of the program keep their codecs.
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarrs warns where it leaves an array to Zarr
        return zarr.Array.from_dict(array.store_path, array.metadata.to_dict())


def _metadata(store: BlockStore) -> dict[str, Any]:
    header, side = store.header, chunk_side(store.block)
    length = {**header.planes, "c": header.channels, "y": header.shape[0], "x": header.shape[1]}
    chunk = {**dict.fromkeys(store.axes, 1), "y": min(side, length["y"]), "x": min(side, length["x"])}
    shard = {**dict.fromkeys(store.axes, 1), "c": header.channels}
    shard |= {axis: min(ceil_to(length[axis], chunk[axis]), ceil_to(store.block, chunk[axis])) for axis in "yx"}
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": [chunk[axis] for axis in store.axes],
        "codecs": [little, {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [length[axis] for axis in store.axes],
        "data_type": header.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard[axis] for axis in store.axes]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _fill_json(store.fill, header.dtype),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {} if header.nodata is None else {"_FillValue": _nodata_json(header.nodata, header.dtype)},
        "dimension_names": list(store.axes),
    }


def _nodata_json(nodata: float, dtype: str) -> int | str:
    """Return nodata as xarray encodes it: an integer as is, a float as a double (eight bytes) in base64."""
    return base64.b64encode(struct.pack("<d", nodata)).decode() if np.dtype(dtype).kind == "f" else int(nodata)


def _fill_json(fill: float, dtype: str) -> float | int | bool | str:
    kind = np.dtype(dtype).kind
    if kind == "f":
        return "NaN" if math.isnan(fill) else float(fill)
    return bool(fill) if kind == "b" else int(fill)
