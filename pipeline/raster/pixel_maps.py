"""Where the pixels of one map lie in another map: by an affine in one coordinate system, by PROJ (rasterio) between two.

Positions are (x, y) in pixels: (0, 0) is the corner of the first pixel, (0.5, 0.5) its centre. The position of a pixel depends on that
pixel alone, never on the region in which it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.geometry import Box, ceil_to

__all__ = ["MAP_ERROR", "AffineMap", "PixelMap", "Positions", "WarpMap", "linear_map", "moved", "system_name", "transformed"]

Positions = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x and y of points, two arrays of one shape; not finite where a point has no position."""

STEP = 16  # pixels between the points of a warp that are transformed exactly
MAP_ERROR = 1e-3  # pixels by which a position between those points may be wrong; where it may be more, every pixel is transformed
TURN = 360.0  # degrees: longitudes that differ by it are one place


def linear_map(source: NDArray[Any], target: NDArray[Any]) -> NDArray[np.float64]:
    """Return the matrix (3, 3) from pixels of ``target`` to pixels of ``source``, given that of each from its pixels to the map.

    Origins are subtracted first: their coordinates may be millions of pixels.
    """
    found = np.eye(3)
    inverse = np.linalg.inv(source[:2, :2])
    found[:2, :2] = inverse @ target[:2, :2]
    found[:2, 2] = inverse @ (target[:2, 2] - source[:2, 2])
    return found


def moved(matrix: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> Positions:
    """Return points moved by a matrix (3, 3), element by element: a product of matrices may round otherwise for other shapes."""
    a, b, c = (float(value) for value in matrix[0])
    d, e, f = (float(value) for value in matrix[1])
    return x * a + (y * b + c), x * d + (y * e + f)


def _centers(box: Box) -> Positions:
    """Return the centres of the pixels of a box, as a row and a column."""
    x, y = np.arange(box.x0, box.x1, dtype=np.float64), np.arange(box.y0, box.y1, dtype=np.float64)
    return x[None, :] + 0.5, y[:, None] + 0.5


@dataclass(frozen=True, eq=False)
class AffineMap:
    """Positions by a matrix (3, 3)."""

    matrix: NDArray[Any]

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Positions:
        """Return the positions of points."""
        return moved(self.matrix, x, y)

    def centers(self, box: Box) -> Positions:
        """Return the positions of the centres of a box's pixels, (Y, X)."""
        return moved(self.matrix, *_centers(box))


@dataclass(frozen=True, eq=False)
class WarpMap:
    """Positions by PROJ: exact at every 16th pixel, linear between.

    The exact points check each other: where every second one misses the others by so much that the 16 pixels between may miss by over
    :data:`MAP_ERROR`, or a point has no position, each pixel is transformed exactly.

    Attributes:
        target, source: matrix (3, 3) of each from its pixels to its coordinates.
        target_wkt, source_wkt: coordinate systems.
        middle: longitude in the middle of the source, round which longitudes of the target are counted; None: it has none.
    """

    target: NDArray[Any]
    target_wkt: str
    source: NDArray[Any]
    source_wkt: str
    middle: float | None = None

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Positions:
        """Return the exact positions of points."""
        shape = np.broadcast_shapes(x.shape, y.shape)
        east, north = moved(self.target, x, y)
        found = transformed(self.target_wkt, self.source_wkt, np.broadcast_to(east, shape).ravel(), np.broadcast_to(north, shape).ravel())
        with np.errstate(invalid="ignore"):  # what has no position is not finite
            if self.middle is not None:
                found[0] += TURN * np.round((self.middle - found[0]) / TURN)
            origin = self.source[:2, 2]
            inverse = np.eye(3)
            inverse[:2, :2] = np.linalg.inv(self.source[:2, :2])
            across, down = moved(inverse, found[0] - origin[0], found[1] - origin[1])
        return across.reshape(shape), down.reshape(shape)

    def centers(self, box: Box) -> Positions:
        """Return the positions of the centres of a box's pixels, (Y, X)."""
        cell = 2 * STEP
        first_y, first_x = box.y0 // cell * cell, box.x0 // cell * cell
        rows = np.arange(first_y, ceil_to(box.y1, cell) + 1, STEP, dtype=np.float64)
        cols = np.arange(first_x, ceil_to(box.x1, cell) + 1, STEP, dtype=np.float64)
        nodes = self.at(cols[None, :], rows[:, None])
        x, y = _centers(box)
        with np.errstate(invalid="ignore"):
            found = tuple(_between(one, (y[:, 0] - first_y) / STEP, (x[0] - first_x) / STEP) for one in nodes)
            bent = ~(_bend(nodes) <= 4 * MAP_ERROR)  # the error of linear interpolation grows with the square of the step
        if bent.any():
            bent_YX = np.repeat(np.repeat(bent, cell, 0), cell, 1)[box.y0 - first_y : box.y1 - first_y, box.x0 - first_x : box.x1 - first_x]
            exact = self.at(np.broadcast_to(x, bent_YX.shape)[bent_YX], np.broadcast_to(y, bent_YX.shape)[bent_YX])
            found[0][bent_YX], found[1][bent_YX] = exact
        return found[0], found[1]


PixelMap = AffineMap | WarpMap


def _between(nodes: NDArray[np.float64], rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate linearly between nodes (rows, columns) at fractional rows and columns."""
    row, col = np.floor(rows).astype(np.intp), np.floor(cols).astype(np.intp)
    down, right = (rows - row)[:, None], cols - col
    across = nodes[row] * (1 - down) + nodes[row + 1] * down
    found: NDArray[np.float64] = across[:, col] * (1 - right) + across[:, col + 1] * right
    return found


def _bend(nodes: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return by how much the nodes inside each cell of 3 x 3 miss the lines between its corners; NaN where one has no position."""
    worst = np.zeros(((len(nodes[0]) - 1) // 2, (nodes[0].shape[1] - 1) // 2))
    for one in nodes:
        corners = one[::2, ::2]
        rows, cols = (corners[:-1] + corners[1:]) / 2, (corners[:, :-1] + corners[:, 1:]) / 2
        across, down = np.abs(one[::2, 1::2] - cols), np.abs(one[1::2, ::2] - rows)
        middle = np.abs(one[1::2, 1::2] - (cols[:-1] + cols[1:]) / 2)
        for part in (across[:-1], across[1:], down[:, :-1], down[:, 1:], middle):
            worst = np.maximum(worst, part)  # keeps NaN
    return worst


def transformed(of: str, to: str, x_N: NDArray[np.float64], y_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transform points between two coordinate systems (WKT), x being east or longitude; infinite where a point has no place.

    Returns:
        x and y, (2, N).

    Raises:
        InputError: PROJ knows no way from one to the other.
    """
    from rasterio.errors import CRSError
    from rasterio.warp import transform

    try:
        return np.array(transform(_crs(of), _crs(to), x_N.tolist(), y_N.tolist()))
    except Exception as error:  # rasterio raises errors of GDAL, which it does not export
        if isinstance(error, CRSError) or type(error).__name__ == "CPLE_NotSupportedError":
            raise InputError(f"no way is known from coordinates in {system_name(of)} to {system_name(to)}") from error
        if len(x_N) == 1:  # one point without a place makes all of them fail
            return np.full((2, 1), np.inf)
        half = len(x_N) // 2
        return np.concatenate([transformed(of, to, x_N[part], y_N[part]) for part in (slice(half), slice(half, None))], axis=1)


@lru_cache(maxsize=64)
def _crs(wkt: str) -> Any:
    from rasterio import CRS

    return CRS.from_wkt(wkt)


def system_name(wkt: str) -> str:
    """Return the code of a coordinate system (WKT 2), else its name.

    Example:
        >>> system_name('PROJCRS["Mine",BASEGEOGCRS["WGS 84",ID["EPSG",4326]],CS[Cartesian,2]]')
        'Mine'
        >>> system_name('GEOGCRS["WGS 84",CS[ellipsoidal,2],ID["EPSG",4326]]')
        'EPSG:4326'
    """
    code, name = re.search(r'ID\["(\w+)","?(\w+)"?\]\]$', wkt), re.search(r'\["([^"]*)"', wkt)
    return f"{code[1]}:{code[2]}" if code else name[1] if name else "an unknown system"
