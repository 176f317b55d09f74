"""Tables of a page that can be sorted, filtered and turned over: what ``tables.js`` shows, and the first rows for pages without scripts.

A template shows a table by the macro ``data_table`` of ``macros.html.j2``; :func:`pipeline.web.render_page` adds the scripts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.web.words import in_digits, in_percent

__all__ = ["Column", "DataTable", "data_table"]

MOST_ROWS = 10_000
STATIC_ROWS = 25


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: with the unit.
        kind: text; a whole number (count); a number with three digits after the point (score), with its sign (change); a share, shown in
            percent.
    """

    title: str
    kind: str = "text"

    def show(self, value: Any) -> str:
        """Return a cell as it is read."""
        if self.kind == "text":
            return "" if value is None else str(value)
        if self.kind == "change" and value is not None:
            return f"{value:+.3f}"
        return in_percent(value) if self.kind == "percent" else in_digits(value)


@dataclass(frozen=True)
class DataTable:
    """A table that a script shows page by page.

    Attributes:
        id: of this page's tables, letters and dashes.
        caption: what it lists.
        columns: of every row.
        rows: at most as many as a page can hold.
        total: how many rows there are in all.
    """

    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    total: int

    @property
    def first(self) -> list[list[str]]:
        """The rows of a page without scripts, as text."""
        return [[column.show(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows[:STATIC_ROWS]]

    @property
    def left_out(self) -> int:
        """How many rows are not in the page."""
        return self.total - len(self.rows)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"columns": [column.kind for column in self.columns], "rows": self.rows}


def data_table(
    id_: str, caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]], total: int, *, most_bytes: int = 4_000_000
) -> DataTable:
    """Return a table of the first rows: at most 10,000, and so many bytes of JSON. Numbers keep six digits after the point.

    Columns in which no row has a value are left out.
    """
    kept: list[list[Any]] = []
    for row in islice(rows, MOST_ROWS):
        plain = [round(value, 6) if isinstance(value, float) else value for value in row]
        most_bytes -= len(json.dumps(plain)) + 1
        if most_bytes < 0:
            break
        kept.append(plain)
    used = [index for index in range(len(columns)) if any(row[index] not in (None, "") for row in kept)]
    return DataTable(id_, caption, [columns[index] for index in used], [[row[index] for index in used] for row in kept], total)
