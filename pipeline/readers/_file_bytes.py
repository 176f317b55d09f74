"""Reads of a file by byte position, and a small cache of decoded parts."""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from io import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pipeline.geometry import Box
from pipeline.readers._files import is_remote, local_path
from pipeline.readers._remote_file import GROUP_BYTES, RemoteFile, groups_of

__all__ = ["DecodedParts", "FileBytes", "open_bytes"]


class FileBytes:
    """An open file. Threads may read at once; once it is closed, no thread opens it again.

    After an OSError the handle is closed and the next read opens the file again: a stale handle stays stale.
    """

    def __init__(self, path: str) -> None:
        self._path, self._lock, self._is_over = Path(local_path(path)), threading.Lock(), False
        self._file: BinaryIO | None = self._path.open("rb")
        self._map: mmap.mmap | None = None
        self.size = self._file.seek(0, SEEK_END)

    def close(self) -> None:
        """Free the handle; later reads fail."""
        with self._lock:
            self._is_over = True
            self._release()

    def read(self, start: int, count: int) -> bytes:
        """Return exactly ``count`` bytes.

        Raises:
            EOFError: the file is too short.
            ValueError: the file is closed.
        """
        self._check(start, count)
        with self._reading() as handle:
            data = os.pread(handle, count, start)
            while len(data) < count:  # Linux reads at most 2 GiB at once
                more = os.pread(handle, count - len(data), start + len(data))
                if not more:
                    raise EOFError(f"truncated while it was read, needs bytes {start}..{start + count}")
                data += more
        return data

    def pixels(self, start: int, steps: tuple[int, int], box: Box, dtype: np.dtype[Any], samples: int = 1) -> NDArray[Any]:
        """Return uncompressed pixels (Y, X, S) of a box as a view of the mapped file. Copy it at once: that reads these pixels alone.

        Args:
            start: byte of the plane's first pixel in the file.
            steps: bytes from row to row, and from pixel to pixel in a row.
            box: rows and columns to read.
            dtype: stored type of a sample.
            samples: samples of a pixel, side by side.

        Raises:
            EOFError: the file is too short, or was truncated meanwhile.
            ValueError: the file is closed.
        """
        (row_bytes, pixel_bytes), (rows, columns) = steps, box.shape
        first = start + box.y0 * row_bytes + box.x0 * pixel_bytes
        self._check(first, (rows - 1) * row_bytes + (columns - 1) * pixel_bytes + samples * dtype.itemsize)
        with self._reading() as handle:
            if os.fstat(handle).st_size < self.size:  # reading mapped pages beyond the end kills the process (SIGBUS)
                raise EOFError("became shorter while it was read")
            self._map = self._map or mmap.mmap(handle, self.size, access=mmap.ACCESS_READ)
            return np.ndarray((rows, columns, samples), dtype, self._map, first, (row_bytes, pixel_bytes, dtype.itemsize))

    def _check(self, start: int, count: int) -> None:
        if not 0 <= start <= start + count <= self.size:
            raise EOFError(f"truncated, needs bytes {start}..{start + count} of {self.size}")

    @contextmanager
    def _reading(self) -> Iterator[int]:
        """Yield the handle, opened again after a failure."""
        with self._lock:
            if self._is_over:  # a thread was still reading ahead
                raise ValueError("closed, reading is over")
            try:
                self._file = self._file or self._path.open("rb")
                yield self._file.fileno()
            except OSError:
                self._release()
                raise

    def _release(self) -> None:
        """Close the handle; the last view frees the mapping."""
        if self._file is not None:
            self._file.close()
        self._file = self._map = None


class RemoteBytes(FileBytes):
    """An open file at a URL. Rows of a box are read by few requests, and copied."""

    def __init__(self, url: str) -> None:
        self._remote, self._is_over = RemoteFile(url), False
        self.size = self._remote.size

    @override
    def close(self) -> None:
        self._is_over = True

    @override
    def read(self, start: int, count: int) -> bytes:
        self._check(start, count)
        return self._remote.read_at(start, count)

    @override
    def pixels(self, start: int, steps: tuple[int, int], box: Box, dtype: np.dtype[Any], samples: int = 1) -> NDArray[Any]:
        (row_bytes, pixel_bytes), (rows, columns) = steps, box.shape
        first, length = start + box.y0 * row_bytes + box.x0 * pixel_bytes, (columns - 1) * pixel_bytes + samples * dtype.itemsize
        self._check(first, (rows - 1) * row_bytes + length)
        data = bytearray(rows * length)
        at = 0
        for group in groups_of([(first + row * row_bytes, first + row * row_bytes + length) for row in range(rows)], GROUP_BYTES):
            for part in self._remote.read_ranges(group):
                data[at : at + length] = part
                at += length
        return np.ndarray((rows, columns, samples), dtype, data, 0, (length, pixel_bytes, dtype.itemsize))

    @override
    def _check(self, start: int, count: int) -> None:
        super()._check(start, count)
        if self._is_over:  # a thread was still reading ahead
            raise ValueError("closed, reading is over")


def open_bytes(path: str) -> FileBytes:
    """Open a file at a local path or a URL."""
    return RemoteBytes(path) if is_remote(path) else FileBytes(path)


class DecodedParts:
    """Cache of parts that are too large to decode for each box; holds at most ``num_bytes``."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes, self._lock = num_bytes, threading.Lock()
        self._kept: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()

    def get(self, key: Hashable, decode: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return a part; decode it unless the cache holds it."""
        if not self._num_bytes:
            return decode()
        with self._lock:
            if key not in self._kept:
                part = decode()
                while self._kept and sum(kept.nbytes for kept in self._kept.values()) + part.nbytes > self._num_bytes:
                    self._kept.popitem(last=False)
                self._kept[key] = part
            return self._kept[key]
