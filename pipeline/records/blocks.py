"""The blocks of one phase of one image, made when they are asked for: a million of them need no memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.inputs import Image
from pipeline.records.receipts import Block, place_of
from pipeline.tiling import Grid

__all__ = ["Blocks"]


@dataclass(frozen=True, eq=False)
class Blocks(Sequence[Block]):
    """The blocks of one phase of one image in the plan's order: plane by plane, row by row.

    Attributes:
        chosen: their places among all blocks of the image, rising; None: all blocks.
    """

    phase: str
    image: Image
    grid: Grid
    key: str
    chosen: NDArray[np.int32] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Planes, rows and columns of all blocks of the image."""
        return (self.image.header.num_planes, *self.grid.num_blocks)

    @property
    def area(self) -> int:
        """Pixels of all blocks together."""
        if self.chosen is not None:
            return sum(block.box.area for block in self)
        return self.image.header.num_planes * self.grid.shape[0] * self.grid.shape[1]

    def __len__(self) -> int:
        """Number of blocks."""
        planes, rows, cols = self.shape
        return planes * rows * cols if self.chosen is None else len(self.chosen)

    def __getitem__(self, index: int) -> Block:  # type: ignore[override]  # nobody asks for a slice
        """Return the block at an index."""
        plane, row, col = self._position(index)
        return Block(self.phase, self.image, plane, row, col, self.grid.block_box(row, col), self.key)

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks in the plan's order: a run goes over all of them several times."""
        fit: Mapping[str, Any] = {}
        for plane, row, col in self._positions():
            yield Block(self.phase, self.image, plane, row, col, self.grid.block_box(row, col), self.key, fit)

    def id_of(self, index: int) -> str:
        """Return the id of the block at an index, without making the block."""
        plane, row, col = self._position(index)
        return f"{self.image.name}:{plane}.{row}.{col}"

    def index_of(self, block_id: str) -> int | None:
        """Return the index of a block; None where it is not among these."""
        place = place_of(block_id, self.shape)
        return None if place is None else self._index(place)

    def sorted_by_id(self) -> Iterator[int]:
        """Yield the indices in the order of the ids, as texts are sorted."""
        planes, num_rows, num_cols = self.shape
        rows = ((plane * num_rows + row) * num_cols for plane in _sorted_as_texts(planes) for row in _sorted_as_texts(num_rows))
        for place in (row + col for row in rows for col in _sorted_as_texts(num_cols)):
            if (index := self._index(place)) is not None:
                yield index

    def _index(self, place: int) -> int | None:
        """Return the index of the block at a place among all blocks."""
        if self.chosen is None:
            return place
        index = int(np.searchsorted(self.chosen, place))
        return index if index < len(self.chosen) and self.chosen[index] == place else None

    def _position(self, index: int) -> tuple[int, int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = index if self.chosen is None else int(self.chosen[index])
        _, rows, cols = self.shape
        return place // (rows * cols), place // cols % rows, place % cols

    def _positions(self) -> Iterator[tuple[int, int, int]]:
        planes, rows, cols = self.shape
        if self.chosen is not None:
            yield from map(self._position, range(len(self)))
            return
        yield from ((plane, row, col) for plane in range(planes) for row in range(rows) for col in range(cols))


def _sorted_as_texts(number: int) -> Iterator[int]:
    """Yield the integers below a number in the order of their texts, without holding them: 0, 1, 10, 100, 11, 2."""
    yield 0
    one = 1
    for _ in range(1, number):
        yield one
        if one * 10 < number:
            one *= 10
            continue
        while one % 10 == 9 or one + 1 >= number:
            one //= 10
        one += 1
