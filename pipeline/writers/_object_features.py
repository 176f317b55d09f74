"""Objects as map features: the columns of their table, and a geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from typing_extensions import override

from pipeline.errors import Problem
from pipeline.raster import Header, Raster
from pipeline.storage import Storage
from pipeline.writers import MaskMeta, ObjectsView, Writer
from pipeline.writers._object_polygons import object_polygons
from pipeline.writers._placement import Coordinates, Placement, missing_geo_packages, no_degrees, placement_of
from pipeline.writers._polygon_files import FORMAT_PACKAGES, Features, PolygonFormat, write_polygons

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FeatureWriter", "object_features"]


class FeatureWriter(Writer):
    """Base of the writers of objects for GIS programs."""

    folder: ClassVar[str] = "polygons"
    holds_mask: ClassVar[bool] = False
    required_keys: ClassVar[tuple[str, ...]] = ("instances",)
    form: ClassVar[PolygonFormat]
    """Format of the file."""

    simplify: float = Field(default=0.0, ge=0, description="how far the edges of each object may move, pixels of the mask; 0: not at all")
    coordinates: Coordinates = "auto"

    @override
    def problem_with(self, name: str, header: Header, where: str) -> Problem | None:
        return no_degrees(name, header, where) if self.coordinates == "wgs84" else None

    @override
    def missing(self) -> str:
        return missing_geo_packages("rasterio", "shapely", *FORMAT_PACKAGES[self.form])

    @override
    def export(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        objects = self.objects_of(meta)
        placement = placement_of(objects.meta, self.coordinates)
        with storage.local_file(key, durable=False) as path:
            write_polygons(path, self.form, "objects", object_features(objects, placement, self.simplify), placement)


def object_features(objects: ObjectsView, placement: Placement, simplify: float) -> Features:
    """Yield the table of objects in parts, at least one, with classes as text, and the geometry of each row in its place."""
    for table, outlines in object_polygons(objects):
        yield _with_plain_class(table), placement.place(outlines, simplify)


def _with_plain_class(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    at = table.column_names.index("class")
    return table.set_column(at, "class", table["class"].cast(pa.string()))
