"""Polygons: areas of classes, or objects, for GIS programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from typing_extensions import override

from pipeline.errors import InputError, Problem
from pipeline.raster import Header, Raster, ground_area, map_grid, row_areas
from pipeline.storage import Storage
from pipeline.writers import MaskMeta, Writer
from pipeline.writers._class_polygons import ClassPolygons, class_polygons
from pipeline.writers._object_features import object_features
from pipeline.writers._placement import Coordinates, Placement, missing_geo_packages, no_degrees, placement_of
from pipeline.writers._polygon_files import FORMAT_PACKAGES, Features, PolygonFormat, write_polygons

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Polygons"]


class Polygons(Writer):
    """Polygons for QGIS, ArcGIS, PostGIS and geopandas: the areas of classes, or the objects where the run tells them apart.

    A polygon is a set of pixels of one class that are joined by their sides. It has holes, follows pixel edges, and is not split at
    the borders of blocks or of a mosaic's files; drawn again, polygons give the mask. Neighbours share every point of a common edge.
    Attributes are ``id``, ``class_id``, ``class``, ``area_px`` (pixels of the mask) and ``area_m2`` on the ground (``area_um2`` for
    micrometres); for stacks also ``t`` and ``z``; for objects the columns of the object table. The layer is ``classes`` or
    ``objects``. Areas count pixels of the mask, whatever ``simplify`` does.

    Coordinates are those of the map where the image has a georeference, else (x, y) in pixels of the image at full resolution.
    ``geojson`` is GeoJSON of RFC 7946: longitude and latitude, so that it needs a georeference. Polygons are written in batches; memory
    grows with the largest area alone, not with their number.

    Example::

        writers: [{name: ome_zarr}, {name: polygons, format: gpkg, simplify: 1}]
    """

    folder: ClassVar[str] = "polygons"
    holds_mask: ClassVar[bool] = False

    format: PolygonFormat = Field(default="gpkg", description="GeoPackage, GeoParquet 1.1, FlatGeobuf, or GeoJSON of RFC 7946")
    of: Literal["auto", "classes", "objects"] = Field(default="auto", description="auto: objects if the run tells them apart, else classes")
    background: bool | None = Field(
        default=None, description="whether class 0 has polygons too; null: unless its name is background or it has none"
    )
    simplify: float = Field(
        default=0.0,
        ge=0,
        description="corners go whose triangle with their neighbours is smaller than the square of this, pixels of the mask; neighbouring "
        "classes keep a common edge; edges of objects may move this far; 0: none",
    )
    coordinates: Coordinates = "auto"

    @model_validator(mode="after")
    def _has_degrees(self) -> Self:
        if self.format == "geojson" and self.coordinates == "pixel":
            raise ValueError("format gpkg, parquet or fgb with coordinates: pixel; RFC 7946 knows longitude and latitude alone")
        return self

    @property
    @override
    def suffix(self) -> str:
        return f".{self.format}"

    @property
    @override
    def needs_objects(self) -> bool:
        return self.of == "objects"

    @override
    def problem_with(self, name: str, header: Header, where: str) -> Problem | None:
        if self.format == "geojson" and map_grid(header.georeference) is None:
            return _no_place(where, name)
        return no_degrees(name, header, where) if self.format == "geojson" or self.coordinates == "wgs84" else None

    @override
    def missing(self) -> str:
        return missing_geo_packages("rasterio", "shapely", *FORMAT_PACKAGES[self.format])

    @override
    def export(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        objects = self.objects_of(meta) if self.of == "objects" else meta.objects if self.of == "auto" else None
        meta = meta if objects is None else objects.meta
        placement = placement_of(meta, "wgs84" if self.format == "geojson" else self.coordinates)
        if self.format == "geojson" and placement.crs is None:
            raise InputError(_no_place("writers", meta.source or key))
        features = self._classes(mask, meta, placement) if objects is None else object_features(objects, placement, self.simplify)
        with storage.local_file(key, durable=False) as path:
            write_polygons(path, self.format, "classes" if objects is None else "objects", features, placement)

    def _classes(self, mask: Raster, meta: MaskMeta, placement: Placement) -> Features:
        """Yield attributes and polygons of the areas of classes, at least one part."""
        row_sizes, unit = _row_sizes(meta)
        has_zero = self._has_class_zero(meta)
        first_id = 1
        for plane in range(mask.header.num_planes):
            options: dict[str, Any] = {"row_sizes": row_sizes, "simplify": self.simplify, "every": placement.every}
            for part in class_polygons(mask, meta, plane, background=has_zero, **options):
                yield _table(part, meta, plane, first_id, unit), placement.place(part.polygons)
                first_id += len(part.classes)
        if first_id == 1:
            none = np.zeros(0, np.int64)
            yield _table(ClassPolygons(none, none, np.zeros(0), none), meta, 0, 1, unit), np.zeros(0, object)

    def _has_class_zero(self, meta: MaskMeta) -> bool:
        if self.background is not None:
            return self.background
        return bool(meta.classes) and str(meta.classes[0]["name"]).casefold() not in ("background", "0", "")


def _no_place(where: str, name: str) -> Problem:
    fix = "Use format: gpkg, parquet or fgb, or the writer geojson: they also write pixels."
    return Problem(where, f"format: geojson, and {name} without a georeference", "longitude and latitude, as RFC 7946 asks", fix)


def _row_sizes(meta: MaskMeta) -> tuple[NDArray[np.float64] | None, str]:
    """Return the area of a pixel of each row, and its unit as the end of a column's name; None: unknown."""
    areas = row_areas(meta.header, 0, meta.shape[0])
    if areas is not None:
        return areas, "m2"
    known = ground_area(meta.header)
    return (None, "") if known is None else (np.full(meta.shape[0], known[0]), "um2")


def _table(part: ClassPolygons, meta: MaskMeta, plane: int, first_id: int, unit: str) -> pa.Table:
    """Return the attributes of areas of one plane."""
    import pyarrow as pa

    num = len(part.classes)
    names = [str(spec["name"]) for spec in meta.classes]
    stack = dict(zip(meta.planes, np.unravel_index(plane, tuple(meta.planes.values())), strict=True)) if meta.planes else {}
    columns: dict[str, Any] = {
        "id": np.arange(first_id, first_id + num, dtype=np.int64),
        "class_id": part.classes.astype(np.int32),
        "class": pa.array([names[at] if at < len(names) else str(at) for at in part.classes.tolist()], pa.string()),
        **{axis: np.full(num, at, np.int32) for axis, at in stack.items()},
        "area_px": part.pixels,
        **({f"area_{unit}": part.sizes} if unit else {}),
    }
    return pa.table(columns)
