"""Where training images wait: what many crops are read from is opened, and where it fits decoded, once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import ExitStack
from typing import Any

import numpy as np

from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import ArrayRaster, Raster

__all__ = ["ImageCache"]


class ImageCache:
    """Images that are in use: decoded ones as long as they fit, others open. Safe to use from several threads.

    Args:
        budget: bytes of decoded pixels to keep.
    """

    def __init__(self, budget: int) -> None:
        self._budget, self._used = budget, 0
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, str], tuple[Raster, int, ExitStack]] = OrderedDict()

    def raster(self, path: str, reader: Any) -> Raster:
        """The image at a path; one that fits into a quarter of the budget is decoded once and kept."""
        key = (path, repr(sorted(reader.items())))
        with self._lock:
            if key not in self._open:
                self._open[key] = self._take(path, reader)
                self._used += self._open[key][1]
                while self._used > self._budget and len(self._open) > 1:
                    self._drop()
            self._open.move_to_end(key)
            return self._open[key][0]

    def __reduce__(self) -> tuple[type[ImageCache], tuple[int]]:
        """Another process begins with an empty one."""
        return ImageCache, (self._budget,)

    def close(self) -> None:
        """Close every file."""
        while self._open:
            self._drop()

    def _take(self, path: str, reader: Any) -> tuple[Raster, int, ExitStack]:
        stack = ExitStack()
        raster: Raster = stack.enter_context(build("readers", reader).open(path))
        header = raster.header
        height, width = header.shape
        size = height * width * header.channels * np.dtype(header.dtype).itemsize * header.num_planes
        if size > self._budget // 4 or header.num_planes > 1:
            return raster, header.whole_bytes, stack
        pixels_CYX = np.ascontiguousarray(raster.read(Box(0, 0, height, width)))
        stack.close()
        return ArrayRaster(pixels_CYX, header), size, stack

    def _drop(self) -> None:
        _, size, stack = self._open.popitem(last=False)[1]
        self._used -= size
        stack.close()
