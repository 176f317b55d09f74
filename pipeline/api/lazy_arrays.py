"""Masks, images and truth as dask arrays, of which a chunk is read when it is computed."""

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

__all__ = ["LazyArray", "first_channel", "open_lazily", "open_path"]

SIDE = 2048  # of a chunk, pixels
ToIds = Callable[[NDArray[Any], Box, NDArray[np.bool_] | None], NDArray[Any]]
Opener = Callable[[], AbstractContextManager[Raster]]


@dataclass(frozen=True, eq=False)
class LazyArray:
    """A dask array, and what belongs to its pixels.

    ``np.asarray(lazy)`` computes all of it, ``lazy.data[...]`` is dask's own indexing.

    Attributes:
        name: NAME of the image.
        data: the dask array; chunks are read, in their file's own type, when they are computed.
        axes: one letter an axis of ``data``: ``yx`` for masks and truth, ``cyx`` for images; a stack has ``t`` and ``z`` before them.
        pixel_size: (y, x) size of a pixel in ``unit``; None where the file does not say.
        unit: ``micrometer``, ``meter`` or ``degree``; empty where it is unknown.
        classes: names of the classes by id, for masks and truth.
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
        """Read all of it, for numpy and whatever takes numpy's arrays."""
        return np.asarray(self.compute(), dtype=dtype)

    def _repr_html_(self) -> str:
        size = "" if self.pixel_size is None else f", pixels of {self.pixel_size[0]:g} x {self.pixel_size[1]:g} {self.unit}"
        classes = f"; classes: {', '.join(self.classes)}" if self.classes else ""
        return f"<p>{html.escape(f'{self.name}: {self.axes}{size}{classes}')}</p>{self.data._repr_html_()}"


@contextmanager
def open_path(path: str, reader: Mapping[str, Any], factor: tuple[float, float] | None = None) -> Iterator[Raster]:
    """Open a file of classes; ``factor`` brings it to a grid of which a pixel has so many (y, x) of the file's."""
    with build("readers", reader, "reader").open(path) as raster:
        yield raster if factor is None else NearestRaster(raster, resampled_header(raster.header, factor), factor)


def open_lazily(name: str, opener: Opener, *, to_ids: ToIds | None = None, dtype: str = "", classes: tuple[str, ...] = ()) -> LazyArray:
    """Return a lazy array of what ``opener`` opens; only its header is read.

    ``to_ids`` makes class ids (Y, X) of pixels_CYX, the box that they lie in, and valid_YX, of type ``dtype`` (empty: that of the file);
    None: pixels stay (C, Y, X) as stored.
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
        name=f"gigaseg-{uuid4().hex}",  # never equal to that of an earlier content of the file
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
    """Return a mask's classes."""
    return pixels_CYX[0]
