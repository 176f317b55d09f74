"""Regions as polygons or mask files, read by box; a pixel belongs to a polygon if its centre does.

With the extra ``geo``, polygons are those of :mod:`pipeline.polygons`: of any format and coordinate system. Without it, GeoJSON is read
here, in pixels or in the coordinate system of the image.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.polygons import is_polygons, missing_packages, read_polygons
from pipeline.raster import Header, NearestRaster, Raster, affine, coordinate_system, resampled_header

if TYPE_CHECKING:
    from pipeline.skips import SkippedImage

__all__ = ["MaskFile", "Polygons", "find_regions", "read_geojson", "unpack_polygons"]

PROPORTIONS = 0.02  # the aspect ratios of mask and image may differ by this share
MASK_READER = {"name": "auto"}
GEOJSON_SUFFIXES = (".geojson", ".json")
Ring = NDArray[np.float64]
"""Corners (n, 2) of a closed line, as x, y."""


@dataclass(frozen=True)
class Polygons:
    """Polygons in pixels of the working grid, (0, 0) being the outer corner of the first pixel.

    Attributes:
        polygons: outer ring and holes of each polygon.
        is_inside: whether the inside is kept; else the outside.
    """

    polygons: Sequence[Sequence[Ring]]
    is_inside: bool = True

    @cached_property
    def _bounds(self) -> NDArray[np.float64]:
        """Least x and y, greatest x and y of each polygon; a hole may be drawn beyond the outer ring."""
        corners = [np.concatenate(rings) for rings in self.polygons]
        return np.array([[*one.min(axis=0), *one.max(axis=0)] for one in corners]).reshape(-1, 4)

    def of(self, box: Box, plane: int) -> NDArray[np.bool_]:
        """Return the kept pixels. The centre of a pixel is inside by the even-odd rule over a polygon's ring and holes."""
        del plane
        inside_YX = np.zeros(box.shape, np.bool_)
        for index in self._near(box):
            inside_YX |= _even_odd(self.polygons[index], box)
        return inside_YX if self.is_inside else ~inside_YX

    def has_any(self, box: Box, plane: int) -> bool:
        """Whether any pixel is kept."""
        return bool(self.of(box, plane).any()) if len(self._near(box)) else not self.is_inside

    def is_outside(self, box: Box) -> bool:
        """Whether no polygon's bounds reach into a box."""
        return not len(self._near(box))

    def _near(self, box: Box) -> NDArray[np.intp]:
        left, top, right, bottom = self._bounds.T
        return np.flatnonzero((left < box.x1) & (right > box.x0) & (top < box.y1) & (bottom > box.y0))


def _even_odd(rings: Sequence[Ring], box: Box) -> NDArray[np.bool_]:
    """Return the pixels whose centre has an odd number of edges to its left; the result does not depend on the box."""
    height, width = box.shape
    toggles_YX = np.zeros((height, width + 1), np.int32)
    for ring in rings:
        start, end = ring, np.roll(ring, -1, axis=0)
        is_down = start[:, 1] > end[:, 1]
        low, high = np.where(is_down[:, None], end, start), np.where(is_down[:, None], start, end)
        # Rows whose centres lie in low.y <= y < high.y.
        first = np.clip(np.ceil(low[:, 1] - 0.5), box.y0, box.y1).astype(np.intp)
        last = np.clip(np.ceil(high[:, 1] - 0.5), box.y0, box.y1).astype(np.intp)
        counts = np.maximum(last - first, 0)
        edge = np.repeat(np.arange(len(ring)), counts)
        row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        along = (row + 0.5 - low[edge, 1]) / (high[edge, 1] - low[edge, 1])
        cross = low[edge, 0] + along * (high[edge, 0] - low[edge, 0])
        col = np.clip(np.ceil(cross - 0.5), box.x0, box.x1).astype(np.intp)
        np.add.at(toggles_YX, (row - box.y0, col - box.x0), 1)
    return np.asarray(np.cumsum(toggles_YX, axis=1)[:, :width] % 2 == 1)


@dataclass(frozen=True)
class MaskFile:
    """The marked pixels of a mask file, resampled to the working grid by nearest pixels."""

    raster: Raster
    header: Header
    is_inside: bool

    @cached_property
    def _on_grid(self) -> NearestRaster:
        height, width = (mask / working for mask, working in zip(self.raster.header.shape, self.header.shape, strict=True))
        header = resampled_header(self.raster.header, (height, width), shape=self.header.shape)
        return NearestRaster(self.raster, header, (height, width))

    def of(self, box: Box, plane: int) -> NDArray[np.bool_]:
        """Return the kept pixels; a mask of one plane applies to every plane."""
        pixels_CYX, valid_YX = self._on_grid.read_valid(box, plane if self.raster.header.num_planes > plane else 0)
        marked_YX = (pixels_CYX != 0).any(axis=0)
        marked_YX = marked_YX if valid_YX is None else marked_YX & valid_YX
        return np.asarray(marked_YX if self.is_inside else ~marked_YX)

    def has_any(self, box: Box, plane: int) -> bool:
        """Whether any pixel is kept."""
        return bool(self.of(box, plane).any())


def find_regions(file: str, image: SkippedImage, *, is_inside: bool, layer: str | None = None) -> dict[str, Any]:
    """Return regions of an image as plain JSON; ``layer`` is that of a file of several layers of polygons.

    Raises:
        InputError: the file does not hold regions of this image.
    """
    if not is_polygons(file):
        with build("readers", MASK_READER, "skip").open(file) as raster:
            steps = [mask / own for mask, own in zip(raster.header.shape, image.own.shape, strict=True)]
            if abs(steps[0] / steps[1] - 1) > PROPORTIONS:
                raise InputError(Problem(file, f"a mask of {raster.header.shape} pixels", f"the proportions of {image.own.shape}"))
        return {"mask": file, "is_inside": is_inside}
    polygons = _polygons_of(file, image.own, layer)
    _require_overlap(polygons, image.own, file)
    height, width = (working / own for working, own in zip(image.header.shape, image.own.shape, strict=True))
    corners = [ring * (width, height) for rings in polygons for ring in rings]
    packed = zlib.compress(np.concatenate(corners).astype("<f8").tobytes(), 6)
    return {
        "corners": base64.b64encode(packed).decode("ascii"),
        "lengths": [[len(ring) for ring in rings] for rings in polygons],
        "is_inside": is_inside,
    }


def _polygons_of(file: str, own: Header, layer: str | None) -> list[list[Ring]]:
    """Return outer ring and holes of each polygon, in pixels of the image's own grid."""
    if missing_packages() and file.lower().endswith(GEOJSON_SUFFIXES):
        return read_geojson(file, own)
    import shapely

    found = read_polygons(file, own, layer=layer)
    if not len(found):
        raise InputError(Problem(file, "no polygon within the image", "a region", "Without one, nothing or everything would be kept."))
    return [[np.array(ring.coords) for ring in (one.exterior, *one.interiors)] for one in shapely.get_parts(found.geometries)]


def _require_overlap(polygons: Sequence[Sequence[Ring]], own: Header, file: str) -> None:
    """Refuse polygons that all lie outside of the image: they are another image's, or in another unit."""
    corners = np.concatenate([rings[0] for rings in polygons])
    if Polygons(polygons).is_outside(Box(0, 0, *own.shape)):
        (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
        found = f"polygons from x {x0:.0f}, y {y0:.0f} to x {x1:.0f}, y {y1:.0f}, all outside of the image"
        expected = f"some within its {own.shape[1]} x {own.shape[0]} pixels (x, y)"
        raise InputError(Problem(file, found, expected, "Coordinates are pixels of the full resolution, not micrometres."))


def unpack_polygons(found: Mapping[str, Any]) -> Polygons:
    """Return the polygons of :func:`find_regions`, cached because each block asks for them."""
    return _unpacked(found["corners"], json.dumps(found["lengths"]), found["is_inside"])


@lru_cache(maxsize=16)
def _unpacked(text: str, lengths: str, is_inside: bool) -> Polygons:
    corners = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f8").reshape(-1, 2)
    sizes = json.loads(lengths)
    rings = iter(np.split(corners, np.cumsum([size for some in sizes for size in some])[:-1]))
    return Polygons([[next(rings) for _ in some] for some in sizes], is_inside)


def read_geojson(file: str, own: Header) -> list[list[Ring]]:
    """Read the polygons of a GeoJSON without the extra ``geo``, in pixels of the image's own grid.

    Raises:
        InputError: the file is no GeoJSON, holds no polygon, or its coordinates are not those of the image.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8-sig"))
        polygons = [[_ring(ring) for ring in polygon] for polygon in _polygons_in(content)]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise InputError(
            Problem(file, f"no GeoJSON ({' '.join(str(error).split())})", "GeoJSON polygons, as QuPath exports them")
        ) from error
    if not polygons:
        raise InputError(Problem(file, "no polygon", "a Polygon or a MultiPolygon", "Lines and points have no inside."))
    name = content.get("crs", "") if isinstance(content, dict) else ""
    if not name:
        _refuse_degrees(file, own, polygons, is_said=name is None)
        steps = np.divide(own.shape, own.levels[0] if own.levels else own.shape)[::-1]
        return [[ring * steps for ring in rings] for rings in polygons]
    code = re.search(r"EPSG:+(?:[\d.]*:)?(\d+)", json.dumps(name))
    to_map, system = affine(own.georeference), coordinate_system(own.georeference)
    if to_map is None or code is None or int(code[1]) != system:
        found = f"coordinates in {f'EPSG:{code[1]}' if code else name}"
        expected = f"EPSG:{system}, as the image has" if system and to_map is not None else "pixels, as the image has no coordinate system"
        fix = 'Export the regions so, or in pixels without a crs; any system is read after: pip install "gigaseg[geo]"'
        raise InputError(Problem(file, found, expected, fix))
    to_pixels = np.linalg.inv(to_map)
    return [[(np.c_[ring, np.ones(len(ring))] @ to_pixels.T)[:, :2] for ring in rings] for rings in polygons]


def _refuse_degrees(file: str, own: Header, polygons: Sequence[Sequence[Ring]], *, is_said: bool) -> None:
    """Refuse numbers on a map that may be longitude and latitude, if the file does not say by ``crs: null`` that they are pixels."""
    largest_x, largest_y = np.abs(np.concatenate([ring for rings in polygons for ring in rings])).max(axis=0)
    if not is_said and affine(own.georeference) is not None and largest_x <= 180 and largest_y <= 90:
        fix = 'Longitude and latitude are read after: pip install "gigaseg[geo]". If they are pixels, say so by the member "crs": null.'
        raise InputError(Problem(file, "a GeoJSON without a crs, whose numbers may be degrees", "pixels, or the crs of the map", fix))


def _polygons_in(content: Any) -> Iterator[list[Any]]:
    """Yield the rings of each polygon of a collection, a feature, a geometry, or a list of them."""
    if isinstance(content, list):
        for one in content:
            yield from _polygons_in(one)
        return
    kind = content["type"]
    if kind == "FeatureCollection":
        yield from _polygons_in(content["features"])
    elif kind == "Feature":
        yield from _polygons_in(content["geometry"] or [])
    elif kind == "GeometryCollection":
        yield from _polygons_in(content["geometries"])
    elif kind == "Polygon":
        yield from [content["coordinates"]] if content["coordinates"] else []
    elif kind == "MultiPolygon":
        yield from content["coordinates"]


def _ring(points: Any) -> Ring:
    corners = np.array([point[:2] for point in points], np.float64)
    if corners.ndim != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise ValueError("a ring of less than three points")
    return corners
