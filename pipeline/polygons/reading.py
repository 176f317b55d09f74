"""Reading of polygons onto the grid of an image: which coordinates they are in, what is dropped, repaired, refused and told."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem, counted
from pipeline.polygons.layer import PolygonLayer
from pipeline.polygons.placement import Placement, extent_text, placement_of
from pipeline.polygons.vector_files import PIXELS, Bounds, Table, companions, extent_of, read_table, require_packages
from pipeline.raster import Header
from pipeline.storage import fetch, fetch_files

__all__ = ["read_polygons"]

WGS84 = "EPSG:4326"
CACHE_BYTES = 64 << 20  # of layers that a process keeps, apart from the one it used last, and of the last file that was read whole
_LAYERS: OrderedDict[str, PolygonLayer] = OrderedDict()
_TABLES: dict[str, Table] = {}  # the last one that was read whole, for the next image
_LOCK = threading.Lock()


def read_polygons(
    path: str, header: Header, *, layer: str | None = None, attribute: str | None = None, may_miss: bool = False
) -> PolygonLayer:
    """Return the polygons of a file that touch an image, in pixels of its grid; a process reads a file once for each image.

    The coordinate system is that of the file. A GeoJSON without a ``crs`` member is in pixels if the image has no coordinate system, as
    QuPath exports it. On a map, it is in longitude and latitude, as RFC 7946 says, or in pixels if its numbers are no longitudes and
    latitudes; where they may be both, it is refused. A member ``"crs": null`` says pixels. Files of other formats without a coordinate
    system are in pixels, and refused on a map.

    Args:
        path: GeoJSON, GeoPackage, Shapefile, FlatGeobuf or GeoParquet.
        header: of the image; its shape and georeference.
        layer: name of the layer; None: the only one.
        attribute: name of the attribute whose values are read; None: none.
        may_miss: return a layer without polygons if it lies elsewhere, instead of refusing it.

    Raises:
        InputError: the file, the layer or the attribute does not exist, no polygon is there, the layer lies elsewhere, or it is not
            clear where it lies.
    """
    require_packages(path)
    file = _local(path)
    grid = json.dumps([header.shape, header.levels[:1], dict(header.georeference)], default=str)
    with _LOCK:
        read = partial(_read, file, path, header, layer, attribute, may_miss)
        return _cached(_LAYERS, f"{_state(path, file)} {layer} {attribute} {grid} {may_miss}", read)


def _cached(kept: OrderedDict[str, PolygonLayer], key: str, read: Callable[[], PolygonLayer]) -> PolygonLayer:
    """Return what was read before; the least recently used entries leave where all together are too large."""
    found = kept.pop(key, None)
    found = read() if found is None else found
    kept[key] = found
    while len(kept) > 1 and sum(one.nbytes for one in kept.values()) > CACHE_BYTES:
        kept.popitem(last=False)
    return found


def _state(path: str, file: str) -> str:
    """Return what tells a file and those beside it from others and from itself after a change."""
    found = [Path(one) for one in (file, *companions(file))]
    return f"{path} {[(state.st_size, state.st_mtime_ns) for one in found if one.exists() for state in [one.stat()]]}"


def _local(path: str) -> str:
    """Return the path of the file on this machine; one at a URL is fetched with those beside it."""
    if "://" in path and (beside := companions(path)):
        folder, _, name = path.rpartition("/")
        names = (name, *(one.rpartition("/")[2] for one in beside))
        return str(fetch_files(folder, names) / name)
    return str(fetch(path))


def _read(file: str, path: str, header: Header, layer: str | None, attribute: str | None, may_miss: bool) -> PolygonLayer:
    import shapely

    place = placement_of(path, header)
    key = f"{_state(path, file)} {layer} {attribute}"
    table = _TABLES.pop(key, None) or _areal(read_table(file, path, layer, attribute, place.bounds_in), path)
    if table.is_all and table.nbytes <= CACHE_BYTES:
        _TABLES.clear()
        _TABLES[key] = table
    if table.is_all and not len(table.geometries):
        raise InputError(_no_polygon(path))
    system, told = _system_of(table, place)
    near, drawn = _drawn(table, place, system)
    if not len(near) and not may_miss:
        _require_overlap(table, system, place, file, layer)
    wrong = ~np.asarray(shapely.is_valid(drawn))
    drawn[wrong] = [_repaired(one) for one in drawn[wrong]]
    kept = np.array([not one.is_empty for one in drawn], bool)
    notes = [*table.notes, *told]
    if wrong.any():
        notes.append(f"{counted(int(wrong.sum()), 'invalid polygon')} repaired, such as rings that cross themselves")
    if not kept.all():
        notes.append(f"{counted(int((~kept).sum()), 'invalid polygon')} without an area left out")
    if not kept.any():
        notes.append("no polygon lies in the image")
    near, drawn = near[kept], drawn[kept]
    values = None if table.values is None else table.values[near]
    return PolygonLayer(drawn, values, table.numbers[near], header.shape, tuple(notes), is_placed=bool(system))


def _no_polygon(path: str) -> Problem:
    return Problem(path, "no polygon", "a Polygon or a MultiPolygon", "Lines and points have no inside.")


def _areal(table: Table, path: str) -> Table:
    """Keep polygons, and those of collections."""
    import shapely

    found = table.geometries
    if not np.isfinite(shapely.get_coordinates(found)).all():
        fix = "Remove them, such as with ogr2ogr -where."
        raise InputError(Problem(path, "coordinates that are no finite numbers", "finite coordinates", fix))
    collected = np.flatnonzero(shapely.get_type_id(found) == shapely.GeometryType.GEOMETRYCOLLECTION)
    if len(collected):
        found[collected] = [_polygons_of(found[index]) for index in collected]
    is_areal = np.isin(shapely.get_type_id(found), [shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON])
    kept = is_areal & ~shapely.is_empty(found)
    number = int((~kept).sum())
    notes = (f"{counted(number, 'geometry', 'geometries')} without an area left out, such as points and lines",) if number else ()
    values = None if table.values is None else table.values[kept]
    return replace(table, geometries=found[kept], values=values, numbers=table.numbers[kept], notes=notes)


def _drawn(table: Table, place: Placement, system: str) -> tuple[NDArray[np.intp], NDArray[np.object_]]:
    """Return the indices of the polygons whose bounds reach into the image, and these polygons in its pixels."""
    import shapely

    near = np.arange(len(table.geometries))
    bounds = place.bounds_in(system) if system else None
    if bounds is not None and table.is_all:  # a database has found them by its index
        left, bottom, right, top = shapely.bounds(table.geometries).T
        near = np.flatnonzero((left <= bounds[2]) & (right >= bounds[0]) & (bottom <= bounds[3]) & (top >= bounds[1]))
    drawn = place.to_pixels(table.geometries[near], system)
    left, top, right, bottom = shapely.bounds(drawn).reshape(-1, 4).T
    inside = (left < place.shape[1]) & (right > 0) & (top < place.shape[0]) & (bottom > 0)
    return near[inside], drawn[inside]


def _polygons_of(geometry: Any) -> Any:
    """Return the polygons of a collection, which may hold collections."""
    import shapely

    parts = shapely.get_parts(geometry)
    while (shapely.get_type_id(parts) == shapely.GeometryType.GEOMETRYCOLLECTION).any():
        parts = shapely.get_parts(parts)
    parts = shapely.get_parts(parts)
    return shapely.MultiPolygon(list(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]))


def _repaired(geometry: Any) -> Any:
    """Return what has an area in an invalid polygon; its overlapping parts are joined."""
    import shapely

    return _polygons_of(shapely.make_valid(geometry, method="structure", keep_collapsed=False))


def _system_of(table: Table, place: Placement) -> tuple[str, list[str]]:
    """Return the coordinate system of a layer, empty for pixels, and what was assumed."""
    if table.system is None:
        return _of_geojson(table, place)
    if table.system == PIXELS:
        return "", []
    if table.system and place.grid is None:
        fix = (
            "Give the image a place (gdal_translate -a_srs names its system, gdalwarp uses control points), or draw the polygons in pixels."
        )
        found = f"polygons in {extent_text(_extent(table), table.system).rpartition(' (')[2][:-1]}"
        raise InputError(Problem(place.path, found, "pixels, as the image has no coordinate system", fix))
    if not table.system and place.grid is not None:
        fix = 'Name it, such as with ogr2ogr -a_srs EPSG:32633; if they are pixels, export GeoJSON with the member "crs": null.'
        raise InputError(Problem(place.path, "polygons without a coordinate system", "one, as the image lies on a map", fix))
    return table.system, []


def _of_geojson(table: Table, place: Placement) -> tuple[str, list[str]]:
    """Decide between pixels, and longitude and latitude, for a GeoJSON that does not say."""
    left, bottom, right, top = extent = _extent(table)
    may_be_degrees = max(abs(left), abs(right)) <= 180 and max(abs(bottom), abs(top)) <= 90
    if place.grid is None:
        if may_be_degrees and max(right - left, top - bottom) < 1:
            fix = "Give the image a georeference, or export the polygons in pixels."
            found = f"polygons within one pixel, {extent_text(extent, '')}: are these degrees?"
            raise InputError(Problem(place.path, found, "pixels, as the image has no coordinate system", fix))
        return "", []
    if may_be_degrees:
        if not _may_be_drawn(table, place):
            return WGS84, []
        fix = 'If they are pixels, say so by the member "crs": null; else name their coordinate system by a member "crs".'
        found = f"a GeoJSON without a crs, {extent_text(extent, '')[:-9]}: pixels, or longitude and latitude?"
        raise InputError(Problem(place.path, found, "numbers that can be one of them alone", fix))
    return "", ["the GeoJSON has no crs, and its numbers are no degrees: they are read as pixels"]


def _may_be_drawn(table: Table, place: Placement) -> bool:
    """Whether numbers that may be degrees may be a drawing in pixels as well: within the image, and half of it larger than a pixel."""
    import shapely

    left, top, right, bottom = _extent(table)
    is_inside = min(left, top) >= 0 and right <= place.full[1] and bottom <= place.full[0]
    bounds = shapely.bounds(table.geometries)
    return is_inside and bool(np.median((bounds[:, 2:] - bounds[:, :2]).max(axis=1)) >= 1)


def _extent(table: Table) -> Bounds:
    import shapely

    left, bottom, right, top = shapely.total_bounds(table.geometries).tolist()
    return left, bottom, right, top


def _require_overlap(table: Table, system: str, place: Placement, file: str, layer: str | None) -> None:
    """Refuse a layer whose bounds do not meet the image's: it is another image's, or in other coordinates; and one of points alone."""
    import shapely

    if table.notes and not len(table.geometries):
        raise InputError(_no_polygon(place.path))
    extent = _extent(table) if table.is_all else extent_of(file, place.path, layer)
    if extent is None:
        raise InputError(_no_polygon(place.path))
    image = place.bounds_in(system) if system else (0.0, 0.0, float(place.full[1]), float(place.full[0]))
    if image is None:  # an image across longitude 180, or round a pole: everything was read
        left, top, right, bottom = shapely.total_bounds(place.to_pixels(table.geometries, system))
        if right < 0 or left > place.shape[1] or bottom < 0 or top > place.shape[0]:
            found = f"polygons at {extent_text(extent, system)}, all outside of the image"
            raise InputError(Problem(place.path, found, "some that meet the image", "Are they of another place?"))
    if image and (extent[0] > image[2] or extent[2] < image[0] or extent[1] > image[3] or extent[3] < image[1]):
        found = f"polygons at {extent_text(extent, system)}, all outside of the image"
        fix = "Coordinates are pixels of the full resolution, not micrometres." if not system else "Are they of another place?"
        raise InputError(Problem(place.path, found, f"some within {extent_text(image, system)}", fix))
