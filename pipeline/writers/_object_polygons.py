"""Polygons of all objects of an image, in the order of their ids, one batch of the table after the other.

Ids are in row-major order of the first pixels, so the objects of a batch lie close together and are traced together::

    ┌────────────┬────────────┐
    │ window   ┌─┼──┐         │   an object belongs to the window in which its box begins;
    │          │ │  │         │   a window is read as far as its objects reach
    └──────────┴─┴──┴─────────┘

An object whose box is larger than a window is read alone, strip by strip, and only its corners are kept. So memory holds a window,
a strip, and the corners of one large object; never the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.writers._objects import ObjectsView
from pipeline.writers._tracing import find_corners, join_corners

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["object_polygons"]

BATCH = 16_384  # objects at a time
WINDOW = 1024  # side of a window in which objects begin, pixels
STRIP_PIXELS = 1 << 22  # pixels of a large object that are read at once
BOX = ("bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1")

Ints = NDArray[np.int64]


def object_polygons(objects: ObjectsView) -> Iterator[tuple[pa.Table, NDArray[Any]]]:
    """Yield parts of the table, at least one, ordered by id, with the geometry (x, y) of each row in pixels of the labels.

    A geometry is a polygon, or a multipolygon where parts of an object touch at corners only. It is valid, and does not depend on
    how the image or the table is cut.

    Raises:
        BlockError: an object of the table has no pixels.
    """
    for table in objects.tables():
        for start in range(0, max(1, table.num_rows), BATCH):
            part = table.slice(start, BATCH)
            yield part, _traced(objects, part)


def _traced(objects: ObjectsView, table: pa.Table) -> NDArray[Any]:
    """Return the geometry of each row."""
    if not table.num_rows:
        return np.empty(0, object)
    ids, boxes_N4 = _column(table, "id"), np.stack([_column(table, name) for name in BOX], axis=1)
    planes = _planes(objects, table)
    is_large = (boxes_N4[:, 2:] - boxes_N4[:, :2]).max(axis=1) > WINDOW
    window = np.stack([planes, boxes_N4[:, 0] // WINDOW, boxes_N4[:, 1] // WINDOW, np.where(is_large, np.arange(len(ids)), -1)])
    _, group = np.unique(window, axis=1, return_inverse=True)
    order = np.argsort(group, kind="stable")
    geometries = np.empty(len(ids), object)
    for rows in np.split(order, np.nonzero(np.diff(group[order]))[0] + 1):
        box = Box(*(int(edge) for edge in (*boxes_N4[rows, :2].min(axis=0), *boxes_N4[rows, 2:].max(axis=0))))
        geometries[rows] = _traced_in(objects, ids[rows], box, int(planes[rows[0]]))
    absent = next((object_id for object_id, geometry in zip(ids, geometries, strict=True) if geometry is None), None)
    if absent is not None:
        raise BlockError(f"object {absent} is in the table, and has no pixels")
    return geometries


def _traced_in(objects: ObjectsView, ids: Ints, box: Box, plane: int) -> NDArray[Any]:
    """Return the geometries of objects inside a box; ``ids`` are sorted."""
    rows = max(1, STRIP_PIXELS // box.shape[1])
    numbers = np.zeros(ids[-1] - ids[0] + 1, np.int32)  # of the objects, by id
    numbers[ids - ids[0]] = np.arange(1, len(ids) + 1)
    corners = []
    above_YX = np.zeros((1, box.shape[1]), np.int32)
    for y in range(box.y0, box.y1, rows):
        ids_YX = objects.labels.read(Box(y, box.x0, min(y + rows, box.y1), box.x1), plane)[0]
        is_ours_YX = (ids_YX >= ids[0]) & (ids_YX <= ids[-1])
        numbers_YX = np.zeros(ids_YX.shape, np.int32)
        numbers_YX[is_ours_YX] = numbers[ids_YX[is_ours_YX] - ids_YX.dtype.type(ids[0])]
        strip_YX = np.concatenate([above_YX, numbers_YX, np.zeros_like(above_YX[: y + rows >= box.y1])])
        corners.append(find_corners(np.pad(strip_YX, [(0, 0), (1, 1)]), y, box.x0))
        above_YX = numbers_YX[-1:]
    return join_corners(np.concatenate(corners), len(ids))


def _planes(objects: ObjectsView, table: pa.Table) -> Ints:
    """Return the index of the plane of each row."""
    stack = objects.meta.planes
    if not stack:
        return np.zeros(table.num_rows, np.int64)
    return np.ravel_multi_index([_column(table, axis) for axis in stack], tuple(stack.values()))


def _column(table: pa.Table, name: str) -> Ints:
    values: Ints = table.column(name).to_numpy().astype(np.int64)
    return values
