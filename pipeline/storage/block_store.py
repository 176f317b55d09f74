"""Arrays that are written block by block and read by region: masks, probabilities, converted images.

One block is one shard is one file, and it is always written whole::

    path/zarr.json               shape, dtype, axes: written by whoever comes first, the same bytes by all
    path/c/[plane.../][0/]row/col    one block: its chunks, and the index that finds them

So no two processes write one file, nothing is read before it is written, and a write that is cut short
leaves the file of before. The format is Zarr v3; any reader of sharded arrays opens it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError, StoreError
from pipeline.geometry import Box, ceil_to
from pipeline.raster import Header, Raster
from pipeline.storage.codecs import quickened

if TYPE_CHECKING:
    import zarr

__all__ = ["PARTIAL", "BlockStore", "appears_whole", "chunk_side", "put_text", "store_errors"]

PARTIAL = ".partial"
"""How the name of every file and folder ends that is not finished yet."""

ZSTD_LEVEL = 1  # on label images level 3 and 5 save under 1 % to 16 % of the bytes and cost up to twice the time


def chunk_side(block: int) -> int:
    """Return the side of the chunks of a block: its divisor nearest 512 within 128..1024, else the block itself.

    Example:
        >>> chunk_side(2048), chunk_side(2000), chunk_side(96), chunk_side(2 * 1013)
        (512, 500, 96, 1013)
    """
    divisors = [side for side in range(128, 1025) if block % side == 0]
    return min(divisors, key=lambda side: abs(side - 512), default=block)


@contextmanager
def store_errors(path: Path | str) -> Iterator[None]:
    """Turn what the disk refuses into a :class:`StoreError` that names the path and the reason."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{error.filename or path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def appears_whole(path: Path) -> Iterator[Path]:
    """Give a path to write to, and move it to this one in the end: readers see the old file or the new, whoever else writes it.

    Raises:
        StoreError: the disk refuses.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}{PARTIAL}")
    with store_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def put_text(path: Path, text: str) -> None:
    """Write a small file as :func:`appears_whole` does."""
    with appears_whole(path) as partial:
        partial.write_text(text)


class BlockStore(Raster):
    """An array on disk, written in whole blocks and read in any box. A value: it travels between processes.

    Args:
        path: folder of the array.
        header: shape, channels, dtype and planes.
        block: side of a block, pixels.
        fill: what is read where no block has been written.
    """

    def __init__(self, path: Path, header: Header, block: int, fill: float = 0) -> None:
        self.path, self.header, self.block, self.fill = path, header, block, fill

    @classmethod
    def open(cls, path: Path) -> BlockStore:
        """Open an array that exists.

        Raises:
            StoreError: there is none.
        """
        try:
            found = json.loads((path / "zarr.json").read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: holds no array: {error}") from error
        length = dict(zip(found["dimension_names"], found["shape"], strict=True))
        planes = {axis: length[axis] for axis in length if axis not in "cyx"}
        header = Header((length["y"], length["x"]), length.get("c", 1), found["data_type"], planes)
        store = cls(path, header, max(found["chunk_grid"]["configuration"]["chunk_shape"][-2:]), float(found["fill_value"]))
        store.metadata, store.axes = found, tuple(found["dimension_names"])
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
        """Content of ``zarr.json``."""
        return _metadata(self)

    def create(self, *, replace: bool = False) -> None:
        """Make the array, without pixels; one that is already there and equal stays as it is, pixels included.

        Several processes may do so at once.

        Args:
            replace: remove a different array that is in the way.

        Raises:
            StoreError: a different array is in the way, or the disk refuses.
        """
        file = self.path / "zarr.json"
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError):
            found = None
        if found is not None and found != self.metadata:
            if not replace:
                have, want = (f"{one['shape']} {one['data_type']} in {one['chunk_grid']}" for one in (found, self.metadata))
                raise StoreError(f"{self.path}: holds another array: {have}; this run writes {want}. Remove the folder, or use --fresh")
            shutil.rmtree(self.path)
            found = None
        if found is None:
            put_text(file, json.dumps(self.metadata))

    def write(self, box: Box, pixels: NDArray[Any], plane: int = 0) -> dict[str, int]:
        """Write one whole block; what was there before is replaced at once, even if it was damaged.

        Args:
            box: the block's pixels, clipped to the image.
            pixels: (C, Y, X), or (Y, X) of a single channel.
            plane: index over the stack axes in C order.

        Returns:
            Size in bytes by file, relative to the array's folder.

        Raises:
            StoreError: the disk refuses.
        """
        whole = Box(box.y0, box.x0, box.y0 + self.block, box.x0 + self.block).clip(self.header.shape)
        if box.y0 % self.block or box.x0 % self.block or box != whole:
            raise ValueError(f"{box} is not a block of side {self.block} in {self.header.shape}")
        where = self._where(box, plane)
        row, col = box.y0 // self.block, box.x0 // self.block
        key = "/".join(["c", *(str(place) if isinstance(place, int) else "0" for place in where[:-2]), str(row), str(col)])
        shape = tuple(place.stop - place.start for place in where if isinstance(place, slice))
        with store_errors(self.path / key):
            self._writable[where] = pixels.reshape(shape)
            return {key: (self.path / key).stat().st_size}

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Return the pixels of a box, pixels_CYX; the fill value where nothing was written.

        Raises:
            BlockError: a file is damaged.
        """
        try:
            pixels = np.asarray(self._readable[self._where(box, plane)])
        except (OSError, RuntimeError, ValueError) as error:
            raise BlockError(f"{self.path}: cannot be read at (y={box.y0}, x={box.x0}): {error}") from error
        return pixels.reshape(self.header.channels, *box.shape)

    def _where(self, box: Box, plane: int) -> tuple[int | slice, ...]:
        """Index of a box of a plane in the whole array."""
        planes = self.header.planes
        position = dict(zip(planes, map(int, np.unravel_index(plane, tuple(planes.values()))), strict=True)) if planes else {}
        index: Mapping[str, int | slice] = {**position, "c": slice(0, self.header.channels), "y": box.slices[0], "x": box.slices[1]}
        return tuple(index[axis] for axis in self.axes)

    @cached_property
    def _readable(self) -> zarr.Array[Any]:
        return _array(self, forget=False)

    @cached_property
    def _writable(self) -> zarr.Array[Any]:
        return _array(self, forget=True)

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the open array."""
        return {name: value for name, value in vars(self).items() if name not in ("_readable", "_writable")}


def _array(store: BlockStore, *, forget: bool) -> zarr.Array[Any]:
    """Open the array for reading; or, with ``forget``, for writing without a look at what is there."""
    import zarr
    from zarr.storage import LocalStore, StorePath, WrapperStore

    class Forgetful(WrapperStore[LocalStore]):
        """Finds nothing: zarr reads a shard before it writes it, even whole, and stumbles over a damaged one."""

        async def get(self, *_: Any, **__: Any) -> None:
            return None

    local = LocalStore(store.path)
    array = zarr.Array.from_dict(StorePath(Forgetful(local) if forget else local), store.metadata)
    if not forget:
        return quickened(array)
    # A block of nothing but fill gives a file all the same, so that what was done can be verified by its size.
    return array.with_config({"write_empty_chunks": True})


def _metadata(store: BlockStore) -> dict[str, Any]:
    """``zarr.json`` of an array, by the Zarr v3 specification; written here so that it takes one atomic write."""
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
        "attributes": {},
        "dimension_names": list(store.axes),
    }


def _fill_json(fill: float, dtype: str) -> float | int | bool | str:
    """The fill value as Zarr's JSON has it: of the array's own type, and not-a-number by name."""
    kind = np.dtype(dtype).kind
    if kind == "f":
        return "NaN" if math.isnan(fill) else float(fill)
    return bool(fill) if kind == "b" else int(fill)
