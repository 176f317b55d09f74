"""Polygons in the pixels of an image, and which pixels they cover."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.polygons.vector_files import memory_of

__all__ = ["PolygonLayer"]

TILE = 512
"""Side of the squares in which polygons are drawn. GDAL's result for a pixel whose centre lies exactly on an edge depends on
where the drawn window begins. Each pixel is drawn in the window of its own square, so that it does not depend on the box asked for."""
MARGIN = 2  # pixels drawn around a square
CUT = 1  # pixels around a square at which polygons are cut: of what reaches beyond a window, GDAL may draw pixels at its other side


@dataclass(frozen=True)
class PolygonLayer:
    """Polygons that touch an image, in pixels of its grid, (0, 0) being the outer corner of the first pixel.

    Attributes:
        geometries: shapely Polygons and MultiPolygons (N,), corners (x, y), in the order of the file.
        values: value of the attribute for each polygon (N,): integers, floats, booleans, or objects that are texts, None where it is null;
            None: no attribute was asked for.
        numbers: number of each polygon in its file (N,): the feature id that GDAL gives, or the row of a Parquet file.
        shape: height and width of the image.
        notes: what was repaired, dropped or assumed.
        is_placed: whether the polygons lie where their map coordinates say; else their coordinates are pixels.
    """

    geometries: NDArray[np.object_]
    values: NDArray[Any] | None
    numbers: NDArray[np.int64]
    shape: tuple[int, int]
    notes: tuple[str, ...] = ()
    is_placed: bool = False

    def __len__(self) -> int:
        """Return the number of polygons."""
        return len(self.geometries)

    @cached_property
    def bounds(self) -> NDArray[np.float64]:
        """Least x and y, greatest x and y of each polygon (N, 4)."""
        import shapely

        return np.asarray(shapely.bounds(self.geometries), np.float64).reshape(-1, 4)

    @cached_property
    def nbytes(self) -> int:
        """Estimated bytes of memory that the layer takes."""
        return memory_of(self.geometries)

    @cached_property
    def _tree(self) -> Any:
        from shapely import STRtree

        return STRtree(self.geometries)

    def near(self, box: Box) -> NDArray[np.intp]:
        """Return the indices of the polygons whose bounds touch a box, in the order of the file."""
        import shapely

        return np.sort(np.asarray(self._tree.query(shapely.box(box.x0, box.y0, box.x1, box.y1)), np.intp))

    def rasterise(self, box: Box, values_N: NDArray[Any], fill: Any, *, all_touched: bool = False) -> NDArray[Any]:
        """Return a value for each pixel of a box (Y, X), in the type of ``values_N``; the result does not depend on the box.

        A pixel belongs to a polygon if its centre is inside, with ``all_touched`` if any part of it is. Where polygons overlap, the
        later one in the file wins.

        Args:
            box: inside the image.
            values_N: value of each polygon (N,).
            fill: value where no polygon lies.
            all_touched: whether a polygon covers every pixel that it touches.
        """
        drawn_YX = np.full(box.shape, fill, values_N.dtype)
        for tile in _tiles(box, self.shape):
            indices = self.near(tile)
            if len(indices):
                part = tile.intersection(box) or tile
                order_YX = _burn(self.geometries[indices], tile, all_touched=all_touched)[part.relative_to(tile).slices]
                table = np.concatenate([np.array([fill], values_N.dtype), values_N[indices]])
                drawn_YX[part.relative_to(box).slices] = table[order_YX]
        return drawn_YX

    def covered(self, box: Box, *, all_touched: bool = False) -> Iterator[tuple[int, Box, NDArray[np.bool_]]]:
        """Yield the polygons that cover pixels of a box: index, the smaller box around them, and the covered pixels (Y, X) in it.

        Polygons may overlap: each is drawn alone. The pixels of a polygon do not depend on the box; a polygon that spans several
        squares of 512 pixels is yielded once for each.
        """
        for tile in _tiles(box, self.shape):
            part = tile.intersection(box) or tile
            for index in self.near(tile).tolist():
                left, top, right, bottom = self.bounds[index]
                own = Box(int(top) - 1, int(left) - 1, int(bottom) + 2, int(right) + 2)
                window = own.intersection(tile)
                inside = window and window.intersection(part)
                if window is None or inside is None:
                    continue
                covered_YX = _burn(self.geometries[[index]], window, all_touched=all_touched)[inside.relative_to(window).slices] > 0
                if covered_YX.any():
                    yield index, inside, covered_YX

    def scaled(self, factor: tuple[float, float], shape: tuple[int, int]) -> PolygonLayer:
        """Return the polygons on another grid of the same place, whose pixels are ``factor`` (y, x) pixels of this one."""
        import shapely

        steps = np.array([factor[1], factor[0]])
        return replace(self, geometries=shapely.transform(self.geometries, lambda corners: corners / steps), shape=shape)


def _tiles(box: Box, shape: tuple[int, int]) -> Iterator[Box]:
    """Yield the squares of the image that a box touches."""
    for y in range(box.y0 // TILE * TILE, box.y1, TILE):
        for x in range(box.x0 // TILE * TILE, box.x1, TILE):
            yield Box(y, x, y + TILE, x + TILE).clip(shape)


def _burn(geometries: NDArray[np.object_], area: Box, *, all_touched: bool) -> NDArray[np.uint32]:
    """Return, for each pixel of an area (Y, X), one more than the position of the last polygon that covers it; 0: none does."""
    import shapely
    from rasterio import Affine
    from rasterio.features import rasterize

    cut, window = area.grow(CUT), area.grow(MARGIN)
    left, top, right, bottom = shapely.bounds(geometries).T
    beyond = (left < cut.x0) | (right > cut.x1) | (top < cut.y0) | (bottom > cut.y1)
    if beyond.any():
        geometries = geometries.copy()
        geometries[beyond] = shapely.clip_by_rect(geometries[beyond], cut.x0, cut.y0, cut.x1, cut.y1)
    shapes = [(one, number) for number, one in enumerate(geometries.tolist(), 1) if not one.is_empty]
    if not shapes:
        return np.zeros(area.shape, np.uint32)
    origin = Affine.translation(window.x0, window.y0)
    drawn_YX: NDArray[np.uint32] = rasterize(shapes, out_shape=window.shape, transform=origin, all_touched=all_touched, dtype="uint32")
    return drawn_YX[MARGIN:-MARGIN, MARGIN:-MARGIN]
