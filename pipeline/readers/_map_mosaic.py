"""Tiles of a map, read by region as one image: each pixel is that of the uppermost tile that has data there."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.raster import Header, Raster

__all__ = ["KEPT_BYTES", "MapMosaic", "OpenTiles", "TilePlaces"]

MOST_OPEN = 32  # tiles that stay open
KEPT_BYTES = 1 << 26  # decoded bytes of tiles that are decoded whole and stay open


class TilePlaces:
    """Where tiles lie, and which one covers which.

    Args:
        boxes: y0, x0, y1, x1 of each tile, (N, 4) int64.
        order: numbers of the tiles, the lowest first.
    """

    def __init__(self, boxes: NDArray[np.int64], order: NDArray[np.int64]) -> None:
        self.boxes, self._order = boxes, order
        self._tops, self._lefts, self._bottoms, self._rights = np.ascontiguousarray(boxes[order].T)

    def touching(self, box: Box) -> list[int]:
        """Return the tiles that have a pixel in a box, the uppermost first."""
        near = (self._tops < box.y1) & (self._bottoms > box.y0) & (self._lefts < box.x1) & (self._rights > box.x0)
        found: list[int] = self._order[np.flatnonzero(near)[::-1]].tolist()
        return found

    def box(self, number: int) -> Box:
        """Return what a tile covers."""
        return Box(*self.boxes[number].tolist())


@dataclass
class _Open:
    """One tile that is open, or is being opened."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stack: ExitStack = field(default_factory=ExitStack)
    raster: Raster | None = None
    users: int = 0  # threads that read it or wait for it


class OpenTiles:
    """The tiles that were read last, held open for several threads; one thread at a time reads a tile.

    Args:
        open_tile: opens the tile of a number.
    """

    def __init__(self, open_tile: Callable[[int], AbstractContextManager[Raster]]) -> None:
        self._open_tile = open_tile
        self._lock = threading.Lock()
        self._tiles: OrderedDict[int, _Open] = OrderedDict()
        self._closed = False

    @contextmanager
    def reading(self, number: int) -> Iterator[Raster]:
        """Give a tile to one thread."""
        with self._lock:
            if self._closed:  # a thread may still be reading ahead when the mosaic is closed
                raise BlockError("opened too late, the mosaic is closed")
            tile = self._tiles.setdefault(number, _Open())
            self._tiles.move_to_end(number)
            tile.users += 1
            idle = self._spare()
        try:
            for one in idle:
                one.stack.close()
            with tile.lock:
                if tile.raster is None:
                    tile.raster = tile.stack.enter_context(self._open_tile(number))
                yield tile.raster
        finally:
            self._leave(number, tile)

    def _leave(self, number: int, tile: _Open) -> None:
        with self._lock:
            tile.users -= 1
            is_last = not tile.users and (self._closed or tile.raster is None)
            if is_last:
                self._tiles.pop(number, None)
        if is_last:
            tile.stack.close()

    def _spare(self) -> list[_Open]:
        """Remove the tiles that are too many, those first that were not read for the longest time."""
        held = sum(one.raster.header.whole_bytes for one in self._tiles.values() if one.raster)
        gone = []
        for number, one in list(self._tiles.items()):
            if len(self._tiles) <= MOST_OPEN and held <= KEPT_BYTES:
                break
            if not one.users:
                held -= one.raster.header.whole_bytes if one.raster else 0
                gone.append(self._tiles.pop(number))
        return gone

    def close(self) -> None:
        """Close every tile; one that a thread still reads is closed by this thread."""
        with self._lock:
            self._closed = True
            idle = [number for number, one in self._tiles.items() if not one.users]
            stacks = [self._tiles.pop(number).stack for number in idle]
        for stack in stacks:
            stack.close()


class MapMosaic(Raster):
    """An image that is made of tiles. Where no tile has data, a pixel is that of the uppermost tile there, or ``fill`` in a gap.

    Args:
        header: of the whole.
        places: of the tiles.
        tiles: opens them; each has the channels and the type of the header.
        check: is told the number of each tile after it was read, and raises if the tile is no longer what it was.
    """

    def __init__(self, header: Header, places: TilePlaces, tiles: OpenTiles, check: Callable[[int], None]) -> None:
        self.header = header
        self._places, self._tiles, self._check = places, tiles, check
        self._fill = 0 if header.nodata is None else header.nodata

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Read a box."""
        return self.read_masked(box, plane)[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Read a box, and where a tile has data; tiles that others hide are not read."""
        numbers = self._places.touching(box)
        covered_YX, valid_YX = np.zeros(box.shape, bool), np.zeros(box.shape, bool)
        out_CYX: NDArray[Any] | None = None
        for number in numbers:
            tile_box = self._places.box(number)
            part = box.intersection(tile_box)
            assert part is not None
            place = part.relative_to(box).slices
            if valid_YX[place].all():
                continue
            pixels_CYX, has_data_YX = self._read_tile(number, part.relative_to(tile_box), plane)
            if out_CYX is None and part == box and (has_data_YX is None or len(numbers) == 1):
                return pixels_CYX, has_data_YX
            out_CYX = self._blank(box.shape, pixels_CYX) if out_CYX is None else out_CYX
            if not covered_YX[place].any():
                out_CYX[:, *place] = pixels_CYX
            else:
                takes_YX = ~covered_YX[place] | (~valid_YX[place] & (True if has_data_YX is None else has_data_YX))
                np.copyto(out_CYX[:, *place], pixels_CYX, where=takes_YX)
            covered_YX[place] = True
            valid_YX[place] |= True if has_data_YX is None else has_data_YX
        if out_CYX is None:
            out_CYX = np.full((self.header.channels, *box.shape), self._fill, self.header.dtype)
        return out_CYX, None if valid_YX.all() else valid_YX

    def read_valid(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Read a box: what has no data was found in each tile, by its own mask and nodata value."""
        return self.read_masked(box, plane)

    def _read_tile(self, number: int, box: Box, plane: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        with self._tiles.reading(number) as tile:
            found = tile.read_valid(box, plane)
        self._check(number)
        return found

    def _blank(self, shape: tuple[int, int], like_CYX: NDArray[Any]) -> NDArray[Any]:
        """Return an image of gaps whose channels lie in memory as those of the tiles do: they are then copied faster."""
        if np.moveaxis(like_CYX, 0, 2).flags.c_contiguous:
            return np.moveaxis(np.full((*shape, len(like_CYX)), self._fill, like_CYX.dtype), 2, 0)
        return np.full((len(like_CYX), *shape), self._fill, like_CYX.dtype)
