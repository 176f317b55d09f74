"""Blending neighbouring tiles where they overlap, and nowhere else.

Along each axis the pixels fall into spans that the same tiles reach. Where one span of rows meets one of columns is a
cell: alone (one tile, weight 1) or shared. A shared cell's sum is held from its first tile to its last and then let
go; tiles come row by row, so that sums of one row of tiles are held at most::

      ┌───────────────┬───┬────
      │     alone     │ s │       s  shared by two tiles
      ├───────────────┼───┼────   S  shared by four
      │       s       │ S │
      ├───────────────┼───┼────
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.geometry import Box
from pipeline.grid import Grid, Tile
from pipeline.place import Place

__all__ = ["Blend", "Span", "spans"]


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring pixels of one axis, ``start <= pixel < stop``, that the tiles ``first..last`` reach."""

    start: int
    stop: int
    first: int
    last: int


def spans(core: int, halo: int, count: int, start: int, stop: int) -> Iterator[Span]:
    """Cut a range of an axis where a tile begins or ends; all of them reach ``halo`` beyond their core.

    Args:
        core: side of a full core, pixels.
        halo: what a tile predicts beyond its core, pixels.
        count: number of tiles along the axis.
        start: first pixel, inside the image.
        stop: end of the range, inside the image.

    Example:
        >>> [(span.start, span.stop, span.first, span.last) for span in spans(10, 2, 3, 0, 25)]
        [(0, 8, 0, 0), (8, 12, 0, 1), (12, 18, 1, 1), (18, 22, 1, 2), (22, 25, 2, 2)]
    """
    while start < stop:
        first, last = max((start - halo) // core, 0), min((start + halo) // core, count - 1)
        end = stop if last == count - 1 else min(stop, (last + 1) * core - halo)  # the next tile begins
        if first < last:
            end = min(end, (first + 1) * core + halo)  # the first tile ends
        yield Span(start, end, first, last)
        start = end


class Blend:
    """Adds up the weighted scores of the tiles that reach into a block.

    Each pixel adds its tiles in their order over the image, so its sum is the same whatever the block.

    Args:
        box: the block's pixels.
        grid: the cut of the image.
        kind: ``linear`` or ``gaussian``.
        place: where the scores are.
    """

    def __init__(self, box: Box, grid: Grid, kind: str, place: Place) -> None:
        self.box, self.grid, self.kind, self.place = box, grid, kind, place
        self._sums: dict[tuple[int, int], Any] = {}  # by first pixel

    def add(self, tile: Tile, seen: Box, shared: Box, scores_KYX: Any) -> Iterator[tuple[Box, Any, bool]]:
        """Take one tile, and give the cells that it completes.

        Args:
            tile: the next one, row by row.
            seen: all pixels that the tile predicts.
            shared: those of them that are in the block, at least one.
            scores_KYX: of ``shared``.

        Yields:
            A cell's pixels, its scores (K, Y, X), and whether they are this tile's alone.
        """
        halo, grid, rows, cols = tile.core.y0 - seen.y0, self.grid, *self.grid.num_cores
        weight_Y, weight_X = self._weights(halo, tile.row, rows), self._weights(halo, tile.col, cols)
        across = list(spans(grid.core, halo, cols, shared.x0, shared.x1))
        for down in spans(grid.core, halo, rows, shared.y0, shared.y1):
            for over in across:
                cell = Box(down.start, over.start, down.stop, over.stop)
                part_KYX = scores_KYX[(slice(None), *cell.within(shared).slices)]
                first, last = (down.first, over.first), (down.last, over.last)
                if first == last:
                    yield cell, part_KYX, True
                    continue
                here_Y, here_X = cell.within(seen).slices
                sum_KYX = self.place.weigh(part_KYX, weight_Y[here_Y], weight_X[here_X])
                if first != (tile.row, tile.col):
                    sum_KYX += self._sums.pop((cell.y0, cell.x0))
                if last == (tile.row, tile.col):
                    yield cell, sum_KYX, False
                else:
                    self._sums[cell.y0, cell.x0] = sum_KYX

    def _weights(self, halo: int, index: int, count: int) -> Any:
        """The weights of a tile along an axis; those far from both ends of it are the same numbers, made once."""
        reach = -(-2 * halo // self.grid.core)
        before, after = min(index, reach), min(count - 1 - index, reach)
        return self.place.weights(self.kind, self.grid.core, halo, before, before + 1 + after)
