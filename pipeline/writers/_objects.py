"""The objects of an image, as writers get them: ids, read by box, and a table, read in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.raster import Raster

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.writers import MaskMeta

__all__ = ["ObjectsView"]


@dataclass(frozen=True)
class ObjectsView:
    """The objects of an image.

    Attributes:
        labels: id of each pixel, 0 where there is no object, read by box and plane.
        meta: describes ``labels``: ``holds_ids`` is true, classes are those of the mask. Its grid may differ from the mask's.
        num_objects: number of objects; their ids are ``1..num_objects``.
        open_table: opens the table, for :meth:`tables`.
        table_key: key of the table in the storage of the output.
    """

    labels: Raster
    meta: MaskMeta
    num_objects: int
    open_table: Callable[[], Iterator[pa.Table]] = field(compare=False)
    table_key: str = ""

    def tables(self) -> Iterator[pa.Table]:
        """Yield the table of objects in parts, ordered by id. Boxes and positions are in pixels of ``labels``."""
        return self.open_table()
