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

from pipeline.geometry import Box
from pipeline.tiling.array_ops import ArrayOps
from pipeline.tiling.grid import Tile

__all__ = ["Agreement"]

Border = tuple[str, int, int]


class Agreement:
    """Compares the tiles of one block as they come.

    Args:
        box: the block's pixels; what neighbouring blocks predict is not looked at.
        ops: where the classes are.

    Attributes:
        equal: pixels on which both tiles agree; may be an array of one element.
        pixels: pixels that both tiles predict.
    """

    def __init__(self, box: Box, ops: ArrayOps) -> None:
        self.box, self.ops = box, ops
        self.equal: Any = 0
        self.pixels = 0
        self._waiting: dict[Border, Any] = {}

    def add(self, tile: Tile, seen: Box, shared: Box, classes_YX: Any) -> None:
        """Take the prediction of one tile.

        Args:
            tile: of the grid; its core lies in the block.
            seen: all pixels that it predicts.
            shared: those of them that are in the block, at least.
            classes_YX: of ``shared``; kept until the neighbours come.
        """
        reach = tile.core.y0 - seen.y0
        if reach <= 0:
            return
        core, box = tile.core, self.box
        for col, x in ((tile.col, core.x0), (tile.col + 1, core.x1)):
            if box.x0 < x < box.x1:
                self._meet(("x", tile.row, col), Box(core.y0, x - reach, core.y1, x + reach), shared, classes_YX)
        for row, y in ((tile.row, core.y0), (tile.row + 1, core.y1)):
            if box.y0 < y < box.y1:
                self._meet(("y", row, tile.col), Box(y - reach, core.x0, y + reach, core.x1), shared, classes_YX)

    def _meet(self, border: Border, strip: Box, shared: Box, classes_YX: Any) -> None:
        """Keep the first tile's classes of a strip until the second one comes."""
        inside = strip.meet(self.box)
        assert inside is not None
        strip_YX = classes_YX[inside.within(shared).slices]
        other_YX = self._waiting.pop(border, None)
        if other_YX is None:
            self._waiting[border] = strip_YX
        else:
            self.pixels += inside.area
            self.equal += self.ops.count_equal(strip_YX, other_YX)
