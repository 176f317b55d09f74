"""Blending neighbouring tiles where they overlap, and nowhere else.

Along each axis the pixels fall into spans that the same tiles reach. Where one span of rows meets one of columns is a
cell: alone (one tile, weight 1) or shared. The weighted scores of a shared cell are held until its last tile has come,
then added in the tiles' order over the image: a sum is the same whatever comes first, and however blocks are cut::

      ┌───────────────┬───┬────
      │     alone     │ s │       s  shared by two tiles
      ├───────────────┼───┼────   S  shared by four
      │       s       │ S │
      ├───────────────┼───┼────

What tiles of several blocks share is a seam: each of the blocks has a part of its scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.tiling.array_ops import ArrayOps
from pipeline.tiling.grid import Grid, Tile
from pipeline.tiling.stitching import axis_weights

__all__ = ["AxisSpan", "Blender", "OverlapRegion", "axis_spans", "num_seam_shares", "overlap_regions", "sum_shares", "tile_weights"]


@dataclass(frozen=True, slots=True)
class AxisSpan:
    """Neighbouring pixels of one axis and one block, ``start <= pixel < stop``, that the tiles ``first..last`` reach."""

    start: int
    stop: int
    first: int
    last: int


def axis_spans(core: int, reach: int, block: int, count: int, start: int, stop: int) -> Iterator[AxisSpan]:
    """Cut a range of an axis where a block or what a tile predicts begins or ends.

    Args:
        core: side of a full core, pixels.
        reach: what a tile predicts beyond its core, pixels.
        block: side of a full block, pixels.
        count: number of tiles along the axis.
        start: first pixel, inside the image.
        stop: end of the range, inside the image.

    Example:
        >>> [(span.start, span.stop, span.first, span.last) for span in axis_spans(10, 2, 20, 3, 0, 25)]
        [(0, 8, 0, 0), (8, 12, 0, 1), (12, 18, 1, 1), (18, 20, 1, 2), (20, 22, 1, 2), (22, 25, 2, 2)]
    """
    while start < stop:
        first, last = max((start - reach) // core, 0), min((start + reach) // core, count - 1)
        end = min(stop, (start // block + 1) * block)
        if last < count - 1:
            end = min(end, (last + 1) * core - reach)  # the next tile begins
        if first < last:
            end = min(end, (first + 1) * core + reach)  # the first tile ends
        yield AxisSpan(start, end, first, last)
        start = end


@dataclass(frozen=True, slots=True)
class OverlapRegion:
    """Pixels of one block that the same tiles predict.

    Attributes:
        box: the pixels.
        tiles: row and column of each tile, in their order over the image.
    """

    box: Box
    tiles: tuple[tuple[int, int], ...]


def overlap_regions(grid: Grid, reach: int, box: Box) -> Iterator[OverlapRegion]:
    """Cut pixels of the image into cells, row by row; ``reach`` is what a tile predicts beyond its core, pixels."""
    rows, cols = grid.num_cores
    across = list(axis_spans(grid.core, reach, grid.block, cols, box.x0, box.x1))
    for down in axis_spans(grid.core, reach, grid.block, rows, box.y0, box.y1):
        for over in across:
            tiles = ((row, col) for row in range(down.first, down.last + 1) for col in range(over.first, over.last + 1))
            yield OverlapRegion(Box(down.start, over.start, down.stop, over.stop), tuple(tiles))


def num_seam_shares(grid: Grid, reach: int) -> int:
    """How many weighted scores of a class wait for other blocks: one for each tile at each pixel of a seam."""
    everywhere, inside, cores = 1, 1, grid.block // grid.core
    for count, side in zip(grid.num_cores, grid.shape, strict=True):
        found = list(axis_spans(grid.core, reach, grid.block, count, 0, side))
        shares = [(span.stop - span.start) * (span.last - span.first + 1) for span in found]
        everywhere *= sum(shares)
        inside *= sum(some for span, some in zip(found, shares, strict=True) if span.first // cores == span.last // cores)
    return everywhere - inside


def sum_shares(shares: Mapping[tuple[int, int], Any]) -> Any:
    """Add up the weighted scores of a cell, given by tile; one of the arrays becomes the sum."""
    sum_KYX, *rest = (shares[tile] for tile in sorted(shares))
    for share_KYX in rest:
        sum_KYX += share_KYX
    return sum_KYX


def tile_weights(grid: Grid, kind: str, reach: int, tile: tuple[int, int], box: Box) -> NDArray[np.float32]:
    """The weight (Y, X) of the tile at a row and column, at pixels that it predicts; those of all tiles sum to one."""
    axes = zip(tile, grid.num_cores, (box.y0, box.x0), box.shape, strict=True)
    along_Y, along_X = (
        axis_weights(kind, grid.core, reach, at, count)[first - at * grid.core + reach :][:side] for at, count, first, side in axes
    )
    return along_Y[:, None] * along_X


class Blender:
    """Takes tiles in any order, and gives the cells that are complete.

    Args:
        grid: the cut of the image.
        kind: ``linear`` or ``gaussian``.
        ops: where the scores are.

    Attributes:
        shares: weighted scores of cells that are not complete, float32 (K, Y, X), by tile; after the last tile: the seams.
        reach: what a tile predicts beyond its core, pixels.
    """

    def __init__(self, grid: Grid, kind: str, ops: ArrayOps) -> None:
        self.grid, self.kind, self.ops = grid, kind, ops
        self.shares: dict[OverlapRegion, dict[tuple[int, int], Any]] = {}
        self.reach = 0

    def add(self, tile: Tile, seen: Box, shared: Box, scores_KYX: Any) -> Iterator[tuple[Box, Any, bool]]:
        """Take one tile, and give the cells that it completes.

        Args:
            tile: of the grid.
            seen: all pixels that it predicts.
            shared: those of them that are in the image.
            scores_KYX: of ``shared``.

        Yields:
            A cell's pixels, its scores (K, Y, X), and whether they are this tile's alone.
        """
        self.reach, (rows, cols) = tile.core.y0 - seen.y0, self.grid.num_cores
        weight_Y, weight_X = self._weights(tile.row, rows), self._weights(tile.col, cols)
        for cell in overlap_regions(self.grid, self.reach, shared):
            part_KYX = scores_KYX[(slice(None), *cell.box.within(shared).slices)]
            if len(cell.tiles) == 1:
                yield cell.box, part_KYX, True
                continue
            here_Y, here_X = cell.box.within(seen).slices
            shares = self.shares.setdefault(cell, {})
            shares[tile.row, tile.col] = self.ops.weigh(part_KYX, weight_Y[here_Y], weight_X[here_X])
            if len(shares) == len(cell.tiles):
                yield cell.box, sum_shares(self.shares.pop(cell)), False

    def _weights(self, index: int, count: int) -> Any:
        """The weights of a tile along an axis; those far from both ends of it are the same numbers, made once."""
        near = -(-2 * self.reach // self.grid.core)
        before, after = min(index, near), min(count - 1 - index, near)
        return self.ops.axis_weights(self.kind, self.grid.core, self.reach, before, before + 1 + after)
