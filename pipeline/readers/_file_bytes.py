"""Bytes of a file by position, and decoded parts of it that are worth keeping."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from io import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.readers._files import local_path

__all__ = ["DecodedParts", "FileBytes"]

SHORT_BYTES = 8192  # of each row outside of a box, up to which a run of rows is read in one go


class FileBytes:
    """An open file. Threads may read at once; once it is closed, no thread opens it again.

    A failure of the system closes the handle, so that the next read opens the file anew: a stale handle stays stale.
    """

    def __init__(self, path: str) -> None:
        self._path, self._lock, self._is_over = Path(local_path(path)), threading.Lock(), False
        self._file: BinaryIO | None = self._path.open("rb")
        self.size = self._file.seek(0, SEEK_END)

    def close(self) -> None:
        """Free the handle; later reads fail."""
        with self._lock:
            self._is_over = True
            if self._file is not None:
                self._file.close()

    def read(self, start: int, count: int) -> bytes:
        """Return bytes, never fewer than asked for.

        Raises:
            EOFError: the file ends before.
            ValueError: the file is closed.
        """
        return self._read(range(start, start + 1), count)

    def pixels(self, start: int, steps: tuple[int, int], box: Box, dtype: np.dtype[Any], samples: int = 1) -> NDArray[Any]:
        """Return uncompressed pixels (Y, X, S) of a box; of long rows only the part in the box is read.

        Args:
            start: of the plane's first pixel in the file.
            steps: bytes from one row to the next, and from one pixel to the next in a row.
            box: which rows and columns.
            dtype: of a sample, as stored.
            samples: that lie side by side in a pixel.
        """
        (row_bytes, pixel_bytes), (rows, columns) = steps, box.shape
        first = start + box.y0 * row_bytes + box.x0 * pixel_bytes
        width = (columns - 1) * pixel_bytes + samples * dtype.itemsize
        if row_bytes - width <= SHORT_BYTES:
            data = self.read(first, (rows - 1) * row_bytes + width)
        else:
            data = self._read(range(first, first + rows * row_bytes, row_bytes), width)
            row_bytes = width
        return np.ndarray((rows, columns, samples), dtype, data, 0, (row_bytes, pixel_bytes, dtype.itemsize))

    def _read(self, starts: range, count: int) -> bytes:
        """Return as many bytes from each start, joined."""
        if not 0 <= starts[0] <= starts[-1] + count <= self.size:
            raise EOFError(f"truncated, needs bytes {starts[0]}..{starts[-1] + count} of {self.size}")
        with self._lock:
            if self._is_over:  # a thread was still reading ahead
                raise ValueError("closed, reading is over")
            try:
                self._file = self._file or self._path.open("rb")
                handle = self._file.fileno()
                parts = [_read_fully(handle, start, count) for start in starts]
            except OSError:
                if self._file is not None:
                    self._file.close()
                self._file = None
                raise
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _read_fully(handle: int, start: int, count: int) -> bytes:
    """Return bytes of an open file; the system may give them in portions of 2 GiB."""
    data = os.pread(handle, count, start)
    while len(data) < count:
        more = os.pread(handle, count - len(data), start + len(data))
        if not more:
            raise EOFError(f"truncated while it was read, needs bytes {start}..{start + count}")
        data += more
    return data


class DecodedParts:
    """Decoded parts that are too large to be decoded for each box: at most ``num_bytes`` of them stay in memory."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes, self._lock = num_bytes, threading.Lock()
        self._kept: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()

    def get(self, key: Hashable, decode: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return a part, decoded now unless it is kept."""
        if not self._num_bytes:
            return decode()
        with self._lock:
            if key not in self._kept:
                part = decode()
                while self._kept and sum(kept.nbytes for kept in self._kept.values()) + part.nbytes > self._num_bytes:
                    self._kept.popitem(last=False)
                self._kept[key] = part
            return self._kept[key]
