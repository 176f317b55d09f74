"""The table of an image's objects, sorted, filtered and cut into pages, without reading more of it than that needs."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

__all__ = ["ObjectRows"]

MOST_ORDERS = 4  # that are remembered; each takes 8 bytes an object
PLACE = ("bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1", "centroid_y", "centroid_x", "first_y", "first_x", "t", "z")
"""Columns that are shown as one place, not as numbers of their own."""
UNITS = {"pixel": "px", "pixel^2": "px²", "micrometer": "µm", "micrometer^2": "µm²", "meter": "m", "meter^2": "m²", "radian": "rad"}
ENDINGS = ("_px", "_um2", "_um", "_m2", "_m")  # of names of columns, for what their unit says


class ObjectRows:
    """The objects of one image. Several threads may ask.

    Args:
        storage: of the run's output.
        key: of the table, as :class:`pipeline.writers.ObjectTable` writes it.
        classes: of the run, ``{"name", ...}`` each.
        planes: length of each stack axis, in order.
    """

    def __init__(self, storage: Storage, key: str, classes: Sequence[Mapping[str, Any]], planes: Mapping[str, int]) -> None:
        self._storage, self._key = storage, key
        self._ids = {str(one["name"]): index for index, one in enumerate(classes)}
        self._planes = dict(planes)
        self._lock = threading.Lock()
        with self._opened() as file:
            self._schema = file.schema_arrow
            groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        self._orders: OrderedDict[Any, NDArray[np.int64]] = OrderedDict()

    @contextmanager
    def _opened(self) -> Iterator[ParquetFile]:
        from pyarrow.parquet import ParquetFile

        with self._storage.open(self._key) as stream, ParquetFile(stream) as file:
            yield file

    @property
    def total(self) -> int:
        """Number of objects."""
        return int(self._starts[-1])

    @property
    def columns(self) -> list[dict[str, str]]:
        """``{"key", "title", "unit", "description"}`` of each column that can be shown and sorted by."""
        found = []
        for field in self._schema:
            if field.name not in PLACE:
                about = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
                unit = about.get("unit", "")
                title = next((field.name.removesuffix(end) for end in ENDINGS if field.name.endswith(end)), field.name).replace("_", " ")
                found.append(
                    {"key": field.name, "title": title, "unit": UNITS.get(unit, unit), "description": about.get("description", "")}
                )
        return found

    def page(
        self, *, sort: str = "id", descending: bool = False, offset: int = 0, limit: int = 50, class_id: int | None = None
    ) -> dict[str, Any]:
        """Return a page of the sorted table: ``GET /api/objects``. Objects without a value come last.

        Raises:
            InputError: there is no such column.
        """
        columns = self.columns
        sort = next((one["key"] for one in columns if sort in (one["key"], one["title"])), sort)
        if sort not in {one["key"] for one in columns}:
            raise InputError(Problem("sort", repr(sort[:80]), "a column of the table"))
        with self._lock, self._opened() as file:
            order = self._order(file, sort, descending, class_id)
            rows = self._rows(file, order[offset : offset + limit])
        return {"total": len(order), "columns": columns, "rows": rows}

    def one(self, object_id: int) -> dict[str, Any] | None:
        """Return an object by its id; None where there is none: ``GET /api/object``."""
        column = self._schema.get_field_index("id")
        with self._opened() as file:
            for group in range(file.num_row_groups):
                ids = file.metadata.row_group(group).column(column).statistics
                if ids is None or not ids.has_min_max or ids.min <= object_id <= ids.max:
                    found = file.read_row_group(group, columns=["id"]).column("id").to_numpy()
                    if len(at := np.flatnonzero(found == object_id)):
                        return self._rows(file, np.array([self._starts[group] + at[0]]))[0]
        return None

    def _order(self, file: ParquetFile, sort: str, descending: bool, class_id: int | None) -> NDArray[np.int64]:
        """Return the rows of a class, sorted; only two columns are read."""
        key = sort, descending, class_id
        if key not in self._orders:
            rows = np.arange(self.total)
            if class_id is not None:
                rows = np.flatnonzero(self._class_ids(file.read(columns=["class"]).column("class")) == class_id)
            values = self._sortable(file, sort)[rows]
            order = np.argsort(-values if descending else values, kind="stable")  # NaN, which has no value, comes last
            self._orders[key] = rows[order]
        self._orders.move_to_end(key)
        while len(self._orders) > MOST_ORDERS:
            self._orders.popitem(last=False)
        return self._orders[key]

    def _sortable(self, file: ParquetFile, name: str) -> NDArray[np.float64]:
        if not self.total:
            return np.zeros(0)
        column = file.read(columns=[name]).column(name)
        return (self._class_ids(column) if name == "class" else column.to_numpy()).astype(np.float64)

    def _class_ids(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        names = column.to_numpy()
        return np.array([self._ids.get(name, -1) for name in names], np.int64)

    def _rows(self, file: ParquetFile, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return rows in this order; only the row groups that hold them are read."""
        found: dict[int, dict[str, Any]] = {}
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        for group in np.unique(groups).tolist():
            inside = rows[groups == group]
            part = file.read_row_group(group).take(inside - self._starts[group]).to_pylist()
            found |= {int(row): self._described(values) for row, values in zip(inside, part, strict=True)}
        return [found[int(row)] for row in rows]

    def _described(self, values: Mapping[str, Any]) -> dict[str, Any]:
        shown = {key: _plain(value) for key, value in values.items() if key not in PLACE}
        plane = 0
        for axis, length in self._planes.items():
            plane = plane * length + int(values.get(axis, 0))
        y, x = values["centroid_y"], values["centroid_x"]
        box = [int(values[key]) for key in PLACE[:4]]
        return {**shown, "class": self._ids.get(values["class"]), "y": y, "x": x, "box": box, "plane": plane}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: what is not finite is None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
