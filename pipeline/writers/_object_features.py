"""Objects as map features: the columns of their table, and a geometry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from pipeline.writers import ObjectsView, Writer
from pipeline.writers._object_polygons import object_polygons
from pipeline.writers._placement import Coordinates, Placement, missing_geo_packages, placement_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FeatureWriter"]


class FeatureWriter(Writer):
    """Base of the writers of objects for GIS programs."""

    folder: ClassVar[str] = "polygons"
    holds_mask: ClassVar[bool] = False
    required_keys: ClassVar[tuple[str, ...]] = ("instances",)
    packages: ClassVar[tuple[str, ...]] = ("rasterio", "shapely")
    """Packages of the extra ``geo`` that the writer imports."""

    simplify: float = Field(default=0.0, ge=0, description="how far the edges of each object may move, pixels of the mask; 0: not at all")
    coordinates: Coordinates = "auto"

    @override
    def missing(self) -> str:
        return missing_geo_packages(*self.packages)

    def place(self, objects: ObjectsView) -> tuple[Placement, Iterator[tuple[pa.Table, NDArray[Any]]]]:
        """Return where the objects lie, and their table in parts, at least one, with classes as text, and the geometry of each row."""
        placement = placement_of(objects.meta, self.coordinates)
        return placement, (
            (_with_plain_class(table), placement.place(outlines, self.simplify)) for table, outlines in object_polygons(objects)
        )


def _with_plain_class(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    at = table.column_names.index("class")
    return table.set_column(at, "class", table["class"].cast(pa.string()))
