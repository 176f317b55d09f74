"""Objects as features of a map: the columns of their table, and a geometry in well-known binary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pipeline.writers._object_polygons import object_polygons
from pipeline.writers._objects import ObjectsView
from pipeline.writers._placement import Placement

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["feature_tables"]


def feature_tables(objects: ObjectsView, placement: Placement, simplify: float, *, as_multipolygons: bool = False) -> Iterator[pa.Table]:
    """Yield the table of objects in parts, at least one, with a column ``geometry`` more; classes are plain text.

    Args:
        objects: in the order of their ids.
        placement: of the geometries.
        simplify: how far edges may move, pixels of the mask.
        as_multipolygons: whether every geometry is a multipolygon, so that all are of one type.
    """
    import pyarrow as pa
    import shapely

    for table, outlines in object_polygons(objects):
        placed = placement.place(outlines, simplify)
        geometries = shapely.to_wkb(_multipolygons(placed) if as_multipolygons else placed)
        columns = {
            name: column.cast(pa.string()) if name == "class" else column
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
        yield pa.table({**columns, "geometry": pa.array(geometries, pa.binary())})


def _multipolygons(geometries: NDArray[Any]) -> NDArray[Any]:
    import shapely

    parts, index = shapely.get_parts(geometries, return_index=True)
    collected: NDArray[Any] = shapely.multipolygons(parts, indices=index)
    return collected
