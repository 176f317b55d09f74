"""An opened image: a header, and pixels by region. Readers, the block store and arrays in memory all provide one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box

__all__ = ["ArrayRaster", "Header", "Raster"]


@dataclass(frozen=True)
class Header:
    """What a file says about its pixels before any is read."""

    shape: tuple[int, int]  # height and width of one plane, pixels
    channels: int  # number of channels C after channel selection
    dtype: str  # numpy name of the stored type, such as `uint8`, `uint16`, `float32`
    planes: Mapping[str, int] = field(default_factory=dict)  # length of each stack axis in order, {"t": 3, "z": 5}; empty: one plane
    pixel_size: tuple[float, float] | None = None  # (y, x) size of a pixel in `unit`; None where the file does not say
    unit: str = ""  # `micrometer`, `meter` or `degree`; empty where it is unknown
    offset: tuple[float, float] = (0.0, 0.0)  # (y, x) position of the first pixel's corner in `unit`
    nodata: float | None = None  # value of pixels without data, as the file declares it; None where it declares none
    whole_bytes: int = 0  # bytes that every read decodes, whatever the box (PNG, JPEG, one-strip TIFF); 0 where regions decode alone
    georeference: Mapping[str, Any] = field(default_factory=dict)  # tags to copy into exports, such as GeoTIFF keys; plain Python
    channel_names: tuple[str, ...] = ()  # a name for each channel, or empty
    notes: tuple[str, ...] = ()  # what a user may not expect of the pixels, such as that they are indices of a palette

    @property
    def num_planes(self) -> int:
        """Number of (t, z) planes, at least 1."""
        return int(np.prod([1, *self.planes.values()]))


class Raster(ABC):
    """An open image: a header, and pixels by region."""

    header: Header
    folder: Path | None = None  # of the chunk files, which may change while the file at the image's path does not; None: no such files

    @abstractmethod
    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Return the pixels of a box (C, Y, X) in the stored type and any memory layout.

        Args:
            box: inside the image, at least one pixel.
            plane: index over the stack axes in C order, ``0..num_planes-1``.

        Raises:
            BlockError: the file is truncated or damaged here.
            OSError: the system failed, and another try may succeed.
        """


class ArrayRaster(Raster):
    """Pixels ([planes...,] [C,] Y, X) in memory; by default of one plane, with C channels where there are three axes."""

    def __init__(self, pixels: NDArray[Any], header: Header | None = None) -> None:
        height, width = pixels.shape[-2:]
        channels = pixels.shape[0] if pixels.ndim == 3 else 1
        self.header = header or Header((height, width), channels, pixels.dtype.name)
        self._pixels = pixels.reshape(self.header.num_planes, self.header.channels, height, width)

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Return a view of the box, pixels_CYX."""
        pixels_CYX: NDArray[Any] = self._pixels[plane]
        return pixels_CYX[:, *box.slices]
