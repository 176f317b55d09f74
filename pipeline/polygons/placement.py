"""Transformation of polygons from the coordinate system of their file to the pixels of an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.polygons.vector_files import Bounds
from pipeline.raster import Header, MapGrid, map_grid

__all__ = ["Placement", "extent_text", "placement_of"]

STRAIGHT = 0.1  # pixels by which an edge between two corners may differ from the curve that it is on the map of the image
SHORT = 16.0  # pixels: shorter edges are straight to a tenth of a pixel, unless a pixel has more than 10 km
MOST_PIECES = 1 << 12  # of one edge
BATCH = 1 << 18  # corners that are transformed at a time: rasterio makes Python lists of them
LONGITUDES = 360.0


@dataclass(frozen=True)
class Placement:
    """Where an image lies.

    Attributes:
        path: the file of polygons, for messages.
        shape: height and width of the image.
        grid: its grid on the map; None: it has none, and coordinates are pixels.
        full: height and width of the largest level of the image's pyramid, in whose pixels polygons are drawn.
    """

    path: str
    shape: tuple[int, int]
    grid: MapGrid | None
    full: tuple[int, int]

    @property
    def corners(self) -> NDArray[np.float64]:
        """Points (N, 2) along the border of the image, in map coordinates; 21 on each side, as a border may be a curve elsewhere."""
        height, width = self.shape
        along = np.linspace(0.0, 1.0, 21)
        x, y = np.r_[along, along, 0 * along, 0 * along + 1] * width, np.r_[0 * along, 0 * along + 1, along, along] * height
        return self._to_map(np.c_[x, y])

    @property
    def is_known(self) -> bool:
        """Whether PROJ can relate the map of the image to others."""
        crs = None if self.grid is None else _crs(self.grid.wkt)
        return crs is not None and bool(crs.is_geographic or crs.is_projected)

    def bounds_in(self, system: str) -> Bounds | None:
        """Return the bounds of the image in a coordinate system, with a margin; None where they cannot be told or cross longitude 180."""
        if self.grid is None or not (self._is_same(system) or self.is_known):
            return None
        from rasterio.warp import transform_bounds

        corners = self.corners
        (left, bottom), (right, top) = corners.min(axis=0), corners.max(axis=0)
        try:
            found = (
                (left, bottom, right, top) if self._is_same(system) else transform_bounds(self.grid.wkt, system, left, bottom, right, top)
            )
        except Exception:  # noqa: BLE001 - rasterio raises errors of GDAL that it does not export
            return None
        is_beyond = max(-found[0], found[2]) > LONGITUDES / 2 and _is_geographic(system)  # polygons may count longitudes otherwise
        if not np.isfinite(found).all() or found[0] > found[2] or is_beyond:
            return None
        wide, high = 0.02 * (found[2] - found[0]), 0.02 * (found[3] - found[1])
        return found[0] - wide, found[1] - high, found[2] + wide, found[3] + high

    def to_pixels(self, geometries: NDArray[np.object_], system: str) -> NDArray[np.object_]:
        """Return polygons, in ``system`` or in pixels where it is empty, in pixels of the image.

        Edges are straight in the coordinate system of the file. Where that of the image is another one, long edges get more corners, so
        that they follow their curve to a tenth of a pixel.

        Raises:
            InputError: the coordinates are outside of what the coordinate system of the image can show.
        """
        import shapely

        if not len(geometries):
            return geometries
        if not system or self.grid is None:
            steps = np.divide(self.shape, self.full)[::-1]
            return geometries if (steps == 1).all() else shapely.transform(geometries, lambda corners: corners * steps)
        kind, corners, offsets = shapely.to_ragged_array(geometries)
        if _is_geographic(system):
            self._check_edges(corners, offsets[0])
        if not self._is_same(system):
            corners, offsets = self._warped(corners, offsets, system)
        if _is_geographic(self.grid.wkt):
            corners = self._wrapped(corners, offsets) if _is_geographic(system) else self._unwrapped(corners, offsets[0])
        found: NDArray[np.object_] = shapely.from_ragged_array(kind, self._from_map(corners), offsets)
        return found

    def _warped(self, corners: NDArray[np.float64], offsets: tuple[Any, ...], system: str) -> tuple[NDArray[np.float64], tuple[Any, ...]]:
        """Transform corners to the map of the image, with more of them along edges that are curves there."""
        to_map = self._transformer(system)
        moved = to_map(corners)
        starts = np.ones(len(corners), bool)
        starts[np.asarray(offsets[0][1:], np.intp) - 1] = False  # the last corner of a ring begins no edge
        starts = np.flatnonzero(starts)
        step = np.zeros_like(corners)
        step[starts] = corners[starts + 1] - corners[starts]
        length = np.hypot(*(self._from_map(moved[starts]) - self._from_map(moved[starts + 1])).T)
        is_wide = np.abs(step[starts]).max(axis=1) > 1 if _is_geographic(system) else False  # a parallel may end where it begins
        starts = starts[(length > SHORT) | is_wide]
        away = np.zeros(len(starts))
        for share in (0.25, 0.5):
            straight = moved[starts] + share * (moved[starts + 1] - moved[starts])
            gap = self._from_map(to_map(corners[starts] + share * step[starts])) - self._from_map(straight)
            away = np.maximum(away, np.hypot(*gap.T))
        pieces = np.ones(len(corners), np.intp)
        pieces[starts] = np.clip(np.ceil(np.sqrt(away / STRAIGHT)), 1, MOST_PIECES).astype(np.intp)
        if (pieces == 1).all():
            return moved, offsets
        first = np.cumsum(pieces) - pieces
        shares = (np.arange(pieces.sum()) - np.repeat(first, pieces)) / np.repeat(pieces, pieces)
        dense = np.repeat(corners, pieces, axis=0) + shares[:, None] * np.repeat(step, pieces, axis=0)
        ends = np.append(first, pieces.sum())
        return to_map(dense), (ends[np.asarray(offsets[0], np.intp)], *offsets[1:])

    def _check_edges(self, corners: NDArray[np.float64], rings: NDArray[Any]) -> None:
        """Refuse edges that go round more than half of the earth: their polygon crosses longitude 180 and was not cut there."""
        widths = np.abs(np.diff(corners[:, 0]))
        widths[np.asarray(rings[1:-1], np.intp) - 1] = 0
        wide = (widths > LONGITUDES / 2) & (widths < LONGITUDES)
        if wide.any():
            at = corners[int(wide.argmax())]
            found = f"an edge of {widths[wide.argmax()]:.1f} degrees of longitude, at {at[0]:.4f}, {at[1]:.4f}"
            fix = "Cut polygons that cross longitude 180, as RFC 7946 asks: ogr2ogr -wrapdateline."
            raise InputError(Problem(self.path, found, "edges of at most 180 degrees", fix))

    def _wrapped(self, corners: NDArray[np.float64], offsets: tuple[Any, ...]) -> NDArray[np.float64]:
        """Move each part of a polygon by full turns of longitude to where the image is: a map may count from 0 to 360."""
        along = self.corners[:, 0]
        if np.abs(along).max() <= LONGITUDES / 2:
            return corners
        ends = np.asarray(offsets[0], np.intp)[np.asarray(offsets[1], np.intp)]
        least, most = (reduce.reduceat(corners[:, 0], ends[:-1]) for reduce in (np.minimum, np.maximum))
        turns = np.floor(((least + most) / 2 - along.mean() + LONGITUDES / 2) / LONGITUDES)
        return np.stack([corners[:, 0] - LONGITUDES * np.repeat(turns, np.diff(ends)), corners[:, 1]], axis=1)

    def _unwrapped(self, corners: NDArray[np.float64], offsets: NDArray[Any]) -> NDArray[np.float64]:
        """Return longitudes that do not jump along a ring, each ring beginning within half a turn of the image."""
        rings = np.asarray(offsets, np.intp)
        jumps = np.round(np.diff(corners[:, 0], prepend=corners[0, 0]) / LONGITUDES)
        turns = np.cumsum(jumps)
        first = np.floor((corners[rings[:-1], 0] - self.corners[:, 0].mean() + LONGITUDES / 2) / LONGITUDES)
        turns += np.repeat(first - turns[rings[:-1]], np.diff(rings))
        found = np.stack([corners[:, 0] - LONGITUDES * turns, corners[:, 1]], axis=1)
        if (turns[rings[:-1]] != turns[rings[1:] - 1]).any():
            raise self._outside("a ring round a pole")
        return found

    def _transformer(self, system: str) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
        from rasterio.warp import transform

        assert self.grid is not None
        if not self.is_known:
            found = f"polygons in {_title(system)}, for an image whose coordinate system is not known to PROJ"
            fix = "Give the image a known system, such as with gdal_edit.py -a_srs, or the polygons the image's."
            raise InputError(Problem(self.path, found, "one coordinate system, or two that PROJ knows", fix))
        target = self.grid.wkt

        def to_map(points: NDArray[np.float64]) -> NDArray[np.float64]:
            parts = []
            try:
                for start in range(0, len(points), BATCH):
                    x, y = points[start : start + BATCH].T
                    parts.append(np.stack(transform(_crs(system), _crs(target), x, y)[:2], axis=1))
            except Exception as error:  # rasterio raises errors of GDAL that it does not export
                raise self._outside(str(error)) from error
            moved = np.concatenate(parts) if parts else points
            if not np.isfinite(moved).all():
                raise self._outside("infinite coordinates")
            return moved

        return to_map

    def _outside(self, cause: str) -> InputError:
        found = f"coordinates that the coordinate system of the image cannot show ({' '.join(cause.split())})"
        return InputError(Problem(self.path, found, "polygons near the image", "Cut them, such as with ogr2ogr -clipsrc."))

    def _is_same(self, system: str) -> bool:
        assert self.grid is not None
        return bool(_crs(system) == _crs(self.grid.wkt))

    def _to_map(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        assert self.grid is not None
        a, b, c, d, e, f = self.grid.matrix
        x, y = points.T
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    def _from_map(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        assert self.grid is not None
        a, b, c, d, e, f = self.grid.matrix
        x, y = points[:, 0] - c, points[:, 1] - f
        return np.stack([(e * x - b * y) / (a * e - b * d), (a * y - d * x) / (a * e - b * d)], axis=1)


def placement_of(path: str, header: Header) -> Placement:
    """Return where an image lies.

    Raises:
        InputError: its affine cannot be inverted.
    """
    grid = map_grid(header.georeference)
    if grid is not None:
        a, b, c, d, e, f = grid.matrix
        if not np.isfinite(grid.matrix).all() or not a * e - b * d:
            found = f"an image whose pixels have no area on its map ({a:g}, {b:g}, {c:g}, {d:g}, {e:g}, {f:g})"
            raise InputError(Problem(path, found, "a georeference with pixels of a size"))
    return Placement(path, header.shape, grid, header.levels[0] if header.levels else header.shape)


def extent_text(bounds: Bounds, system: str) -> str:
    """Return bounds in words.

    Example:
        >>> extent_text((10.0, 20.0, 30.5, 50.0), "")
        'x 10 to 30.5, y 20 to 50 (pixels)'
    """
    left, bottom, right, top = bounds
    return f"x {left:.10g} to {right:.10g}, y {bottom:.10g} to {top:.10g} ({_title(system) or 'pixels'})"


def _title(system: str) -> str:
    if not system:
        return ""
    crs = _crs(system)
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt()).split('"')[1]


def _is_geographic(system: str) -> bool:
    return bool(_crs(system).is_geographic)


def _crs(system: str) -> Any:
    from rasterio.crs import CRS

    return CRS.from_user_input("EPSG:4326" if system == "OGC:CRS84" else system)
