"""Images that crops are read from: small ones decoded once, large ones kept open and read by region."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import ArrayRaster, Raster

__all__ = ["ImageCache"]


class _Entry(NamedTuple):
    raster: Raster
    num_bytes: int
    resources: ExitStack


class ImageCache:
    """The most recently used images, within a budget of memory. Safe to use from several threads.

    Args:
        budget_bytes: memory for decoded pixels.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes, self._used_bytes = budget_bytes, 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    def raster(self, path: str, reader: Mapping[str, Any]) -> Raster:
        """Return the image at a path; one that fits into a quarter of the budget is decoded once and kept."""
        key = (path, repr(sorted(reader.items())))
        with self._lock:
            if key not in self._entries:
                self._entries[key] = self._open(path, reader)
                self._used_bytes += self._entries[key].num_bytes
                while self._used_bytes > self._budget_bytes and len(self._entries) > 1:
                    self._drop_oldest()
            self._entries.move_to_end(key)
            return self._entries[key].raster

    def __reduce__(self) -> tuple[type[ImageCache], tuple[int]]:
        """Pickle the budget alone: another process starts with an empty cache."""
        return ImageCache, (self._budget_bytes,)

    def close(self) -> None:
        """Close every file."""
        while self._entries:
            self._drop_oldest()

    def _open(self, path: str, reader: Mapping[str, Any]) -> _Entry:
        stack = ExitStack()
        raster: Raster = stack.enter_context(build("readers", reader).open(path))
        header = raster.header
        height, width = header.shape
        num_bytes = height * width * header.channels * np.dtype(header.dtype).itemsize * header.num_planes
        if num_bytes > self._budget_bytes // 4 or header.num_planes > 1:
            return _Entry(raster, header.whole_bytes, stack)
        pixels_CYX = np.ascontiguousarray(raster.read(Box(0, 0, height, width)))
        stack.close()
        return _Entry(ArrayRaster(pixels_CYX, header), num_bytes, stack)

    def _drop_oldest(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self._used_bytes -= entry.num_bytes
        entry.resources.close()
