"""Coarse pictures of whole planes, for files without a pyramid: made block by block in the background, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError, cause_of
from pipeline.geometry import Box
from pipeline.viewer.sources import shape_at

__all__ = ["Overview", "Overviews", "overview_step"]

MOST_BYTES = 1 << 26  # of one overview
ALL_BYTES = 1 << 28  # of all that are kept
BLOCK = 2048  # pixels of the working grid that are read at once, along an axis
TOLD_S = 2.0  # between two times that an overview is said to have changed
Read = Callable[[int, Box], tuple[NDArray[Any], NDArray[np.bool_]]]
Stamps = Callable[[Sequence[tuple[int, int]], Sequence[tuple[int, int]]], NDArray[np.int64]]


def overview_step(shape: tuple[int, int], pixel_bytes: int, finest: int = 16) -> int:
    """Return the step of an overview: at least ``finest``, and so coarse that it keeps within its memory.

    Example:
        >>> overview_step((65536, 65536), 3), overview_step((65536, 65536), 1), overview_step((300000, 300000), 8)
        (16, 16, 128)
    """
    step = finest
    while np.prod(shape_at(shape, step)) * pixel_bytes > MOST_BYTES:
        step *= 2
    return step


class Overview:
    """One plane at one step; its blocks are filled from the top down.

    Args:
        read: returns pixels (..., Y, X) and where they are valid of a box of the picture at the step.
        shape: of the working grid.
        step: of the overview, which divides the side of a block.
        stamps: returns a number (R, C) for each rectangle of so many ranges of rows and columns of the working grid, which differs when
            it must be read again; 0: nothing is there yet. None: pixels never change.
    """

    def __init__(self, read: Read, shape: tuple[int, int], step: int, stamps: Stamps | None = None) -> None:
        self.step, self._read, self._stamps = step, read, stamps
        self._shape, side = shape_at(shape, step), max(1, BLOCK // step)
        rows, cols = ([(start, min(start + side, length)) for start in range(0, length, side)] for length in self._shape)
        self._boxes = [Box(y0, x0, y1, x1) for y0, y1 in rows for x0, x1 in cols]
        self._ranges = [[(start * step, stop * step) for start, stop in one] for one in (rows, cols)]
        self._read_at = np.zeros(len(self._boxes), np.int64)
        self._pixels: NDArray[Any] | None = None
        self._valid_YX = np.zeros(self._shape, np.bool_)
        self.error = ""

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return self._valid_YX.nbytes + (0 if self._pixels is None else self._pixels.nbytes)

    @property
    def is_complete(self) -> bool:
        """Whether every block that is there has been read."""
        return bool(self.error) or len(self._waiting()) == 0

    def fill_one(self) -> bool:
        """Read the next block that waits; returns whether there was one."""
        waiting = self._waiting()
        if self.error or not len(waiting):
            return False
        index = int(waiting[0])
        stamp, box = int(self._wanted()[index]), self._boxes[index]
        try:
            pixels, valid_YX = self._read(self.step, box)
        except Exception as error:  # noqa: BLE001 - decoders of damaged files raise anything, and other overviews go on
            self.error = cause_of(error)
            return False
        if self._pixels is None:
            self._pixels = np.zeros((*pixels.shape[:-2], *self._shape), pixels.dtype)
        self._pixels[..., *box.slices], self._valid_YX[box.slices] = pixels, valid_YX
        self._read_at[index] = stamp
        return True

    def cut(self, step: int, box: Box) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
        """Return pixels and valid_YX of a box of the picture at a step, by nearest pixels; None: nothing has been read yet.

        Raises:
            BlockError: the file could not be read, and nothing of the box was read before.
        """
        if self._pixels is None:
            if self.error:
                raise BlockError(self.error)
            return None
        rows, cols = (
            np.minimum(np.arange(start, stop) * step // self.step, side - 1)
            for start, stop, side in ((box.y0, box.y1, self._shape[0]), (box.x0, box.x1, self._shape[1]))
        )
        valid_YX = self._valid_YX[rows[:, None], cols]
        if self.error and not valid_YX.any():
            raise BlockError(self.error)
        return self._pixels[..., rows[:, None], cols], valid_YX

    def _wanted(self) -> NDArray[np.int64]:
        return np.ones(len(self._boxes), np.int64) if self._stamps is None else self._stamps(*self._ranges).ravel()

    def _waiting(self) -> NDArray[np.intp]:
        wanted = self._wanted()
        return np.flatnonzero((wanted != self._read_at) & (wanted != 0))


class Overviews:
    """The overviews that were asked for last, and the thread that fills them, the newest one first.

    Attributes:
        changes: how often overviews of each owner, the name of an image, have changed for people to see.
    """

    def __init__(self) -> None:
        self.changes = Counter[str]()
        self._kept: OrderedDict[tuple[Any, ...], Overview] = OrderedDict()
        self._lock = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def is_drawing(self) -> bool:
        """Whether an overview is being filled."""
        with self._lock:
            return not all(one.is_complete for one in self._kept.values())

    def get(self, owner: str, key: tuple[Any, ...], make: Callable[[], Overview]) -> Overview:
        """Return the overview of a key, which ``make`` begins where there is none, and fill it further."""
        key = owner, *key
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            self._kept.move_to_end(key)
            found = self._kept[key]
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > ALL_BYTES:
                self._kept.popitem(last=False)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, name="overviews", daemon=True)
                self._thread.start()
            self._lock.notify()
        return found

    def close(self) -> None:
        """Stop after the block in hand."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        told = time.monotonic()
        while not self._closed:
            with self._lock:
                kept = list(reversed(self._kept.items()))
            filled = next((key for key, one in kept if one.fill_one()), None)
            with self._lock:
                if filled is None:
                    self._lock.wait(TOLD_S)  # until a picture is asked for, or blocks have been done
                elif time.monotonic() - told > TOLD_S or self._is_complete(filled):
                    told = time.monotonic()
                    self.changes[filled[0]] += 1

    def _is_complete(self, key: tuple[Any, ...]) -> bool:
        return key in self._kept and self._kept[key].is_complete
