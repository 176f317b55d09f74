"""Skips: rules for what is not computed, such as glass, pixels without data, or everything outside regions. One file = one skip.

Owns: finding the kept part of an image, and its answers by region: whether any pixel is kept, and which.
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
    """The kept part of an image, in pixels of its working grid."""

    def of(self, box: Box, plane: int) -> NDArray[np.bool_]:
        """Return the kept pixels (Y, X) of a box inside the image."""

    def has_any(self, box: Box, plane: int) -> bool:
        """Whether any pixel of the box is kept."""


@dataclass(frozen=True)
class SkippedImage:
    """The view of an image that a skip gets.

    Attributes:
        name: NAME of the image.
        path: path of the image.
        own: header of the image on its own grid, whose pixels regions are drawn in.
        header: header on the working grid.
        side: side of a cell of the coarse picture, pixels of the working grid.
        halo: halo of a tile, pixels of the working grid.
        greatest: returns the greatest value that samples may have, from the cells of the coarse picture.
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
        """Number of cells that the halo spans, at least one."""
        return max(1, math.ceil(self.halo / self.side))


class Skip(Plugin, ABC):
    """Base of the skips."""

    model_config = ConfigDict(serialize_by_alias=True)

    skipped_as: Literal["none", "background"] = Field(
        default="none", alias="as", description="what skipped pixels become: no prediction, or background, which is class 0"
    )

    @abstractmethod
    def find(self, image: SkippedImage) -> dict[str, Any]:
        """Return the kept part of an image as plain JSON for :func:`open_kept`; empty: all is kept."""

    def problems(self, image: SkippedImage) -> Sequence[Problem]:
        """Return the problems of the files that the skip reads for an image, before any pixel is read."""
        del image
        return ()

    def identity(self, name: str, path: str) -> str:
        """Return what the result depends on besides image and options, such as the mtime of a file."""
        del name, path
        return ""


def open_kept(found: Mapping[str, Any], header: Header, open_raster: Callable[[str], Raster]) -> Kept:
    """Return the kept part that :meth:`Skip.find` described.

    Args:
        found: the JSON, not empty.
        header: header of the image on its working grid.
        open_raster: opens a file and keeps it open.
    """
    if "cells" in found:
        return CellMap.from_json(found)
    from pipeline.skips._regions import MaskFile, unpack_polygons

    return MaskFile(open_raster(found["mask"]), header, found["is_inside"]) if "mask" in found else unpack_polygons(found)


def picture_of(kept: Kept, shape: tuple[int, int], planes: int, most: int = 1024) -> NDArray[np.bool_]:
    """Return a small picture of the kept part: every n-th row and column, planes one below the other."""
    step = max(1, -(-max(shape) // most))
    rows = range(step // 2 if shape[0] > step // 2 else 0, shape[0], step)
    lines = [kept.of(Box(y, 0, y + 1, shape[1]), plane)[0, step // 2 :: step] for plane in range(planes) for y in rows]
    return np.stack(lines) if lines[0].size else np.ones((1, 1), np.bool_)
