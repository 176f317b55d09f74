"""Objects as features of a map: the columns of their table, and a geometry."""

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


def feature_tables(objects: ObjectsView, placement: Placement, simplify: float) -> Iterator[tuple[pa.Table, NDArray[Any]]]:
    """Yield the table of objects in parts, at least one, with classes as plain text, and the geometry of each row.

    Args:
        objects: in the order of their ids.
        placement: of the geometries.
        simplify: how far edges may move, pixels of the mask.
    """
    import pyarrow as pa

    for table, outlines in object_polygons(objects):
        at = table.column_names.index("class")
        yield table.set_column(at, "class", table["class"].cast(pa.string())), placement.place(outlines, simplify)
