"""What is known of a mosaic once the headers of its tiles were read; a text carries it to other processes."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem, counted
from pipeline.geometry import Box
from pipeline.raster import Header, Part, map_scale, shifted
from pipeline.readers._file_states import State
from pipeline.readers._map_mosaic import KEPT_BYTES
from pipeline.readers._tile_files import TileFile
from pipeline.readers._tile_grids import PlacedTiles

__all__ = ["MosaicPlan", "make_plan"]

MOST_PIXELS = 1 << 42  # of a plane
MOST_CELLS = 1 << 24  # cells between the edges of all tiles: with more, gaps are not measured
SHOWN_NOTES = 3


@dataclass(frozen=True)
class MosaicPlan:
    """The tiles of a mosaic by name, and what they have in common.

    Attributes:
        names: path of each tile below the folder of the mosaic.
        states: of each tile and of the files beside it.
        boxes: y0, x0, y1, x1 that each tile covers, (N, 4) int64.
        order: positions of the tiles, the lowest first, (N) int64.
        main: position of the tile whose header stands for all.
        shift: (y, x) of the first pixel of the mosaic in pixels of the main tile.
        warped: positions of tiles that are resampled; their boxes hold every pixel that they may touch.
        zooms: (y, x) pixels of the largest level to one of each level that all tiles have.
        is_partial: whether pixels may have no data besides those that the main tile's nodata value tells.
        has_one_nodata: whether all tiles declare the nodata value of the main tile.
        is_color, is_lossy, bits: as in a header.
        work_bytes: memory of a read.
        notes: on the mosaic and on its tiles; they do not travel.
    """

    names: tuple[str, ...]
    states: tuple[tuple[State, ...], ...]
    boxes: NDArray[np.int64]
    order: NDArray[np.int64]
    main: int
    shift: tuple[int, int]
    warped: tuple[int, ...]
    zooms: tuple[tuple[int, int], ...]
    is_partial: bool
    has_one_nodata: bool
    is_color: bool
    is_lossy: bool
    bits: int
    work_bytes: int
    notes: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Return the plan as a short text."""
        values = {
            "names": self.names,
            "states": self.states,
            "boxes": self.boxes.ravel().tolist(),
            "order": self.order.tolist(),
            "main": self.main,
            "shift": self.shift,
            "warped": self.warped,
            "zooms": self.zooms,
            "facts": (self.is_partial, self.has_one_nodata, self.is_color, self.is_lossy, self.bits, self.work_bytes),
        }
        return base64.b64encode(zlib.compress(json.dumps(values, separators=(",", ":")).encode())).decode()

    @classmethod
    def from_text(cls, text: str, where: str) -> MosaicPlan:
        """Read what :meth:`to_text` has returned.

        Raises:
            InputError: the text is no such plan.
        """
        try:
            values = json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
            states = tuple(tuple((path, size, version) for path, size, version in tile) for tile in values["states"])
            shift, zooms = values["shift"], tuple((y, x) for y, x in values["zooms"])
            return cls(
                tuple(values["names"]),
                states,
                np.array(values["boxes"], np.int64).reshape(-1, 4),
                np.array(values["order"], np.int64),
                values["main"],
                (shift[0], shift[1]),
                tuple(values["warped"]),
                zooms,
                *values["facts"],
            )
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            expected = "what a plan of this version writes"
            raise InputError(Problem(where, "a text that is no list of tiles", expected, "Leave the option out.")) from error

    def header(self, main: Header, level: int = 0) -> Header:
        """Return the header of the mosaic at a level, from that of the main tile at this level."""
        y, x = self.zooms[level]
        boxes = self.boxes // (y, x, y, x)
        height, width = (int(side) for side in self.boxes[:, 2:].max(axis=0))
        shift = self.shift[0] // y, self.shift[1] // x
        tags = shifted(main.georeference, shift)
        moved = [new - old for new, old in zip(map_scale(tags)[2], map_scale(main.georeference)[2], strict=True)]
        levels = tuple((height // down, width // across) for down, across in self.zooms)
        return replace(
            main,
            shape=(height // y, width // x),
            offset=(main.offset[0] + moved[0], main.offset[1] + moved[1]),
            georeference=tags,
            nodata=main.nodata if self.has_one_nodata else None,
            has_mask=main.has_mask or self.is_partial,
            bits=self.bits,
            is_color=main.is_color and self.is_color,
            is_lossy=self.is_lossy,
            levels=levels if len(levels) > 1 else (),
            series="",
            whole_bytes=0,
            work_bytes=self.work_bytes,
            parts=tuple(Part(name, Box(*box)) for name, box in zip(_part_names(self.names), boxes.tolist(), strict=True)),
            notes=self.notes,
        )


def _part_names(names: Sequence[str]) -> list[str]:
    """Return the name of each tile without folder and suffix; with its folders where two tiles have one name.

    Example:
        >>> _part_names(["a.tif", "n/b.tif", "s/b.tif"])
        ['a', 'n_b', 's_b']
    """
    short = [name.rpartition("/")[2].partition(".")[0] or name for name in names]
    if len(set(short)) < len(short):
        long = [name.rpartition(".")[0].replace("/", "_") or name for name in names]
        seen = {one: short.count(one) > 1 for one in set(short)} if len(short) < 1000 else dict.fromkeys(short, True)
        short = [other if seen[one] else one for one, other in zip(short, long, strict=True)]
    return short if len(set(short)) == len(short) else [name.replace("/", "_") for name in names]


def make_plan(files: Sequence[TileFile], headers: Sequence[Header], placed: PlacedTiles, *, overlap: str, nearest: bool) -> MosaicPlan:
    """Gather what is known of a mosaic.

    Args:
        files: sorted by name.
        headers: of the tiles.
        placed: where they lie.
        overlap: which tile shows where several have data: ``first``, ``last`` or ``newest``.
        nearest: whether resampled tiles keep their values.

    Raises:
        InputError: the rectangle around the tiles is too large.
    """
    _check_extent(files, placed)
    main, shape = headers[placed.main], tuple(placed.boxes[:, 2:].max(axis=0).tolist())
    share = covered_share(placed.boxes, shape)
    area = sum((y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in placed.boxes.tolist())
    nodata = {repr(header.nodata) for header in headers}
    decoded = [header.whole_bytes + header.work_bytes for header in headers]
    bits = {header.bits for header in headers}
    notes = [f"a mosaic of {counted(len(files), 'tile')}"]
    if share is None or share < 1:
        notes.append("gaps between its tiles have no data" + ("" if share is None else f" ({1 - share:.2%})".replace("%", " %")))
    if share is None or area > round(share * shape[0] * shape[1]):
        rule = {"first": "the first by name", "last": "the last by name", "newest": "the one written last"}[overlap]
        notes.append(f"where tiles overlap, {rule} shows")
    if placed.warped:
        how = "by nearest pixels" if nearest else "by linear interpolation"
        notes.append(f"{counted(len(placed.warped), 'tile')} of another grid {'is' if len(placed.warped) == 1 else 'are'} resampled {how}")
    own = list(dict.fromkeys(note for header in headers for note in header.notes))
    return MosaicPlan(
        tuple(file.name for file in files),
        tuple(file.states for file in files),
        placed.boxes,
        _order(files, overlap),
        placed.main,
        placed.shift,
        placed.warped,
        ((1, 1),) if placed.warped else _zooms(headers, placed.boxes),
        is_partial=share != 1 or len(nodata) > 1 or bool(placed.warped) or any(header.has_mask for header in headers),
        has_one_nodata=len(nodata) == 1,
        is_color=all(header.is_color for header in headers),
        is_lossy=any(header.is_lossy for header in headers),
        bits=0 if 0 in bits else max(bits),
        work_bytes=max(decoded) + min(KEPT_BYTES, sum(header.whole_bytes for header in headers)) + _warp_bytes(main, placed),
        notes=("; ".join(notes), *own[:SHOWN_NOTES]),
    )


def _order(files: Sequence[TileFile], overlap: str) -> NDArray[np.int64]:
    """Return the positions of files that are sorted by name, the lowest first."""
    numbers = list(range(len(files)))
    if overlap == "newest":
        numbers.sort(key=lambda number: (files[number].written, number))
    return np.array(numbers[::-1] if overlap == "first" else numbers, np.int64)


def _warp_bytes(main: Header, placed: PlacedTiles) -> int:
    """Return the memory that resampling needs: pixels of a tile, and positions and sums of some rows."""
    from pipeline.readers._tile_warp import MOST_SOURCE

    return MOST_SOURCE * (main.channels * np.dtype(main.dtype).itemsize + 8) if placed.warped else 0


def _zooms(headers: Sequence[Header], boxes: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Return the pyramid levels that all tiles have, on one grid: then a level of the mosaic is made of those of its tiles."""
    zooms = [(1, 1)]
    for level in range(1, min(len(header.levels) for header in headers)):
        height, width = headers[0].shape
        y, x = (round(side / small) for side, small in zip((height, width), headers[0].levels[level], strict=True))
        step = np.array((y, x, y, x))
        sides = np.array([header.levels[level] for header in headers])
        if (boxes % step).any() or ((boxes[:, 2:] - boxes[:, :2]) // step[:2] != sides).any():
            break
        zooms.append((y, x))
    return tuple(zooms)


def covered_share(boxes: NDArray[np.int64], shape: Sequence[int]) -> float | None:
    """Return the share of a plane that boxes cover; None where there are too many edges to tell.

    Example:
        >>> covered_share(np.array([[0, 0, 4, 3], [0, 2, 4, 4]]), (4, 5))
        0.8
    """
    rows, columns = np.unique(boxes[:, ::2]), np.unique(boxes[:, 1::2])
    if len(rows) * len(columns) > MOST_CELLS:
        return None
    changes = np.zeros((len(rows), len(columns)), np.int32)
    y0, y1 = np.searchsorted(rows, boxes[:, ::2]).T
    x0, x1 = np.searchsorted(columns, boxes[:, 1::2]).T
    for y, x, change in ((y0, x0, 1), (y1, x1, 1), (y0, x1, -1), (y1, x0, -1)):
        np.add.at(changes, (y, x), change)
    is_covered = changes.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
    area = int((np.diff(rows) * is_covered.T).T.dot(np.diff(columns)).sum())
    return area / (shape[0] * shape[1])


def _check_extent(files: Sequence[TileFile], placed: PlacedTiles) -> None:
    """Refuse a rectangle that only a misplaced tile can make so large."""
    boxes = placed.boxes
    height, width = (int(side) for side in boxes[:, 2:].max(axis=0))
    if height * width <= MOST_PIXELS:
        return
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    farthest = int(np.abs(middle - np.median(middle, axis=0)).max(axis=1).argmax())
    found = f"a tile far from the others: the rectangle around all has {height} x {width} pixels"
    raise InputError(
        Problem(files[farthest].path, found, f"at most {MOST_PIXELS} pixels", "Is the place of the tile right? Else leave it out.")
    )
