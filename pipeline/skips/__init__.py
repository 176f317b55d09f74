"""What is not computed: glass, pixels without data, everything outside of regions. One file = one way to choose.

Owns: finding what is kept of an image, and telling it by region, for whole blocks and for each pixel.
May import: statistics, tiling and base modules; readers by their names. Never touches: full-resolution pixels of a block, models.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from pipeline.errors import Problem
from pipeline.geometry import Box
from pipeline.plugins import Plugin
from pipeline.raster import Header, Raster
from pipeline.statistics import CellMap

__all__ = ["Kept", "Skip", "SkippedImage", "open_kept", "picture_of"]


class Kept(Protocol):
    """What is kept of an image, in pixels of its working grid."""

    def of(self, box: Box, plane: int) -> NDArray[np.bool_]:
        """Return which pixels of a box inside the image are kept (Y, X)."""

    def has_any(self, box: Box, plane: int) -> bool:
        """Whether any of them is kept."""


@dataclass(frozen=True)
class SkippedImage:
    """What a way to choose is told of an image.

    Attributes:
        name: NAME of the output folder.
        path: of the image.
        own: header of the image on its own grid, which regions are given in.
        header: of its working grid.
        side: of a cell of the coarse picture, pixels of the working grid.
        halo: of a tile, pixels of the working grid.
        greatest: value that samples may have, given the coarse picture.
        cells: reads the coarse picture: cells_CYX and valid_YX of each plane.
        has_data: reads whether a cell holds a valid pixel: (Y, X) of each plane.
    """

    name: str
    path: str
    own: Header
    header: Header
    side: int = 8
    halo: int = 0
    greatest: Callable[[NDArray[Any]], float] = lambda _: 255.0
    cells: Callable[[], Sequence[tuple[NDArray[Any], NDArray[np.bool_]]]] = tuple
    has_data: Callable[[], Sequence[NDArray[np.bool_]]] = tuple

    @property
    def num_cells(self) -> int:
        """Cells around a cell that its halo reaches, at least one."""
        return max(1, math.ceil(self.halo / self.side))


class Skip(Plugin, ABC):
    """Base of the ways to choose."""

    model_config = ConfigDict(serialize_by_alias=True)

    skipped_as: Literal["none", "background"] = Field(
        default="none", alias="as", description="what skipped pixels become: no prediction, or background, which is class 0"
    )

    @abstractmethod
    def find(self, image: SkippedImage) -> dict[str, Any]:
        """Find what is kept of an image, as plain JSON that :func:`open_kept` reads; empty: all of it."""

    def problems(self, image: SkippedImage) -> Sequence[Problem]:
        """Return what is wrong with an image's files, before any pixel of it is read."""
        del image
        return ()

    def identity(self, name: str, path: str) -> str:
        """Return what the choice depends on besides the image and the options, such as the time of change of a file."""
        del name, path
        return ""


def open_kept(found: Mapping[str, Any], header: Header, open_raster: Callable[[str], Raster]) -> Kept:
    """Return what :meth:`Skip.find` found, ready to be asked.

    Args:
        found: not empty.
        header: of the image's working grid.
        open_raster: opens a file, and keeps it open.
    """
    if "cells" in found:
        return CellMap.from_json(found)
    from pipeline.skips._regions import MaskFile, unpack_polygons

    return MaskFile(open_raster(found["mask"]), header, found["is_inside"]) if "mask" in found else unpack_polygons(found)


def picture_of(kept: Kept, shape: tuple[int, int], planes: int, most: int = 1024) -> NDArray[np.bool_]:
    """Return a small picture of what is kept of the planes, one below the other: the pixels of every n-th row and column."""
    step = max(1, -(-max(shape) // most))
    rows = range(step // 2 if shape[0] > step // 2 else 0, shape[0], step)
    lines = [kept.of(Box(y, 0, y + 1, shape[1]), plane)[0, step // 2 :: step] for plane in range(planes) for y in rows]
    return np.stack(lines) if lines[0].size else np.ones((1, 1), np.bool_)
