"""Masks, images and truth as dask arrays: a chunk is read when it is computed."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import NearestRaster, Raster, resampled_header

if TYPE_CHECKING:
    import dask.array

__all__ = ["LazyArray", "first_channel", "open_lazily", "open_path", "resampled"]

SIDE = 2048  # of a chunk, pixels
ToIds = Callable[[NDArray[Any], Box, NDArray[np.bool_] | None], NDArray[Any]]
Opener = Callable[[], AbstractContextManager[Raster]]


@dataclass(frozen=True, eq=False)
class LazyArray:
    """A dask array with the metadata of its pixels.

    ``np.asarray(lazy)`` computes all of it, ``lazy.data[...]`` is dask's own indexing.

    Attributes:
        name: NAME of the image.
        data: the dask array, in the type of the file.
        axes: one letter for each axis of ``data``: ``yx`` for masks and truth, ``cyx`` for images; ``t`` and ``z`` of a stack come first.
        pixel_size: (y, x) size of a pixel in ``unit``; None: unknown.
        unit: ``micrometer``, ``meter`` or ``degree``; empty: unknown.
        classes: names of the classes in the order of their ids, for masks and truth.
    """

    name: str
    data: dask.array.Array
    axes: str
    pixel_size: tuple[float, float] | None = None
    unit: str = ""
    classes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        dtype: np.dtype[Any] = self.data.dtype
        return dtype

    def compute(self) -> NDArray[Any]:
        """Read all of it into memory."""
        return np.asarray(self.data.compute())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read all of it: numpy calls this to convert."""
        return np.asarray(self.compute(), dtype=dtype)

    def _repr_html_(self) -> str:
        size = "" if self.pixel_size is None else f", pixels of {self.pixel_size[0]:g} x {self.pixel_size[1]:g} {self.unit}"
        classes = f"; classes: {', '.join(self.classes)}" if self.classes else ""
        return f"<p>{html.escape(f'{self.name}: {self.axes}{size}{classes}')}</p>{self.data._repr_html_()}"


@contextmanager
def open_path(path: str, reader: Mapping[str, Any]) -> Iterator[Raster]:
    """Open a file of classes."""
    with build("readers", reader, "reader").open(path) as raster:
        yield raster


@contextmanager
def resampled(opener: Opener, factor: tuple[float, float] | None) -> Iterator[Raster]:
    """Open classes; ``factor`` (y, x), their pixels to one pixel of the result, resamples them by nearest pixels."""
    with opener() as raster:
        yield raster if factor is None else NearestRaster(raster, resampled_header(raster.header, factor), factor)


def open_lazily(name: str, opener: Opener, *, to_ids: ToIds | None = None, dtype: str = "", classes: tuple[str, ...] = ()) -> LazyArray:
    """Return a lazy array of the raster that ``opener`` opens; only its header is read.

    ``to_ids`` turns pixels_CYX, their box and valid_YX into class ids (Y, X) of type ``dtype`` (empty: the file's type);
    None: pixels stay as stored, (C, Y, X).
    """
    import dask.array

    with opener() as raster:
        header = raster.header
    planes = tuple(header.planes.values())
    side = max(header.shape) if header.whole_bytes else SIDE
    channels = () if to_ids else (header.channels,)
    dtype = dtype or header.dtype
    data = dask.array.map_blocks(
        partial(_read, opener=opener, planes=planes, to_ids=to_ids),
        chunks=dask.array.core.normalize_chunks((*(1 for _ in planes), *channels, side, side), (*planes, *channels, *header.shape)),
        dtype=dtype,
        meta=np.empty((0,) * (len(planes) + len(channels) + 2), dtype),
        name=f"gigaseg-{uuid4().hex}",  # unique: the file may have changed since an earlier call
    )
    axes = "".join(header.planes) + ("yx" if to_ids else "cyx")
    return LazyArray(name, data, axes, header.pixel_size, header.unit, classes)


def _read(opener: Opener, planes: tuple[int, ...], to_ids: ToIds | None, block_info: Mapping[Any, Any]) -> NDArray[Any]:
    """Read one chunk."""
    where = block_info[None]["array-location"]
    (top, bottom), (left, right) = where[-2:]
    box = Box(top, left, bottom, right)
    plane = int(np.ravel_multi_index([start for start, _ in where[: len(planes)]], planes)) if planes else 0
    with opener() as raster:
        if to_ids:
            pixels_CYX, valid_YX = raster.read_valid(box, plane)
            pixels = to_ids(pixels_CYX, box, valid_YX)
        else:
            pixels = raster.read(box, plane)
    return np.ascontiguousarray(pixels).reshape((1,) * len(planes) + pixels.shape)


def first_channel(pixels_CYX: Any, _box: Any, _valid_YX: Any) -> Any:
    """Return the class ids of a mask: its only channel."""
    return pixels_CYX[0]
