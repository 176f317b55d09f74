"""Overlap agreement: how often two neighbouring tiles say the same of a pixel that both predict.

A quality that needs no truth: tiles that see enough context agree. Counted along every border between two cores of
a block, over the halo on both sides of it::

    ┌─────────┬─────────┐
    │       ▒▒│▒▒       │   ▒ predicted by both tiles, kept from one
    │  core ▒▒│▒▒ core  │
    └─────────┴─────────┘
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import stitch
from pipeline.geometry import Box
from pipeline.grid import Tile

__all__ = ["Agreement"]

Border = tuple[str, int, int]


class Agreement:
    """Compares the tiles of one block as they come.

    Args:
        box: the block's pixels; what neighbouring blocks predict is not looked at.

    Attributes:
        equal: pixels on which both tiles agree.
        pixels: pixels that both tiles predict.
    """

    def __init__(self, box: Box) -> None:
        self.box = box
        self.equal = self.pixels = 0
        self._waiting: dict[Border, NDArray[Any]] = {}

    def add(self, tile: Tile, seen: Box, scores: NDArray[Any]) -> None:
        """Take the prediction of one tile.

        Args:
            tile: of the grid; one whose core lies outside the block is left out.
            seen: the pixels that ``scores`` are of.
            scores: logits (K, Y, X), or classes (Y, X).
        """
        reach = tile.core.y0 - seen.y0
        if reach <= 0 or not self.box.contains(tile.core):
            return
        core, box = tile.core, self.box
        for col, x in ((tile.col, core.x0), (tile.col + 1, core.x1)):
            if box.x0 < x < box.x1:
                self._meet(("x", tile.row, col), Box(core.y0, x - reach, core.y1, x + reach), seen, scores)
        for row, y in ((tile.row, core.y0), (tile.row + 1, core.y1)):
            if box.y0 < y < box.y1:
                self._meet(("y", row, tile.col), Box(y - reach, core.x0, y + reach, core.x1), seen, scores)

    def _meet(self, border: Border, strip: Box, seen: Box, scores: NDArray[Any]) -> None:
        """Keep the first tile's classes of a strip until the second one comes."""
        inside = Box(max(strip.y0, self.box.y0), max(strip.x0, self.box.x0), min(strip.y1, self.box.y1), min(strip.x1, self.box.x1))
        classes_YX = _classes(scores[(..., *inside.within(seen).slices)])
        other_YX = self._waiting.pop(border, None)
        if other_YX is None:
            self._waiting[border] = classes_YX.copy()
        else:
            self.pixels += classes_YX.size
            self.equal += int(np.count_nonzero(classes_YX == other_YX))


def _classes(scores: NDArray[Any]) -> NDArray[Any]:
    if scores.ndim == 2:
        return scores
    classes_YX = np.empty(scores.shape[1:], np.uint16)
    stitch.argmax(scores, classes_YX)
    return classes_YX
