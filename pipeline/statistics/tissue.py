"""Finds the empty areas of an image: glass, collars and padding. Statistics of colour images exclude them, so a crop and its slide agree.

Empty areas are found on a coarse picture, whose pixels are called cells, by fixed limits and the surroundings of a cell. A threshold
fitted to the image would depend on its share of glass, and would split an image of tissue alone::

    any image     areas of exactly 0, or of the greatest value of samples: collars and padding
    bright field  colour images of light that went through a specimen: bright, grey, even areas are glass, black ones are collars
    stained       bright field of a coloured specimen: each pixel by itself is judged as glass, black or content

Areas below :data:`LEAST_SIDE` squared are holes in the tissue, and count as content. Limits are shares of the greatest value of samples.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, reflect_index

__all__ = ["CellMap", "Content", "EmptyAreas", "cell_side", "content_of", "find_empty_areas"]

SMALLEST_CELL = 8  # pixels a side: about a nucleus at 0.5 um
MOST_CELLS = 10_000_000  # of an image; larger images get larger cells
LEAST_SIDE = 64  # of an empty area, pixels
EVEN = 4 / 255  # greatest difference of neighbouring glass cells: a cell averages the noise of camera and JPEG
GREY = 30 / 255  # greatest difference between the channels of glass; eosin, the palest stain, has a larger one
BRIGHT = 0.55  # least value of each channel of glass, for cells
CLEAR = 0.68  # the same for single pixels: stricter, as neighbours are not compared
BLACK = 0.1  # greatest value of each channel of a collar with noise
LIT = 0.2  # bright field: the brightest channel of four cells in five exceeds this; a dark background is below
THROUGH = 0.12  # bright field: the darkest channel of most cells exceeds this; colours on black are below
STAINED = 8 / 255  # stained tissue: the channels of most cells differ by more; grey images by less
LEAST_KEPT = 0.25  # cells next to empty areas are excluded only if at least this share of the content remains


def cell_side(shape: tuple[int, int]) -> int:
    """Return the side of a cell for an image of this shape, pixels of the working grid.

    Example:
        >>> cell_side((300, 500)), cell_side((100_000, 100_000))
        (8, 32)
    """
    side = SMALLEST_CELL
    while shape[0] * shape[1] > MOST_CELLS * side**2:
        side *= 2
    return side


@dataclass(frozen=True)
class CellMap:
    """Which pixels of an image count, cell by cell.

    Attributes:
        cells: (planes, Y, X), bool.
        side: side of a cell, pixels of the working grid.
        shape: height and width of the image, pixels.
    """

    cells: NDArray[np.bool_]
    side: int
    shape: tuple[int, int]

    def of(self, box: Box, plane: int) -> NDArray[np.bool_]:
        """Return which pixels of a box count (Y, X); outside the image the box is reflected."""
        rows, cols = self._index(box)
        return np.asarray(self.cells[plane][rows][:, cols])

    def has_any(self, box: Box, plane: int) -> bool:
        """Whether a pixel of a box inside the image counts."""
        rows, cols = self._index(box)
        return bool(self.cells[plane, rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].any())

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        text = base64.b64encode(zlib.compress(np.packbits(self.cells).tobytes(), 9)).decode("ascii")
        return {"cells": text, "grid": list(self.cells.shape), "side": self.side, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> CellMap:
        """Return what :meth:`to_json` packed."""
        height, width = found["shape"]
        return cls(_unpacked(found["cells"], *found["grid"]), found["side"], (height, width))

    def _index(self, box: Box) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the cell row of each pixel row, and the cell column of each pixel column; a remainder at an edge has the last cell."""
        rows, cols = reflect_index(box.y0, box.y1, self.shape[0]), reflect_index(box.x0, box.x1, self.shape[1])
        return np.minimum(rows // self.side, self.cells.shape[1] - 1), np.minimum(cols // self.side, self.cells.shape[2] - 1)


@dataclass(frozen=True)
class EmptyAreas:
    """The empty areas of a coarse picture.

    Attributes:
        padding_YX: cells of one value.
        glass_YX: cells of glass, and of collars with noise.
        is_stained: whether the image is bright field of stained tissue.
    """

    padding_YX: NDArray[np.bool_]
    glass_YX: NDArray[np.bool_]
    is_stained: bool

    @property
    def cells(self) -> NDArray[np.bool_]:
        """Every empty cell (Y, X)."""
        return self.padding_YX | self.glass_YX


def find_empty_areas(
    cells_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, *, side: int, is_color: bool, greatest: float
) -> EmptyAreas:
    """Find glass, collars and padding on a coarse picture.

    Args:
        cells_CYX: means of the pixels of each cell, in the type of the image.
        valid_YX: False where data are missing: such cells never count and are not called empty. None: data are everywhere.
        side: side of a cell, pixels.
        is_color: whether the channels are red, green and blue.
        greatest: greatest value that samples may have.

    Returns:
        No empty area if everything would be empty.
    """
    seen_YX = np.ones(cells_CYX.shape[1:], np.bool_) if valid_YX is None else valid_YX
    nothing = EmptyAreas(np.zeros_like(seen_YX), np.zeros_like(seen_YX), is_stained=False)
    least = max(4, (LEAST_SIDE // side) ** 2)
    padding_YX = np.zeros_like(seen_YX)
    for value in {0, greatest}:
        padding_YX |= _large(seen_YX & (cells_CYX == value).all(axis=0), least)
    found = EmptyAreas(padding_YX, nothing.glass_YX, is_stained=False)
    if is_color and len(cells_CYX) == 3 and greatest > 0:
        found = _bright_field(cells_CYX, seen_YX, found, greatest, least)
    return found if (seen_YX & ~found.cells).any() else nothing


def _bright_field(cells_CYX: NDArray[Any], seen_YX: NDArray[np.bool_], found: EmptyAreas, greatest: float, least: int) -> EmptyAreas:
    """Add the glass and the noisy collars of a colour image, if it is bright field."""
    from scipy import ndimage

    seen_YX = seen_YX & ~found.padding_YX
    high_YX, low_YX = cells_CYX.max(axis=0), cells_CYX.min(axis=0)
    is_grey_YX = high_YX - low_YX <= GREY * greatest
    even_YX = seen_YX.copy()
    for one_YX in cells_CYX:
        even_YX &= ndimage.maximum_filter(one_YX, 3) - ndimage.minimum_filter(one_YX, 3) <= EVEN * greatest
    black_YX = _large(seen_YX & (high_YX <= BLACK * greatest), least)
    glass_YX = _large(even_YX & is_grey_YX & (low_YX >= BRIGHT * greatest), least)
    lit_YX = seen_YX & ~_grown(found.padding_YX | black_YX, 2)
    if not lit_YX.any() or np.percentile(high_YX[lit_YX], 20) < LIT * greatest or np.median(low_YX[lit_YX]) < THROUGH * greatest:
        return found
    tissue_YX = lit_YX & ~_grown(glass_YX, 2) & ~(is_grey_YX & (low_YX >= CLEAR * greatest))
    is_stained = bool(tissue_YX.any()) and float(np.median((high_YX - low_YX)[tissue_YX])) >= STAINED * greatest
    return EmptyAreas(found.padding_YX, glass_YX | black_YX if is_stained else glass_YX, is_stained=is_stained)


@dataclass(frozen=True)
class Content:
    """The pixels that count for an image's statistics.

    Attributes:
        cells: cells with content; None: all.
        clear: for stained tissue three limits for pixels: least channel of glass, greatest channel difference of glass, greatest channel of
            black; None: pixels are not judged by themselves.
    """

    cells: CellMap | None = None
    clear: tuple[float, float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON; empty where every pixel counts."""
        found: dict[str, Any] = {} if self.clear is None else {"clear": list(self.clear)}
        return found if self.cells is None else {**found, **self.cells.to_json()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Content:
        """Return what :meth:`to_json` packed."""
        bright, grey, black = found.get("clear", (None, None, None))
        return cls(CellMap.from_json(found) if "cells" in found else None, None if bright is None else (bright, grey, black))

    def has_any(self, box: Box, plane: int) -> bool:
        """Whether a pixel of a box inside the image may count."""
        return self.cells is None or self.cells.has_any(box, plane)

    def counted(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box, plane: int) -> NDArray[np.bool_] | None:
        """Return the valid pixels of a box that count (Y, X); None: all."""
        masks = [] if valid_YX is None else [valid_YX]
        if self.cells is not None:
            masks.append(self.cells.of(box, plane))
        if self.clear is not None:
            bright, grey, black = self.clear
            high_YX, low_YX = pixels_CYX.max(axis=0), pixels_CYX.min(axis=0)
            masks.append(((low_YX < bright) | (high_YX - low_YX > grey)) & (high_YX > black))
        return np.logical_and.reduce(masks) if masks else None


@lru_cache(maxsize=16)
def _unpacked(text: str, *shape: int) -> NDArray[np.bool_]:
    """Unpack cells from text; cached because each block asks for them."""
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return np.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(np.bool_)


def content_of(areas: Sequence[EmptyAreas], *, side: int, shape: tuple[int, int], greatest: float) -> Content:
    """Return the content of an image whose planes have these empty areas.

    Cells next to an empty area may contain a part of it. They are excluded too, unless pixels are judged by themselves.
    """
    is_stained = 2 * sum(one.is_stained for one in areas) > len(areas)
    clear = (CLEAR * greatest, GREY * greatest, BLACK * greatest) if is_stained else None
    kept = [~one.cells for one in areas]
    inner = [~(_grown(one.padding_YX, 1) | _grown(one.glass_YX, 2)) for one in areas]
    if not is_stained and sum(one.sum() for one in inner) >= LEAST_KEPT * sum(one.sum() for one in kept):
        kept = inner
    cells_PYX = np.stack(kept)
    return Content(None if cells_PYX.all() else CellMap(cells_PYX, side, shape), clear)


def _grown(cells_YX: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    """Add the neighbours of each cell, corners included."""
    from scipy import ndimage

    return np.asarray(ndimage.binary_dilation(cells_YX, np.ones((3, 3), np.bool_), times), np.bool_)


def _large(cells_YX: NDArray[np.bool_], least: int) -> NDArray[np.bool_]:
    """Keep connected areas of at least ``least`` cells."""
    from scipy import ndimage

    labels_YX, _ = ndimage.label(cells_YX)
    sizes = np.bincount(labels_YX.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= least)[labels_YX], np.bool_)
