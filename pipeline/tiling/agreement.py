"""Overlap agreement: how often two neighbouring tiles choose the same class for a pixel that both predict.

It is a measure of quality without truth: tiles that see enough context agree. It is counted along every border between two cores of
a block, over the halo on both sides of the border, where there is data::

    ┌─────────┬─────────┐
    │       ▒▒│▒▒       │   ▒ predicted by both tiles, kept from one
    │  core ▒▒│▒▒ core  │
    └─────────┴─────────┘
"""

from __future__ import annotations

from typing import Any

from pipeline.geometry import Box
from pipeline.tiling.array_ops import ArrayOps
from pipeline.tiling.grid import Tile

__all__ = ["Agreement"]


class Agreement:
    """Compares the tiles of one block, in any order.

    Attributes:
        box: the block's pixels; tiles of neighbouring blocks are not compared.
        equal: pixels on which both tiles agree; a number, or an array of one element.
        pixels: pixels that both tiles predict, likewise.
        valid_YX: where the block holds data; None: everywhere.
    """

    def __init__(self, box: Box, ops: ArrayOps, valid_YX: Any | None = None) -> None:
        self.box, self.ops, self.valid_YX = box, ops, valid_YX
        self.equal: Any = 0
        self.pixels: Any = 0
        self._waiting: dict[tuple[str, int, int], Any] = {}

    def add(self, tile: Tile, predicted: Box, inside: Box, classes_YX: Any) -> None:
        """Compare one tile, whose core lies in the block, with those of its neighbours that were added before.

        ``predicted`` are all pixels that the tile predicts, ``inside`` at least those of them that lie in the block; the classes
        of ``inside`` are held until the neighbours are added.
        """
        reach = tile.core.y0 - predicted.y0
        if reach <= 0:
            return
        core, box = tile.core, self.box
        for col, x in ((tile.col, core.x0), (tile.col + 1, core.x1)):
            if box.x0 < x < box.x1:
                self._compare(("x", tile.row, col), Box(core.y0, x - reach, core.y1, x + reach), inside, classes_YX)
        for row, y in ((tile.row, core.y0), (tile.row + 1, core.y1)):
            if box.y0 < y < box.y1:
                self._compare(("y", row, tile.col), Box(y - reach, core.x0, y + reach, core.x1), inside, classes_YX)

    def _compare(self, border: tuple[str, int, int], strip: Box, inside: Box, classes_YX: Any) -> None:
        """Hold the first tile's classes along a border, and compare the second tile's with them."""
        compared = strip.intersection(self.box)
        assert compared is not None
        second_YX = classes_YX[compared.relative_to(inside).slices]
        first_YX = self._waiting.pop(border, None)
        if first_YX is None:
            self._waiting[border] = second_YX
        elif self.valid_YX is None:
            self.pixels += compared.area
            self.equal += self.ops.count_equal(second_YX, first_YX)
        else:
            valid_YX = self.valid_YX[compared.relative_to(self.box).slices]
            self.pixels += self.ops.count_equal(valid_YX, True)
            self.equal += self.ops.count_equal((second_YX == first_YX) & valid_YX, True)
