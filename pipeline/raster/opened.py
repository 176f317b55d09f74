"""An opened image: a header, and pixels by region. Readers, the block store and in-memory arrays all provide it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box

__all__ = ["ArrayRaster", "Header", "Part", "PlaneStep", "Raster", "valid_pixels"]


@dataclass(frozen=True)
class PlaneStep:
    """Spacing of the planes along a stack axis."""

    step: float  # from one plane to the next, in `unit`
    unit: str = ""  # `micrometer` or `second`; empty: unknown
    offset: float = 0.0  # position of the first plane in `unit`


@dataclass(frozen=True)
class Part:
    """One file of a mosaic."""

    name: str  # of the file, without folder and suffix
    box: Box  # what it covers, pixels of the image

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle plain numbers, three times as fast: thousands of these travel with each lease of blocks."""
        return _part, (self.name, self.box.y0, self.box.x0, self.box.y1, self.box.x1)


def _part(name: str, y0: int, x0: int, y1: int, x1: int) -> Part:
    return Part(name, Box(y0, x0, y1, x1))


@dataclass(frozen=True)
class Header:
    """What a file says about its pixels before any is read."""

    shape: tuple[int, int]  # height and width of one plane, pixels
    channels: int  # number of channels C after channel selection
    dtype: str  # numpy name of the stored type, such as `uint8`, `uint16`, `float32`
    planes: Mapping[str, int] = field(default_factory=dict)  # length of each stack axis in order, {"t": 3, "z": 5}; empty: one plane
    pixel_size: tuple[float, float] | None = None  # (y, x) size of a pixel in `unit`; None where the file does not say
    unit: str = ""  # `micrometer`, `meter` or `degree`; empty: unknown
    offset: tuple[float, float] = (0.0, 0.0)  # (y, x) position of the first pixel in `unit`: OME-Zarr's translation
    pixel_size_from: str = ""  # source of the pixel size, such as `OME-XML`, `GeoTIFF` or `reader.pixel_size`; empty if unknown
    plane_steps: Mapping[str, PlaneStep] = field(default_factory=dict)  # by stack axis, if known
    nodata: float | None = None  # value of pixels without data, in the stored type; an int for integers; None: there is none
    has_mask: bool = False  # whether the file declares pixels without data by a mask or by alpha
    bits: int = 0  # used bits of a sample, such as 12 of 16; 0: all
    is_color: bool = False  # whether the channels are red, green and blue
    is_lossy: bool = False  # whether compression may have changed values, as JPEG does; a truth must not be lossy
    levels: tuple[tuple[int, int], ...] = ()  # height and width of each pyramid level, the largest first; empty: there is one
    series: str = ""  # name or index of this image in a file of several; empty in a file of one
    whole_bytes: int = 0  # bytes that every read decodes, whatever the box (PNG, JPEG, one-strip TIFF); 0 where regions decode alone
    work_bytes: int = 0  # extra memory of a regional read, such as a large compressed tile and the decoder's copies
    georeference: Mapping[str, Any] = field(default_factory=dict)  # tags to copy into exports, such as GeoTIFF keys; plain Python
    channel_names: tuple[str, ...] = ()  # a name for each channel, or empty
    parts: tuple[Part, ...] = ()  # files of a mosaic, so that each can get a mask of its own; empty: one file
    notes: tuple[str, ...] = ()  # facts about the pixels that a user may not expect, such as that they are palette indices

    @property
    def num_planes(self) -> int:
        """Number of (t, z) planes, at least 1."""
        return math.prod(self.planes.values())


class Raster(ABC):
    """An open image: a header, and pixels by region."""

    header: Header
    folder: Path | str | None = None  # folder or URL of chunk files, which may change while the path does not; None: no such files

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

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return pixels_CYX as :meth:`read` does, and declared_YX: where the file's mask or alpha declares data.

        None means everywhere. A reader of files with masks or alpha overrides this method, so that both are decoded once.
        """
        return self.read(box, plane), None

    def read_valid(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return pixels_CYX, and valid_YX as :func:`valid_pixels` does."""
        pixels_CYX, declared_YX = self.read_masked(box, plane)
        return pixels_CYX, valid_pixels(pixels_CYX, self.header.nodata, declared_YX)


def valid_pixels(pixels_CYX: NDArray[Any], nodata: float | None, declared_YX: NDArray[np.bool_] | None = None) -> NDArray[np.bool_] | None:
    """Find the valid pixels: declared by the file's mask, finite in every channel, and not nodata in all channels.

    Returns:
        valid_YX, or None when every pixel is valid.
    """
    valid_YX = declared_YX
    if pixels_CYX.dtype.kind == "f":
        finite_YX = np.isfinite(pixels_CYX).all(axis=0)
        valid_YX = finite_YX if valid_YX is None else valid_YX & finite_YX
    if nodata is not None and nodata == nodata:  # noqa: PLR0124 - NaN, which is no finite value anyway
        has_data_YX = (pixels_CYX != nodata).any(axis=0)
        valid_YX = has_data_YX if valid_YX is None else valid_YX & has_data_YX
    return None if valid_YX is None or valid_YX.all() else valid_YX


class ArrayRaster(Raster):
    """Pixels ([planes...,] [C,] Y, X) in memory; by default of one plane, with C channels where there are three axes.

    ``declared`` ([planes...,] Y, X) is False where the file declares missing data; None: it declares nothing.
    """

    def __init__(self, pixels: NDArray[Any], header: Header | None = None, declared: NDArray[np.bool_] | None = None) -> None:
        height, width = pixels.shape[-2:]
        channels = pixels.shape[0] if pixels.ndim == 3 else 1
        self.header = header or Header((height, width), channels, pixels.dtype.name, has_mask=declared is not None)
        self._pixels = pixels.reshape(self.header.num_planes, self.header.channels, height, width)
        self._declared = None if declared is None else declared.reshape(-1, height, width)

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Return a view of the box, pixels_CYX."""
        pixels_CYX: NDArray[Any] = self._pixels[plane]
        return pixels_CYX[:, *box.slices]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return views of the box."""
        return self.read(box, plane), None if self._declared is None else self._declared[plane][box.slices]
