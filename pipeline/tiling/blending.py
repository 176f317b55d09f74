"""Blending neighbouring tiles where they overlap, and nowhere else.

Along each axis, the pixels that the same tiles reach form a span. A span of rows and a span of columns meet in an overlap region:
one tile predicts it alone (weight 1), or several tiles share it. A tile's share is its weighted scores. The shares of a region are
held until its last tile is added, then summed in the order of the tiles in the image. So neither the order in which tiles are
predicted nor the cut into blocks changes a sum::

      ┌───────────────┬───┬────
      │     alone     │ s │       s  shared by two tiles
      ├───────────────┼───┼────   S  shared by four tiles
      │       s       │ S │
      ├───────────────┼───┼────

A region that tiles of several blocks share is a seam: each of these blocks computes some of its shares.
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
    """Neighbouring pixels ``start <= pixel < stop`` of one axis and one block that the tiles ``first..last`` reach."""

    start: int
    stop: int
    first: int
    last: int


def axis_spans(core: int, reach: int, block: int, count: int, start: int, stop: int) -> Iterator[AxisSpan]:
    """Cut a range of an axis wherever a block or a tile's prediction begins or ends.

    Args:
        core: side of a full core, pixels.
        reach: how far a tile predicts beyond its core, pixels.
        block: side of a full block, pixels.
        count: number of tiles along the axis.
        start: first pixel of the range, inside the image.
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
    """A rectangle of one block whose pixels the same tiles predict.

    The tiles are given by row and column, in their order in the image.
    """

    box: Box
    tiles: tuple[tuple[int, int], ...]


def overlap_regions(grid: Grid, reach: int, box: Box) -> Iterator[OverlapRegion]:
    """Cut a box of the image into overlap regions, row by row; a tile predicts ``reach`` pixels beyond its core."""
    rows, cols = grid.num_cores
    spans_X = list(axis_spans(grid.core, reach, grid.block, cols, box.x0, box.x1))
    for span_Y in axis_spans(grid.core, reach, grid.block, rows, box.y0, box.y1):
        for span_X in spans_X:
            tiles = ((row, col) for row in range(span_Y.first, span_Y.last + 1) for col in range(span_X.first, span_X.last + 1))
            yield OverlapRegion(Box(span_Y.start, span_X.start, span_Y.stop, span_X.stop), tuple(tiles))


def num_seam_shares(grid: Grid, reach: int) -> int:
    """Count the weighted scores of one class that lie on the seams of an image: one for each tile at each pixel of a seam."""
    everywhere, inside, cores = 1, 1, grid.block // grid.core
    for count, side in zip(grid.num_cores, grid.shape, strict=True):
        spans = list(axis_spans(grid.core, reach, grid.block, count, 0, side))
        shares = [(span.stop - span.start) * (span.last - span.first + 1) for span in spans]
        everywhere *= sum(shares)
        inside *= sum(share for span, share in zip(spans, shares, strict=True) if span.first // cores == span.last // cores)
    return everywhere - inside


def sum_shares(shares: Mapping[tuple[int, int], Any]) -> Any:
    """Sum the shares (K, Y, X) of an overlap region, given by the tile's row and column; one of the arrays becomes the sum."""
    sum_KYX, *rest = (shares[tile] for tile in sorted(shares))
    for share_KYX in rest:
        sum_KYX += share_KYX
    return sum_KYX


def tile_weights(grid: Grid, kind: str, reach: int, tile: tuple[int, int], box: Box) -> NDArray[np.float32]:
    """Return the weights (Y, X) of the tile at a row and column for pixels that it predicts; those of all tiles sum to one."""
    axes = zip(tile, grid.num_cores, (box.y0, box.x0), box.shape, strict=True)
    along_Y, along_X = (
        axis_weights(kind, grid.core, reach, at, count)[first - at * grid.core + reach :][:side] for at, count, first, side in axes
    )
    return along_Y[:, None] * along_X


class Blender:
    """Blends the tiles of one block, in any order, ``linear`` or ``gaussian``, and yields each overlap region once it is complete.

    Attributes:
        shares: of the regions that are not complete, float32 (K, Y, X), by tile; after the block's last tile: those of its seams.
        reach: how far a tile predicts beyond its core, pixels.
    """

    def __init__(self, grid: Grid, kind: str, ops: ArrayOps) -> None:
        self.grid, self.kind, self.ops = grid, kind, ops
        self.shares: dict[OverlapRegion, dict[tuple[int, int], Any]] = {}
        self.reach = 0

    def add(self, tile: Tile, predicted: Box, inside: Box, scores_KYX: Any) -> Iterator[tuple[Box, Any, bool]]:
        """Add one tile, which predicts the pixels ``predicted``, and its scores ``inside`` the image.

        Yields:
            For each overlap region that is now complete: its pixels, its scores (K, Y, X), and whether this tile alone predicts it.
        """
        self.reach, (rows, cols) = tile.core.y0 - predicted.y0, self.grid.num_cores
        weight_Y, weight_X = self._weights(tile.row, rows), self._weights(tile.col, cols)
        for region in overlap_regions(self.grid, self.reach, inside):
            region_KYX = scores_KYX[(slice(None), *region.box.relative_to(inside).slices)]
            if len(region.tiles) == 1:
                yield region.box, region_KYX, True
                continue
            at_Y, at_X = region.box.relative_to(predicted).slices
            shares = self.shares.setdefault(region, {})
            shares[tile.row, tile.col] = self.ops.weigh(region_KYX, weight_Y[at_Y], weight_X[at_X])
            if len(shares) == len(region.tiles):
                yield region.box, sum_shares(self.shares.pop(region)), False

    def _weights(self, index: int, count: int) -> Any:
        """The weights of a tile along an axis. Tiles far from both ends have the same weights, which are computed once."""
        near = -(-2 * self.reach // self.grid.core)
        before, after = min(index, near), min(count - 1 - index, near)
        return self.ops.axis_weights(self.kind, self.grid.core, self.reach, before, before + 1 + after)
