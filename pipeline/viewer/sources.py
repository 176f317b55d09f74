"""Pixels of images, masks and truth at any zoom, from the pyramid level that fits best.

A picture at step s has one pixel for each square of s x s pixels of the working grid, and so ``ceil(side / s)`` pixels a side. Steps are
powers of two. Images are averaged over the square; of classes and ids the first pixel of the square is taken, or what a pyramid holds.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.plugins import build
from pipeline.raster import Header, Raster, ResampledRaster, resampled_header

__all__ = ["IdSource", "ImageSource", "OpenFiles", "shape_at"]

OPEN_FILES = 6  # that a thread holds open
LARGE_BYTES = 2**24  # of a file that is decoded whole, from which it is opened once for all threads
WHOLE_BYTES = 2**27  # of such files, before the oldest one is closed
SHARED = -1  # stands for all threads
STRIP_PIXELS = 1 << 22  # of a file, read at once
Opener = Callable[[], AbstractContextManager[Raster]]
_Files = OrderedDict[Any, tuple[Raster, ExitStack]]


def shape_at(shape: tuple[int, int], step: int) -> tuple[int, int]:
    """Return height and width of a picture at a step.

    Example:
        >>> shape_at((1000, 33), 16)
        (63, 3)
    """
    return -(-shape[0] // step), -(-shape[1] // step)


class OpenFiles:
    """The files that were read last.

    Each thread opens its own, as readers are made for one thread each. A large file that is decoded whole is opened once and read by one
    thread at a time, so that memory does not hold it several times.
    """

    def __init__(self) -> None:
        self._open: dict[int, _Files] = {}
        self._lock = threading.Lock()
        self._closed = False

    def get(self, key: Any, make: Opener) -> Raster:
        """Return an open file, opened by ``make`` where none is held under ``key``."""
        shared, mine = (self._open.setdefault(thread, OrderedDict()) for thread in (SHARED, threading.get_ident()))
        with self._lock:
            if key in shared:
                shared.move_to_end(key)
                return shared[key][0]
        if key not in mine:
            stack = ExitStack()
            raster = stack.enter_context(make())
            is_shared = raster.header.whole_bytes > LARGE_BYTES
            with self._lock:
                if self._closed:
                    stack.close()
                    raise BlockError("the viewer has been closed")
                if is_shared and key in shared:  # another thread was faster
                    stack.close()
                    return shared[key][0]
                files = shared if is_shared else mine
                while files and (len(files) >= OPEN_FILES or sum(one.header.whole_bytes for one, _ in files.values()) > WHOLE_BYTES):
                    _, oldest = files.popitem(last=False)[1]
                    if not is_shared:
                        oldest.close()
                if is_shared:
                    raster = _ReadByOne(raster)
                    finalize(raster, stack.close)  # another thread may be reading it when it is dropped above
                files[key] = raster, stack
                return raster
        mine.move_to_end(key)
        return mine[key][0]

    def close(self) -> None:
        """Close all files; no thread may read any more, and none can be opened again."""
        with self._lock:
            self._closed = True
            for files in self._open.values():
                while files:
                    files.popitem()[1][1].close()


class _ReadByOne(Raster):
    """A file that one thread reads at a time."""

    def __init__(self, raster: Raster) -> None:
        self.header, self._raster, self._lock = raster.header, raster, threading.Lock()

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        with self._lock:
            return self._raster.read(box, plane)

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        with self._lock:
            return self._raster.read_masked(box, plane)


@dataclass(frozen=True)
class ImageSource:
    """An image on the working grid of its run.

    Attributes:
        image: as its reader opens it, without a working grid.
        shape: height and width of the working grid.
        own_factor: (y, x) pixels of the file to one of the working grid.
        files: what is held open.
    """

    image: Image
    shape: tuple[int, int]
    own_factor: tuple[float, float]
    files: OpenFiles

    @property
    def header(self) -> Header:
        """Header of the file's own grid."""
        return self.image.header

    def excess(self, step: int) -> float:
        """Return how many pixels along an axis must be read for one of the picture."""
        return max(self._factor(self._level(step), step))

    def read(self, step: int, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return pixels_CYX and valid_YX of a box of the picture at a step.

        Raises:
            BlockError, InputError, OSError: the file cannot be read here.
        """
        level = self._level(step)
        raster = self._opened(level)
        factor = self._factor(level, step)
        if factor == (1.0, 1.0):
            return _padded(raster, raster.header.shape, box, plane)
        shape = _covering(raster.header.shape, factor)
        return _padded(ResampledRaster(raster, resampled_header(raster.header, factor), factor), shape, box, plane, max(factor))

    def _opened(self, level: int) -> Raster:
        options = {**self.image.reader, "level": level}
        key = self.image.path, repr(sorted(options.items()))
        return self.files.get(key, lambda: build("readers", options).open(self.image.path))

    def _levels(self) -> dict[int, tuple[int, int]]:
        """Shape of each level that may be read, by its number, the finest first."""
        first = int(self.image.reader.get("level", 0))
        coarser = {number: shape for number, shape in enumerate(self.header.levels) if number > first}
        return {first: self.header.shape, **coarser}

    def _level(self, step: int) -> int:
        """Return the coarsest level that is not coarser than the picture, else the finest."""
        levels = self._levels()
        return next((number for number in reversed(levels) if min(self._factor(number, step)) >= 1), next(iter(levels)))

    def _factor(self, level: int, step: int) -> tuple[float, float]:
        """Return (y, x) pixels of a level to one of the picture; a level whose pixels are squares of the grid may lack one at the end."""
        shape, own = self._levels()[level], self.header.shape
        square = 2 ** max(0, round(math.log2(max(self.shape) / max(shape))))
        if max(abs(one - other) for one, other in zip(shape, shape_at(self.shape, square), strict=True)) <= 1:
            return step / square, step / square
        zoom = own[0] / shape[0], own[1] / shape[1]
        return self.own_factor[0] * step / zoom[0], self.own_factor[1] * step / zoom[1]


def _covering(shape: tuple[int, int], factor: tuple[float, float]) -> tuple[int, int]:
    """Return how many pixels of a coarser or finer grid begin inside a file."""
    height, width = (max(1, int(np.ceil(length / step - 1e-6))) for length, step in zip(shape, factor, strict=True))
    return height, width


def _padded(raster: Raster, shape: tuple[int, int], box: Box, plane: int, factor: float = 1.0) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read a box strip by strip; where the raster ends a pixel early, its last pixels are repeated."""
    inside = Box(min(box.y0, shape[0] - 1), min(box.x0, shape[1] - 1), box.y1, box.x1).clip(shape)
    rows = max(1, int(STRIP_PIXELS / (inside.shape[1] * factor * factor)))
    strips = []
    for y in range(inside.y0, inside.y1, rows):
        pixels_CYX, valid_YX = raster.read_valid(Box(y, inside.x0, min(y + rows, inside.y1), inside.x1), plane)
        strips.append((pixels_CYX, np.ones(pixels_CYX.shape[1:], np.bool_) if valid_YX is None else valid_YX))
    pixels_CYX, valid_YX = (np.concatenate(parts, axis=-2) for parts in zip(*strips, strict=True))
    missing = [(0, box.shape[axis] - inside.shape[axis]) for axis in (0, 1)]
    if missing == [(0, 0), (0, 0)]:
        return pixels_CYX, valid_YX
    return np.pad(pixels_CYX, [(0, 0), *missing], mode="edge"), np.pad(valid_YX, missing, mode="edge")


@dataclass(frozen=True)
class IdSource:
    """Classes, or ids of objects, on the working grid.

    Attributes:
        path: of the file, for messages and caches.
        shape: height and width of the working grid.
        levels: opens the file at each step that it holds; the finest is 1.
        convert: from raw pixels (C, Y, X), their box at the level that was read and where they are valid, to ids (Y, X).
        files: what is held open.
    """

    path: str
    shape: tuple[int, int]
    levels: Mapping[int, Opener]
    convert: Callable[[NDArray[Any], Box, NDArray[np.bool_] | None], NDArray[Any]]
    files: OpenFiles

    def excess(self, step: int) -> float:
        """Return how many pixels along an axis must be read for one of the picture."""
        return step / self._level(step)

    def read(self, step: int, box: Box, plane: int = 0) -> NDArray[Any]:
        """Return the ids (Y, X) of a box of the picture at a step; raises as :meth:`ImageSource.read` does."""
        level = self._level(step)
        raster = self.files.get(self.levels[level], self.levels[level])
        stride = step // level
        rows = max(1, STRIP_PIXELS // (box.shape[1] * stride * stride))
        strips = [self._strip(raster, Box(y, box.x0, min(y + rows, box.y1), box.x1), stride, plane) for y in range(box.y0, box.y1, rows)]
        return strips[0] if len(strips) == 1 else np.concatenate(strips)

    def _strip(self, raster: Raster, box: Box, stride: int, plane: int) -> NDArray[Any]:
        wide = Box(box.y0 * stride, box.x0 * stride, (box.y1 - 1) * stride + 1, (box.x1 - 1) * stride + 1)
        raw_CYX, valid_YX = raster.read_valid(wide, plane)
        picked = np.s_[..., ::stride, ::stride]
        return self.convert(raw_CYX[picked], wide, None if valid_YX is None else valid_YX[picked])

    def _level(self, step: int) -> int:
        return max(level for level in self.levels if level <= step)
