"""How an image is cut: cores, tiles and blocks. Integers only.

::

      block (= one output shard)         one tile
    ┌────────┬────────┐ ─ ─ ─ ─      ┌──────────────┐ outer: what the model sees
    │  core  │  core  │        :     │  ┌────────┐  │
    │        │        │  next  :     │  │  core  │  │ core: what is written from this tile
    ├────────┼────────┤  block :     │  │        │  │
    │  core  │  core  │        :     │  └────────┘  │ halo: read, never written
    └────────┴────────┘ ─ ─ ─ ─      └──────────────┘

Cores partition the image, and blocks are whole cores, so every pixel has one owner and every shard has one writer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.geometry import Box, ceil_to

__all__ = ["Grid", "Tile"]


@dataclass(frozen=True, slots=True)
class Tile:
    """What the model sees at once.

    Attributes:
        row: in the grid of cores.
        col: in the grid of cores.
        core: the pixels that are written from this tile, inside the image.
        outer: core and halo, sides in multiples of the stride; it may leave the image, where pixels are reflected.
    """

    row: int
    col: int
    core: Box
    outer: Box


@dataclass(frozen=True, slots=True)
class Grid:
    """How one image is cut.

    Attributes:
        shape: height and width of the image, at least 1x1, pixels.
        core: side of a full core, a multiple of ``stride``, pixels.
        halo: context on every side, a multiple of ``stride``, pixels.
        block: side of a full block, a multiple of ``core``, pixels.
        stride: the model's total stride; every tile origin and every outer side is a multiple of it.
        full: whether every outer has the side ``core + 2 * halo``, also at the image's edge, for models that take one size only.

    Example:
        >>> grid = Grid((100, 70), core=32, halo=8, block=64, stride=8)
        >>> [box.shape for box in grid.blocks()]
        [(64, 64), (64, 6), (36, 64), (36, 6)]
        >>> last = list(grid.tiles(Box(64, 64, 100, 70)))[-1]
        >>> last.core, last.outer.shape
        (Box(y0=96, x0=64, y1=100, x1=70), (24, 24))
    """

    shape: tuple[int, int]
    core: int
    halo: int
    block: int
    stride: int = 1
    full: bool = False

    def __post_init__(self) -> None:
        """Check the sides.

        Raises:
            ValueError: a side is not positive, or not a multiple of what it must be.
        """
        if min(*self.shape, self.core, self.block, self.stride) < 1 or self.halo < 0:
            raise ValueError(f"{self}: sides must be positive")
        if self.core % self.stride or self.halo % self.stride or self.block % self.core:
            raise ValueError(f"{self}: core and halo must be multiples of stride, block of core")

    @property
    def num_blocks(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-self.shape[0] // self.block), -(-self.shape[1] // self.block)

    @property
    def num_cores(self) -> tuple[int, int]:
        """Rows and columns of cores."""
        return -(-self.shape[0] // self.core), -(-self.shape[1] // self.core)

    def blocks(self) -> Iterator[Box]:
        """Yield the pixels of every block, row by row; together they hold every pixel once."""
        rows, cols = self.num_blocks
        return (self.block_box(row, col) for row in range(rows) for col in range(cols))

    def block_box(self, row: int, col: int) -> Box:
        """Return the pixels of one block, clipped to the image."""
        y0, x0 = row * self.block, col * self.block
        return Box(y0, x0, min(y0 + self.block, self.shape[0]), min(x0 + self.block, self.shape[1]))

    def tiles(self, box: Box) -> Iterator[Tile]:
        """Yield the tiles whose cores make up a block, row by row."""
        rows, cols = range(box.y0 // self.core, -(-box.y1 // self.core)), range(box.x0 // self.core, -(-box.x1 // self.core))
        return (self._tile(row, col) for row in rows for col in cols)

    def _tile(self, row: int, col: int) -> Tile:
        y0, x0 = row * self.core, col * self.core
        core = Box(y0, x0, y0 + self.core, x0 + self.core).clip(self.shape)
        height, width = (self.core if self.full else ceil_to(side, self.stride) for side in core.shape)
        return Tile(row, col, core, Box(y0, x0, y0 + height, x0 + width).grow(self.halo))
