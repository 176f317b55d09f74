"""GeoJSON: polygons of the classes or of the objects, for QuPath and GIS programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from pydantic import Field
from typing_extensions import override

from pipeline.errors import Problem
from pipeline.raster import Header, Raster
from pipeline.storage import Storage
from pipeline.writers import MaskMeta, ObjectsView, Writer
from pipeline.writers._class_polygons import class_polygons
from pipeline.writers._object_polygons import object_polygons
from pipeline.writers._placement import Coordinates, Placement, missing_geo_packages, no_degrees, pixel_size_of, placement_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["GeoJson"]

BEGIN = '{"type": "FeatureCollection", "features": ['
NO_MEASUREMENT = ("class", "t", "z", "bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1", "first_y", "first_x")  # columns of the table


class GeoJson(Writer):
    """Polygons as GeoJSON for QuPath and maps: a detection for each object, or an annotation for each connected area of a class.

    Polygons have holes, follow pixel edges and are not split at block borders. Coordinates are (x, y) in pixels of the image at full
    resolution, whose size is the member ``pixel_size``; for a georeferenced image they are map coordinates, and the file names the
    coordinate system. With ``wgs84`` they are longitude and latitude, as RFC 7946 (2016) requires.

    Objects have their class, and the columns of the object table as measurements; an object whose parts touch at corners only is a
    MultiPolygon. They are written in batches, in the order of their ids. Areas of classes are 4-connected, and class 0 has none. For
    GIS programs, the writer ``polygons`` has more formats, areas on the ground, and GeoJSON as RFC 7946 asks.

    Example::

        writers: [{name: ome_zarr}, {name: geojson, simplify: 1}]
    """

    suffix: ClassVar[str] = ".geojson"
    folder: ClassVar[str] = "polygons"
    holds_mask: ClassVar[bool] = False

    of: Literal["auto", "classes", "objects"] = Field(default="auto", description="auto: objects if the run tells them apart, else classes")
    simplify: float = Field(
        default=0.0, ge=0, description="how far edges may move, pixels of the mask; neighbouring classes keep a common edge; 0: not at all"
    )
    coordinates: Coordinates = "auto"

    @property
    @override
    def needs_objects(self) -> bool:
        return self.of == "objects"

    @override
    def problem_with(self, name: str, header: Header, where: str) -> Problem | None:
        return no_degrees(name, header, where) if self.coordinates == "wgs84" else None

    @override
    def missing(self) -> str:
        return missing_geo_packages("rasterio", "shapely")

    @override
    def export(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        objects = self.objects_of(meta) if self.of == "objects" else meta.objects if self.of == "auto" else None
        meta = meta if objects is None else objects.meta
        placement = placement_of(meta, self.coordinates)
        features = self._classes(mask, meta, placement) if objects is None else self._objects(objects, placement)
        with storage.local_file(key, durable=False) as path, path.open("w", encoding="utf-8") as file:
            file.write(BEGIN)
            separator = "\n"
            for feature in features:
                file.write(f"{separator}{feature}")
                separator = ",\n"
            file.write(f"\n]{_members(meta, placement)}}}\n")

    def _objects(self, objects: ObjectsView, placement: Placement) -> Iterator[str]:
        """Yield a detection for each object."""
        import shapely

        meta = objects.meta
        specs = {str(spec["name"]): spec for spec in meta.classes}
        for table, outlines in object_polygons(objects):
            geometries = shapely.to_geojson(placement.place(outlines, self.simplify))
            columns = table["id"].to_pylist(), table["class"].to_pylist(), geometries, _places(meta, table), _measurements(table)
            for object_id, name, geometry, place, measurements in zip(*columns, strict=True):
                spec = specs.get(name, {"name": name})
                yield _feature(f"{meta.source}#object {object_id}", _at(geometry, place), "detection", spec, measurements)

    def _classes(self, mask: Raster, meta: MaskMeta, placement: Placement) -> Iterator[str]:
        """Yield an annotation for each connected area of a class."""
        import shapely

        for plane in range(mask.header.num_planes):
            index = map(int, np.unravel_index(plane, tuple(meta.planes.values()))) if meta.planes else ()
            at = dict(zip(meta.planes, index, strict=True)) if meta.planes else None
            number = 0
            for areas in class_polygons(mask, meta, plane, simplify=self.simplify, every=placement.every):
                for value, shape in zip(areas.classes.tolist(), placement.place(areas.polygons), strict=True):
                    spec = meta.classes[value] if value < len(meta.classes) else {"name": str(value)}
                    for part in getattr(shape, "geoms", [shape]):  # the antimeridian, or repairing a polygon, may have split it
                        if not part.is_empty:
                            seed = f"{meta.source}#{plane}.{value}.{number}.{part.bounds}"
                            yield _feature(seed, _at(shapely.to_geojson(part), at), "annotation", spec)
                    number += 1


def _feature(seed: str, geometry: str, kind: str, spec: Mapping[str, Any], measurements: Mapping[str, float] | None = None) -> str:
    """Return an object of QuPath as JSON.

    Args:
        seed: what its identifier is derived from, unique in the file.
        geometry: as JSON.
        kind: ``annotation`` or ``detection``.
        spec: name of the class, and colour if it has one.
        measurements: numbers by name; None: the object has no measurements.
    """
    color = list(bytes.fromhex(spec.get("color", "#ffffff").lstrip("#")))
    properties: dict[str, Any] = {"objectType": kind, "classification": {"name": spec["name"], "color": color}}
    if measurements is not None:
        properties["measurements"] = measurements
    identifier = uuid5(NAMESPACE_URL, seed)
    return f'{{"type": "Feature", "id": "{identifier}", "geometry": {geometry}, "properties": {json.dumps(properties)}}}'


def _at(geometry: str, place: Mapping[str, int] | None) -> str:
    """Add the position in a stack to a geometry, as QuPath writes it."""
    if place is None:
        return geometry
    return f'{geometry[:-1]}, "plane": {json.dumps({"c": -1, "z": place.get("z", 0), "t": place.get("t", 0)})}}}'


def _places(meta: MaskMeta, table: pa.Table) -> Iterator[Mapping[str, int] | None]:
    """Yield the position in the stack of each row; None where there is no stack."""
    if not meta.planes:
        return iter([None] * table.num_rows)
    return iter(table.select(list(meta.planes)).to_pylist())


def _measurements(table: pa.Table) -> Iterator[dict[str, float]]:
    """Yield the finite numbers of each row, by column; booleans become 0 or 1."""
    names = [name for name in table.column_names if name not in NO_MEASUREMENT]
    columns = [table.column(name).to_pylist() for name in names]
    for values in zip(*columns, strict=True):
        yield {name: +value for name, value in zip(names, values, strict=True) if value is not None and math.isfinite(value)}


def _members(meta: MaskMeta, placement: Placement) -> str:
    """Return the members after the features: the coordinate system, or the size of a pixel."""
    if placement.urn:
        return f', "crs": {json.dumps({"type": "name", "properties": {"name": placement.urn}})}'
    size = pixel_size_of(meta) if placement.crs is None else None
    return f', "pixel_size": {json.dumps(size)}' if size else ""
