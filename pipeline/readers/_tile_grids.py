"""The common grid of the tiles of a mosaic: where each tile lies, and which tiles do not fit.

The tile that stands for all is one of the most common kind. Its pixels define the grid: another tile fits if its pixels lie on
that grid to a hundredth of a pixel over the whole tile.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem, counted
from pipeline.geometry import Box
from pipeline.raster import Header, affine, coordinate_system, map_grid
from pipeline.readers._tile_warp import GridMap, warped_box

__all__ = ["MOST_SHOWN", "PlacedTiles", "crs_text", "place_tiles"]

TOLERANCE = 0.01  # pixels by which a tile may lie beside the grid
MOST_SHOWN = 5  # tiles that a message names
CRS_TAGS = ("34735", "34736", "34737")
LEAVE_OUT = "Leave the tile out of the glob"


@dataclass(frozen=True)
class PlacedTiles:
    """Where tiles lie on their common grid, whose first pixel is that of the rectangle around all tiles.

    Attributes:
        boxes: y0, x0, y1, x1 that each tile covers, (N, 4) int64.
        main: position of the tile whose header stands for all.
        warped: positions of tiles that must be resampled; their boxes hold every pixel that they may touch.
        shift: (y, x) of the grid's first pixel in pixels of the main tile.
    """

    boxes: NDArray[np.int64]
    main: int
    warped: tuple[int, ...]
    shift: tuple[int, int]


@dataclass(frozen=True)
class _Tile:
    """The header of one tile, and what its place is compared by."""

    header: Header
    matrix: NDArray[np.float64] | None  # from pixel corners (x, y, 1) to the map; None: it has no place

    @cached_property
    def crs(self) -> str:
        """A text that differs where the coordinate system may differ; empty where there is none."""
        tags = self.header.georeference
        if code := coordinate_system(tags):
            return f"EPSG:{code}"
        found = {tag: tags[tag]["value"] for tag in CRS_TAGS if tag in tags}
        return json.dumps(found, sort_keys=True) if found else ""

    @cached_property
    def kind(self) -> tuple[Any, ...]:
        """What the tiles of a mosaic share, roughly."""
        header = self.header
        linear = () if self.matrix is None else tuple(float(f"{value:.5g}") for value in self.matrix[:2, :2].ravel())
        return self.matrix is None, self.crs, linear, header.dtype, header.channels, tuple(header.planes.items())


def crs_text(header: Header) -> str:
    """Return what a message calls a coordinate system."""
    tags = header.georeference
    if code := coordinate_system(tags):
        return f"EPSG:{code}"
    if "34735" not in tags:
        return "no coordinate system"
    citation = str(tags.get("34737", {}).get("value", "")).partition("|")[0].removeprefix("ESRI PE String = ")
    return f"the coordinate system {citation[:60]!r}" if citation else "a coordinate system without an EPSG code"


def place_tiles(paths: Sequence[str], headers: Sequence[Header], *, warp: bool) -> PlacedTiles:
    """Find the common grid of tiles.

    Args:
        paths: of the tiles, for messages.
        headers: of the tiles at their largest level.
        warp: whether tiles of another coordinate system, pixel size or offset are resampled; else they are refused.

    Raises:
        InputError: tiles that do not fit, the first few by name: what was found, what is expected, what to do.
    """
    tiles = [_Tile(header, affine(header.georeference)) for header in headers]
    main = _main_of(tiles)
    problems: list[Problem] = []
    warped: list[int] = []
    same_crs: dict[str, bool] = {}
    for number, (path, tile) in enumerate(zip(paths, tiles, strict=True)):
        if tile.crs not in same_crs:
            same_crs[tile.crs] = _is_same_crs(tile, tiles[main])
        problem = _pixel_problem(path, tile, tiles[main], paths[main])
        beside = problem or _grid_problem(path, tile, tiles[main], paths[main], is_same_crs=same_crs[tile.crs])
        if problem is None and beside is not None and warp and _can_warp(tile, tiles[main]):
            warped.append(number)
        elif beside is not None:
            problems.append(beside)
    if problems:
        more = len(problems) - MOST_SHOWN
        rest = (
            [f"{paths[0].rpartition('/')[0]}: {counted(more, 'more tile')} that {'do' if more > 1 else 'does'} not fit"] if more > 0 else []
        )
        raise InputError([*problems[:MOST_SHOWN], *rest])
    return _boxes(paths, tiles, main, warped)


def _main_of(tiles: Sequence[_Tile]) -> int:
    """Return the first tile of the most common kind and, among these, of the most common offset to the grid of the first of them."""
    kind = Counter(tile.kind for tile in tiles).most_common(1)[0][0]
    alike = [number for number, tile in enumerate(tiles) if tile.kind == kind]
    if tiles[alike[0]].matrix is None:
        return alike[0]
    phases = [tuple((np.round(_relative(tiles[number], tiles[alike[0]])[:2, 2], 2) % 1).tolist()) for number in alike]
    return alike[phases.index(Counter(phases).most_common(1)[0][0])]


def _relative(tile: _Tile, main: _Tile) -> NDArray[np.float64]:
    """Return the matrix (3, 3) from pixel corners (x, y, 1) of a tile to those of the main tile.

    The difference of two far positions is taken before anything is divided by the size of a pixel, so that no digit is lost.
    """
    assert tile.matrix is not None
    assert main.matrix is not None
    found = np.eye(3)
    found[:2, :2] = np.linalg.solve(main.matrix[:2, :2], tile.matrix[:2, :2])
    found[:2, 2] = np.linalg.solve(main.matrix[:2, :2], tile.matrix[:2, 2] - main.matrix[:2, 2])
    return found


def _pixel_problem(path: str, tile: _Tile, main: _Tile, like: str) -> Problem | None:
    """Return what keeps the pixels of two tiles from being those of one image."""
    header, wanted = tile.header, main.header
    as_most = f"as most tiles have, such as {like.rpartition('/')[2]}"
    if tile.matrix is None:
        fix = f"{LEAVE_OUT}, or add a world file."
        return Problem(path, "a tile without a georeference", "a place on the map, by which a mosaic is put together", fix)
    if dict(header.planes) != dict(wanted.planes):
        return Problem(path, f"{header.num_planes} planes", f"{wanted.num_planes}, {as_most}", f"{LEAVE_OUT}, or set reader.planes.")
    palette = next((note for note in header.notes if "palette" in note), "")
    if header.channels != wanted.channels and palette:
        found = f"{counted(header.channels, 'channel')} of a palette"
        return Problem(
            path, found, f"{wanted.channels}, {as_most}", f"{LEAVE_OUT}, or take the indices of palettes: reader.palette: index."
        )
    if header.channels != wanted.channels:
        fewest = list(range(min(header.channels, wanted.channels)))
        return Problem(
            path,
            counted(header.channels, "channel"),
            f"{wanted.channels}, {as_most}",
            f"{LEAVE_OUT}, or choose channels that all tiles have: reader.channels: {fewest}.",
        )
    if header.dtype != wanted.dtype:
        return Problem(path, f"samples of type {header.dtype}", f"{wanted.dtype}, {as_most}", f"{LEAVE_OUT}, or convert it.")
    if header.channel_names and wanted.channel_names and header.channel_names != wanted.channel_names:
        fix = f"{LEAVE_OUT}, or choose channels by name: reader.channels: [{', '.join(wanted.channel_names)}]."
        return Problem(path, f"channels {', '.join(header.channel_names)}", f"{', '.join(wanted.channel_names)}, {as_most}", fix)
    return None


def _grid_problem(path: str, tile: _Tile, main: _Tile, like: str, *, is_same_crs: bool) -> Problem | None:
    """Return why the pixels of a tile do not lie on the grid of the main tile."""
    as_most = f"as most tiles have, such as {like.rpartition('/')[2]}"
    if not is_same_crs:
        wanted = crs_text(main.header)
        how = f"reproject it to {wanted}" if wanted.startswith("EPSG") else "reproject it"
        return Problem(path, crs_text(tile.header), f"{wanted}, {as_most}", f"{LEAVE_OUT}, {how}, or set warp: true.")
    relative, (height, width) = _relative(tile, main), tile.header.shape
    drift = np.abs((relative[:2, :2] - np.eye(2)) @ np.array([[width, 0, width], [0, height, height]])).max()
    if drift > TOLERANCE:
        found = f"pixels of {_pixel_text(tile)}"
        return Problem(path, found, f"{_pixel_text(main)}, {as_most}", f"{LEAVE_OUT}, resample it, or set warp: true.")
    beside = relative[:2, 2] - np.round(relative[:2, 2])
    if np.abs(beside).max() > TOLERANCE:
        found = f"a tile that lies {abs(beside[1]):.3g} pixels down and {abs(beside[0]):.3g} across beside the grid of the others"
        expected = f"whole pixels from {like.rpartition('/')[2]}"
        return Problem(path, found, expected, f"{LEAVE_OUT}, resample it, or set warp: true.")
    return None


def _pixel_text(tile: _Tile) -> str:
    assert tile.matrix is not None
    (a, b), (d, e) = tile.matrix[:2, :2]
    size = f"{np.hypot(b, e):.9g} x {np.hypot(a, d):.9g}"
    return size if b == d == 0 and e < 0 < a else f"{size}, turned ({a:.6g}, {b:.6g}, {d:.6g}, {e:.6g})"


def _can_warp(tile: _Tile, main: _Tile) -> bool:
    """Whether a tile can be brought onto the grid: both have a coordinate system, or neither has."""
    return bool(tile.crs) == bool(main.crs)


def _is_same_crs(tile: _Tile, main: _Tile) -> bool:
    if tile.crs == main.crs:
        return True
    if not tile.crs or not main.crs or importlib.util.find_spec("rasterio") is None:
        return False
    from rasterio import CRS

    one, other = map_grid(tile.header.georeference), map_grid(main.header.georeference)
    return one is not None and other is not None and bool(CRS.from_wkt(one.wkt) == CRS.from_wkt(other.wkt))


def _boxes(paths: Sequence[str], tiles: Sequence[_Tile], main: int, warped: Sequence[int]) -> PlacedTiles:
    boxes, resampled = np.zeros((len(tiles), 4), np.int64), set(warped)
    for number, tile in enumerate(tiles):
        if number in resampled:
            grids = GridMap.between(tile.header, tiles[main].header, paths[number])
            box = warped_box(tile.header.shape, grids, paths[number])
        else:
            x, y = (int(value) for value in np.round(_relative(tile, tiles[main])[:2, 2]))
            box = Box(0, 0, *tile.header.shape).shift(y, x)
        boxes[number] = box.y0, box.x0, box.y1, box.x1
    top, left = (int(value) for value in boxes[:, :2].min(axis=0))
    boxes -= (top, left, top, left)
    placed = PlacedTiles(boxes, main, tuple(warped), (top, left))
    alike = (number for number, tile in enumerate(tiles) if tile.kind == tiles[main].kind and number not in resampled)
    corner = next((number for number in alike if not boxes[number, :2].any()), None)
    # The tile at the corner of the rectangle has the very tags of the whole, without rounding.
    return placed if corner is None else replace(placed, main=corner, shift=(0, 0))
