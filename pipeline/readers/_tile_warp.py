"""A tile of a mosaic that lies on another grid, resampled by region onto the grid of the mosaic.

A pixel depends on its position in the mosaic alone, so that any region gives the same pixels. GDAL's warper estimates positions
anew for each region, which moves pixels by up to an eighth; here positions are exact at the nodes of a lattice that is fixed in
the mosaic, and interpolated between them::

    nearest     the pixel under the centre of the new pixel: classes, object ids
    otherwise   linear interpolation between pixel centres; the mean of several such samples where the tile has smaller pixels

Pixels without data have no weight. A new pixel is valid if its centre lies in the tile and less than half of its weight is missing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.raster import Header, MapGrid, Raster, affine, map_grid

if TYPE_CHECKING:
    from rasterio import CRS

__all__ = ["GridMap", "WarpedTile", "warped_box"]

STEP = 16  # pixels of the mosaic between nodes of the lattice
BATCH = 64  # nodes along each side of a square that is looked up at once: GDAL chooses an operation by the mean of what it is asked
MOST_BATCHES = 64  # squares that are kept
OUTLINE = 33  # points on each side of a tile whose place is looked up
MOST_SAMPLES = 16  # along each axis of a new pixel
MOST_SOURCE = 1 << 24  # pixels of the tile that are read at once
STRIP_ROWS = 128
MOST_MISSING = 0.5

Points = NDArray[np.float64]
"""(x, y) in the first axis, pixels with the corner of the first one at (0, 0)."""
Pair = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x and y, (Y, X) each."""


@dataclass(frozen=True)
class GridMap:
    """Positions on the grid of a tile and on that of the mosaic.

    Attributes:
        tile, mosaic: matrices (3, 3) from pixels to the map.
        crs: the coordinate systems of both as WKT; None where they are the same.
    """

    tile: NDArray[np.float64]
    mosaic: NDArray[np.float64]
    crs: tuple[str, str] | None = None

    @classmethod
    def between(cls, tile: Header, mosaic: Header, path: str) -> GridMap:
        """Compare the georeferences of two headers.

        Raises:
            InputError: rasterio is not installed, or one of the coordinate systems is unknown.
        """
        one, other = affine(tile.georeference), affine(mosaic.georeference)
        assert one is not None
        assert other is not None
        if all(tile.georeference.get(tag) == mosaic.georeference.get(tag) for tag in ("34735", "34736", "34737")):
            return cls(one, other)
        try:
            grids = map_grid(tile.georeference), map_grid(mosaic.georeference)
        except ImportError:
            way_out = 'Install it: pip install "gigaseg[geo]".'
            raise InputError(Problem(path, "a tile of another coordinate system", "rasterio, to resample it", way_out)) from None
        if grids[0] is None or grids[1] is None:
            expected = "one that GDAL knows, to resample the tile"
            raise InputError(Problem(path, "a coordinate system that cannot be read", expected, "Reproject the tile."))
        return cls(_matrix(grids[0]), _matrix(grids[1]), (grids[0].wkt, grids[1].wkt))

    def to_tile(self, points: Points) -> Points:
        """Return the position in the tile of positions in the mosaic; not finite where a projection has none."""
        return self._move(points, self.mosaic, self.tile, backwards=True)

    def to_mosaic(self, points: Points) -> Points:
        """Return the position in the mosaic of positions in the tile; not finite where a projection has none."""
        return self._move(points, self.tile, self.mosaic, backwards=False)

    def _move(self, points: Points, source: NDArray[np.float64], target: NDArray[np.float64], *, backwards: bool) -> Points:
        linear = np.linalg.inv(target[:2, :2])
        if self.crs is None:  # the two far origins cancel before pixels are counted, so that no digit is lost
            moved: Points = linear @ (source[:2, :2] @ points + (source[:2, 2] - target[:2, 2])[:, None])
            return moved
        from rasterio.warp import transform

        one, other = map(_crs, self.crs[::-1] if backwards else self.crs)
        at = source[:2, :2] @ points + source[:2, 2][:, None]
        found = np.array(transform(one, other, at[0], at[1])[:2], float)
        there: Points = linear @ (found - target[:2, 2][:, None])
        return there


@lru_cache(maxsize=64)
def _crs(wkt: str) -> CRS:
    from rasterio import CRS

    return CRS.from_wkt(wkt)


def _matrix(grid: MapGrid) -> NDArray[np.float64]:
    return np.array([*grid.matrix, 0.0, 0.0, 1.0]).reshape(3, 3)


def warped_box(shape: tuple[int, int], grids: GridMap, path: str) -> Box:
    """Return the pixels of the mosaic that a tile of this shape may touch; they may be negative.

    Raises:
        InputError: the projection of the mosaic does not reach there.
    """
    height, width = shape
    along, zero = np.linspace(0, 1, OUTLINE), np.zeros(OUTLINE)
    x = np.concatenate([along, along, zero, zero + 1]) * width
    y = np.concatenate([zero, zero + 1, along, along]) * height
    found = grids.to_mosaic(np.stack([x, y]))
    if not np.isfinite(found).all():
        expected = "a place that the coordinate system of the mosaic reaches"
        raise InputError(Problem(path, "a tile that cannot be brought into it", expected, "Leave the tile out of the glob."))
    (left, top), (right, bottom) = np.floor(found.min(axis=1)).astype(int), np.ceil(found.max(axis=1)).astype(int)
    return Box(int(top), int(left), int(bottom), int(right))


class WarpedTile(Raster):
    """A tile on the grid of the mosaic.

    Args:
        source: the tile as it is stored.
        box: the pixels of the mosaic that it may touch.
        grids: from one grid to the other.
        nearest: whether each new pixel has the value of one old pixel.
    """

    def __init__(self, source: Raster, box: Box, grids: GridMap, *, nearest: bool) -> None:
        self.header = Header(box.shape, source.header.channels, source.header.dtype, planes=source.header.planes, has_mask=True)
        self._source, self._box, self._grids, self._nearest = source, box, grids, nearest
        self._samples = (1, 1) if nearest else self._num_samples()
        self._lattice = _Lattice(grids)

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Resample a box."""
        return self.read_masked(box, plane)[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Resample a box, and find its valid pixels; the others are 0."""
        header = self._source.header
        out_CYX = np.zeros((header.channels, *box.shape), header.dtype)
        valid_YX = np.zeros(box.shape, bool)
        for strip in _strips(box, self._rows_at_once(box)):
            part = strip.shift(self._box.y0, self._box.x0)
            place = strip.relative_to(box).slices
            self._resample(part, plane, out_CYX[:, *place], valid_YX[place])
        return out_CYX, valid_YX

    def _num_samples(self) -> tuple[int, int]:
        """Return the samples of a new pixel (y, x): about one for each old pixel, from the middle of the tile."""
        height, width = self._source.header.shape
        x, y = self._grids.to_mosaic(np.array([[width / 2], [height / 2]]))[:, 0]
        at = self._grids.to_tile(np.array([[x, x + 1, x], [y, y, y + 1]]))
        sides = np.abs(at[:, 1:] - at[:, :1]).max(axis=0)  # of a step across and a step down, in pixels of the tile
        across, down = (int(np.clip(np.ceil(side - 0.05), 1, MOST_SAMPLES)) for side in sides)
        return down, across

    def _rows_at_once(self, box: Box) -> int:
        source, whole = self._source.header.shape, self._box.shape
        a_row = max(1.0, source[0] / whole[0]) * max(1.0, source[1] / whole[1]) * box.shape[1]  # pixels of the tile to one row
        return int(np.clip(MOST_SOURCE // a_row, 1, STRIP_ROWS))

    def _resample(self, box: Box, plane: int, out_CYX: NDArray[Any], valid_YX: NDArray[np.bool_]) -> None:
        """Fill a box, in pixels of the mosaic."""
        height, width = self._source.header.shape
        positions = _Positions(box, self._lattice.nodes(box))
        center = positions.at(0.5, 0.5)
        with np.errstate(invalid="ignore"):
            inside_YX = (center[0] >= 0) & (center[0] < width) & (center[1] >= 0) & (center[1] < height)
        if not inside_YX.any():
            return
        window = _window([positions.at(down, across) for down in (0.0, 1.0) for across in (0.0, 1.0)], (height, width))
        pixels_CYX, has_data_YX = self._source.read_valid(window, plane)
        down, across = self._samples
        points = (positions.at((i + 0.5) / down, (j + 0.5) / across) for i, j in product(range(down), range(across)))
        local = (self._inside(pair, center, inside_YX, window) for pair in points)
        sample = _nearest if self._nearest else _linear
        found_CYX, share_YX = sample(pixels_CYX, has_data_YX, local)
        valid_YX[...] = inside_YX & (share_YX > MOST_MISSING)
        np.copyto(out_CYX, found_CYX, where=valid_YX, casting="unsafe")

    @staticmethod
    def _inside(pair: Pair, center: Pair, inside_YX: NDArray[np.bool_], window: Box) -> Pair:
        """Return positions in the window; those of pixels outside the tile are of no importance, but must be numbers."""
        known_YX = np.isfinite(pair[0])
        x, y = (np.where(inside_YX, np.where(known_YX, one, middle), 0.0) for one, middle in zip(pair, center, strict=True))
        return x - window.x0, y - window.y0


class _Lattice:
    """Positions in a tile of nodes that are fixed in the mosaic, ``STEP`` pixels apart; looked up in fixed squares."""

    def __init__(self, grids: GridMap) -> None:
        self._grids = grids
        self._kept: OrderedDict[tuple[int, int], NDArray[np.float64]] = OrderedDict()

    def nodes(self, box: Box) -> NDArray[np.float64]:
        """Return x and y (2, Y, X) of the nodes around a box, the first at or above its first pixel; NaN where there is no position."""
        y0, x0, y1, x1 = box.y0 // STEP, box.x0 // STEP, box.y1 // STEP + 2, box.x1 // STEP + 2
        rows, columns = range(y0 // BATCH, (y1 - 1) // BATCH + 1), range(x0 // BATCH, (x1 - 1) // BATCH + 1)
        whole = np.concatenate([np.concatenate([self._square(row, column) for column in columns], axis=2) for row in rows], axis=1)
        top, left = rows[0] * BATCH, columns[0] * BATCH
        return whole[:, y0 - top : y1 - top, x0 - left : x1 - left]

    def _square(self, row: int, column: int) -> NDArray[np.float64]:
        if (row, column) not in self._kept:
            side = np.arange(BATCH) * float(STEP)
            y, x = np.meshgrid(side + row * BATCH * STEP, side + column * BATCH * STEP, indexing="ij")
            found = self._grids.to_tile(np.stack([x.ravel(), y.ravel()])).reshape(2, BATCH, BATCH)
            while len(self._kept) >= MOST_BATCHES:
                self._kept.popitem(last=False)
            self._kept[row, column] = np.where(np.isfinite(found).all(axis=0), found, np.nan)
        return self._kept[row, column]


class _Positions:
    """Positions in a tile of the pixels of a box, linear between nodes."""

    def __init__(self, box: Box, nodes: NDArray[np.float64]) -> None:
        self._rows, self._columns, self._nodes = np.arange(box.y0, box.y1), np.arange(box.x0, box.x1), nodes
        self._first = box.y0 // STEP, box.x0 // STEP

    def at(self, down: float, across: float) -> Pair:
        """Return x and y (Y, X) in the tile of a point in each pixel, such as (0.5, 0.5) for its centre."""
        (row, below), (column, right) = self._cell(self._rows + down, 0), self._cell(self._columns + across, 1)
        below, right = below[:, None], right[None, :]
        found = []
        for node in self._nodes:
            above = node[np.ix_(row, column)] * (1 - right) + node[np.ix_(row, column + 1)] * right
            under = node[np.ix_(row + 1, column)] * (1 - right) + node[np.ix_(row + 1, column + 1)] * right
            found.append(above * (1 - below) + under * below)
        return found[0], found[1]

    def _cell(self, at: NDArray[np.floating[Any]], axis: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        cell = np.floor(at / STEP).astype(np.intp)
        share: NDArray[np.float64] = at / STEP - cell
        return cell - self._first[axis], share


def _strips(box: Box, rows: int) -> list[Box]:
    return [Box(y, box.x0, min(y + rows, box.y1), box.x1) for y in range(box.y0, box.y1, rows)]


def _window(corners: list[Pair], shape: tuple[int, int]) -> Box:
    """Return the pixels of the tile that samples between these points depend on; at least one point lies inside."""
    low = [min(float(np.nanmin(pair[axis])) for pair in corners) for axis in (1, 0)]
    high = [max(float(np.nanmax(pair[axis])) for pair in corners) for axis in (1, 0)]
    y0, x0 = (max(0, int(np.floor(value - 0.5))) for value in low)
    y1, x1 = (min(side, int(np.floor(value - 0.5)) + 2) for value, side in zip(high, shape, strict=True))
    return Box(y0, x0, y1, x1)


def _nearest(
    pixels_CYX: NDArray[Any], has_data_YX: NDArray[np.bool_] | None, samples: Iterator[Pair]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the pixel under each point, and 1 where it has data."""
    x, y = next(samples)
    rows = np.clip(np.floor(y).astype(np.intp), 0, pixels_CYX.shape[1] - 1)
    columns = np.clip(np.floor(x).astype(np.intp), 0, pixels_CYX.shape[2] - 1)
    share_YX = np.ones(x.shape) if has_data_YX is None else has_data_YX[rows, columns].astype(float)
    return pixels_CYX[:, rows, columns], share_YX


def _linear(
    pixels_CYX: NDArray[Any], has_data_YX: NDArray[np.bool_] | None, samples: Iterator[Pair]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the weighted mean of the pixels around the samples, and the share of the weight that has data."""
    height, width = pixels_CYX.shape[1:]
    sums_CYX, total_YX, num_samples = np.zeros((len(pixels_CYX), 1, 1)), np.zeros((1, 1)), 0
    for x, y in samples:
        num_samples += 1
        if num_samples == 1:
            sums_CYX, total_YX = np.zeros((len(pixels_CYX), *x.shape)), np.zeros(x.shape)
        left, top = np.floor(x - 0.5), np.floor(y - 0.5)
        shares = (x - 0.5 - left, y - 0.5 - top)
        for down, across in product((0, 1), (0, 1)):
            rows = np.clip(top.astype(np.intp) + down, 0, height - 1)
            columns = np.clip(left.astype(np.intp) + across, 0, width - 1)
            weight_YX = (shares[1] if down else 1 - shares[1]) * (shares[0] if across else 1 - shares[0])
            if has_data_YX is not None:
                weight_YX = weight_YX * has_data_YX[rows, columns]
            total_YX += weight_YX
            for sum_YX, pixels_YX in zip(sums_CYX, pixels_CYX, strict=True):
                sum_YX += _weighted(pixels_YX[rows, columns], weight_YX)
    sums_CYX /= np.where(total_YX > 0, total_YX, 1)
    if pixels_CYX.dtype.kind in "iub":
        limits = np.iinfo(pixels_CYX.dtype)
        sums_CYX = np.clip(np.rint(sums_CYX), limits.min, limits.max)
    return sums_CYX, total_YX / num_samples


def _weighted(values_YX: NDArray[Any], weight_YX: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return products; a pixel without weight counts nothing even where it is NaN."""
    with np.errstate(invalid="ignore"):
        product: NDArray[np.float64] = np.where(weight_YX > 0, values_YX * weight_YX, 0.0)
    return product
