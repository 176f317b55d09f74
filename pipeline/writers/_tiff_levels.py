"""The levels of a tiled, pyramidal TIFF, streamed: level 0 is read once, in rows of tiles.

The smaller levels are computed in the same pass. A TIFF stores one level after the other, so their tiles wait, compressed, in a
spool: a temporary file without a name, which goes to disk only when it has grown::

    level 0  ████████ row of tiles ──▶ file
    level 1  ████ ─ half of it, until a row of tiles is full ──▶ spool ──▶ file, after level 0
    level 2  ██ ─ half of that ─── ...                       ──▶ spool ──▶ file, after level 1

So memory holds less than one row of tiles, whatever the height of the image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, ceil_to
from pipeline.raster import Raster
from pipeline.writers._pyramid import Halve, halved, shapes

if TYPE_CHECKING:
    import tifffile

__all__ = ["SPAN", "SPOOL_BYTES", "TILE", "cut", "encoder", "write_levels"]

TILE = 512
SPAN = 8 * TILE  # pixels read at once along a row: few wide reads are faster than many narrow ones
SPOOL_BYTES = 16 << 20  # compressed tiles of one level kept in memory before they go to disk

Encode = Callable[[NDArray[Any]], bytes]


def write_levels(
    file: tifffile.TiffWriter,
    mask: Raster,
    dtype: str,
    folder: Path,
    *,
    compression: str,
    halve: Halve | None,
    first_page: Mapping[str, Any],
    every_page: Callable[[int], Mapping[str, Any]],
    stack: tuple[int, ...] = (),
    in_subifds: bool = False,
    largest: int = 2 * TILE - 1,
) -> None:
    """Write a mask and its smaller levels.

    Args:
        file: an open writer.
        mask: one channel.
        dtype: of the pixels written.
        folder: on the disk where the spools may lie.
        compression: deflate, lzw, zstd or none.
        halve: how each level is made from the one before; None: there is only level 0.
        first_page: options of ``TiffWriter.write`` for level 0.
        every_page: returns the options of a level.
        stack: lengths of the stack axes.
        in_subifds: whether the smaller levels lie in SubIFDs of level 0.
        largest: longest side that the smallest level may have, pixels.
    """
    shape = mask.header.shape
    tile = min(TILE, ceil_to(shape[0], 16)), min(TILE, ceil_to(shape[1], 16))
    encode = encoder(compression)
    options: dict[str, Any] = {"dtype": dtype, "tile": tile, "compression": {"deflate": "zlib", "none": None}.get(compression, compression)}
    with ExitStack() as spools:
        reduced: list[_Reduced] = []
        for smaller in reversed(shapes(shape, largest)[1:] if halve else []):
            spool = spools.enter_context(tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(folder)))
            rows_YX = np.empty((tile[0], smaller[1]), dtype)
            assert halve is not None
            reduced.insert(0, _Reduced(smaller, rows_YX, tile, encode, halve, spool, reduced[0] if reduced else None))
        subifds = len(reduced) if in_subifds else 0
        tiles = _level0(mask, np.dtype(dtype), tile, encode, halve, reduced[0] if reduced else None)
        file.write(tiles, shape=stack + shape, subifds=subifds, **first_page, **options, **every_page(0))
        for number, level in enumerate(reduced, 1):
            file.write(level.tiles(), shape=stack + level.shape, metadata=None, subfiletype=1, **options, **every_page(number))


def _level0(
    mask: Raster, dtype: np.dtype[Any], tile: tuple[int, int], encode: Encode, halve: Halve | None, below: _Reduced | None
) -> Iterator[bytes]:
    """Yield the compressed tiles of every plane, row by row, and give what was read to the level below."""
    height, width = mask.header.shape
    for plane in range(mask.header.num_planes):
        for y in range(0, height, tile[0]):
            for x in range(0, width, SPAN):
                box = Box(y, x, y + tile[0], x + SPAN).clip((height, width))
                rows_YX = mask.read(box, plane)[0].astype(dtype, copy=False)
                if below and halve:  # before the tiles, because nobody asks for more after the last one
                    below.put(x // 2, halve(rows_YX))
                    if box.x1 == width:
                        below.advance(halved(box.shape)[0])
                yield from map(encode, cut(rows_YX, tile))


class _Reduced:
    """One smaller level: collects a row of tiles from the level above, compresses it, halves it for the level below."""

    def __init__(
        self,
        shape: tuple[int, int],
        rows_YX: NDArray[Any],
        tile: tuple[int, int],
        encode: Encode,
        halve: Halve,
        spool: IO[bytes],
        below: _Reduced | None,
    ) -> None:
        self.shape, self.tile, self.encode, self.halve, self.below = shape, tile, encode, halve, below
        self.rows_YX = rows_YX  # one row of tiles
        self.num_rows = 0  # of rows_YX that are filled
        self.num_done = 0  # rows of this plane that are compressed
        self.spool = spool
        self.sizes: list[int] = []

    def put(self, x: int, part_YX: NDArray[Any]) -> None:
        """Take some columns of the rows that are being collected."""
        self.rows_YX[self.num_rows : self.num_rows + part_YX.shape[0], x : x + part_YX.shape[1]] = part_YX

    def advance(self, num_rows: int) -> None:
        """Count rows as complete, in every column, and compress them when they fill a row of tiles."""
        self.num_rows += num_rows
        if self.num_rows < self.tile[0] and self.num_done + self.num_rows < self.shape[0]:
            return
        rows_YX = self.rows_YX[: self.num_rows]
        self.sizes += [self.spool.write(self.encode(part_YX)) for part_YX in cut(rows_YX, self.tile)]
        self.num_done = (self.num_done + self.num_rows) % self.shape[0]
        self.num_rows = 0
        if self.below:
            self.below.put(0, self.halve(rows_YX))
            self.below.advance(halved(rows_YX.shape)[0])

    def tiles(self) -> Iterator[bytes]:
        """Yield the compressed tiles in order."""
        self.spool.seek(0)
        yield from map(self.spool.read, self.sizes)


def cut(rows_YX: NDArray[Any], tile: tuple[int, int]) -> Iterator[NDArray[Any]]:
    """Yield the tiles of a row (Y, X), or (Y, X, C); those at the edge are filled up with zeros, which no reader shows."""
    for x in range(0, rows_YX.shape[1], tile[1]):
        part_YX = rows_YX[:, x : x + tile[1]]
        if part_YX.shape[:2] != tile:
            whole_YX = np.zeros((*tile, *part_YX.shape[2:]), rows_YX.dtype)
            whole_YX[: part_YX.shape[0], : part_YX.shape[1]] = part_YX
            part_YX = whole_YX
        yield np.ascontiguousarray(part_YX)


def encoder(compression: str) -> Encode:
    """Return what compresses one tile: deflate, lzw, zstd or none."""
    import imagecodecs

    if compression == "none":
        return np.ndarray.tobytes
    encode: Callable[[NDArray[Any]], Any] = getattr(imagecodecs, f"{compression}_encode")
    return lambda tile: bytes(encode(tile))
