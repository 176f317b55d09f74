"""Readers: a path in, pixels by region out.

A reader answers two questions and no others: what is in this file (:class:`Header`, from its header
alone), and what are the pixels of this box. It never normalises, resamples or caches pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict

from pipeline.geometry import Box
from pipeline.plugins import Plugin, available, find

__all__ = ["Header", "Raster", "Reader", "known_suffixes"]

Integers = Annotated[tuple[int, ...], Strict(strict=False)]  # a YAML list is a Python list


@dataclass(frozen=True)
class Header:
    """What a file says of itself before any pixel is read.

    Attributes:
        shape: height and width of one plane, pixels.
        channels: number of channels C after channel selection.
        dtype: numpy name of the stored type, such as ``uint8``, ``uint16``, ``float32``.
        planes: length of each stack axis in order, ``{"t": 3, "z": 5}``; empty for a single plane.
        pixel_size: (y, x) size of a pixel in ``unit``; None when the file does not say.
        unit: ``micrometer``, ``meter``, ``degree``; empty when unknown.
        offset: (y, x) position of the first pixel's corner in ``unit``.
        nodata: declared value of pixels that hold no data; None when none is declared.
        whole_bytes: bytes that one read must decode whatever the box (PNG, JPEG, one-strip TIFF); 0 when regions decode alone.
        georeference: tags to copy into exports, such as GeoTIFF keys; values are plain Python.
        channel_names: one name a channel, or empty.
        notes: what a user may not expect of the pixels, such as that they are indices of a palette.
    """

    shape: tuple[int, int]
    channels: int
    dtype: str
    planes: Mapping[str, int] = field(default_factory=dict)
    pixel_size: tuple[float, float] | None = None
    unit: str = ""
    offset: tuple[float, float] = (0.0, 0.0)
    nodata: float | None = None
    whole_bytes: int = 0
    georeference: Mapping[str, Any] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_planes(self) -> int:
        """Number of (t, z) planes, at least 1."""
        return int(np.prod([1, *self.planes.values()]))


class Raster(ABC):
    """An open image: a header, and pixels by region.

    Attributes:
        header: what the file says of itself.
        folder: where the pixels lie in files of their own, which may change while the file that was named does not; None: there.
    """

    header: Header
    folder: Path | None = None

    @abstractmethod
    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Return the pixels of a box.

        Args:
            box: inside the image, at least one pixel.
            plane: index over the stack axes in C order, ``0..num_planes-1``.

        Returns:
            pixels_CYX in the stored dtype; any memory layout (an RGB file gives a view of YXC).

        Raises:
            BlockError: the file is truncated or damaged here.
            OSError: the system fails in a way that may pass; another read may succeed.
        """


class Reader(Plugin):
    """Base of the readers. Its fields are the options that every reader has.

    A new reader says which ``suffixes`` it takes (lower case, longest first) and how to :meth:`open` a path.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()

    axes: str | None = Field(default=None, description="what the array's axes are, such as zyx or cyx; null: as the file says")
    channels: Integers | None = Field(default=None, description="which channels, in this order; null: all")
    level: int = Field(default=0, ge=0, description="pyramid level, 0 is the largest")
    pixel_size: float | None = Field(default=None, gt=0, description="overrides the file: micrometres, metres for maps")
    planes: dict[str, int | Integers] | None = Field(
        default=None, description="which planes of a stack, such as {z: 3} or {t: [0, 1, 2]}; null: all"
    )

    def claims(self, path: str) -> bool:
        """Whether this reader is for such a path, judged by its name alone."""
        return path.lower().rstrip("/").endswith(self.suffixes)

    @abstractmethod
    def open(self, path: str) -> AbstractContextManager[Raster]:
        """Open a file or a store; closing the context closes it.

        Raises:
            InputError: the file cannot be opened, or the options do not fit it.
            OSError: the system fails in a way that may pass.
        """


def known_suffixes() -> tuple[str, ...]:
    """Every suffix that a reader takes, lower case, longest first: what counts as an image in a folder.

    Example:
        >>> ".ome.tif" in known_suffixes()
        True
    """
    readers = [find("readers", name) for name in available("readers")]
    suffixes = {suffix for reader in readers if issubclass(reader, Reader) for suffix in reader.suffixes}
    return tuple(sorted(suffixes, key=lambda suffix: (-len(suffix), suffix)))
