"""The tables of a report on a terminal, or in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["print_rows", "print_table"]

OBJECT_COLUMNS = {
    "AP@0.5": "ap50",
    "mean AP": "mean_ap",
    "PQ": "pq",
    "F1@0.5": "f1_50",
    "truth objects": "truth",
    "predicted objects": "predicted",
    "per mm²": "per_mm2",
    "per hectare": "per_hectare",
}
COLUMNS = {"IoU": "iou", "Dice": "dice", "precision": "precision", "recall": "recall", "truth px": "truth", "predicted px": "predicted"}


def print_table(report: Mapping[str, Any], console: Console) -> None:
    """Print one line a class and a line of means, a line a class of objects if any, and the pixels without prediction; ``-`` is undefined.

    On a terminal long names are folded. Elsewhere each class is one line, however long, without colour codes.
    """
    has_pixels = bool(_known(COLUMNS, report["classes"]))
    if has_pixels:
        table = _table("class", COLUMNS, [(spec["name"], spec) for spec in report["classes"]])
        table.add_row("mean", _number(report.get("mean_iou")), _number(report.get("mean_dice")), style="bold")
        print_rows(table, console)
    if objects := report.get("instances"):
        if has_pixels:
            console.print()
        print_rows(_table("objects of class", _known(OBJECT_COLUMNS, objects), [(one["class"], one) for one in objects]), console)
    if missing := report["no_prediction"]:
        share = 100 * missing / report["pixels"]
        percent = f"{share:.1f}" if share >= 0.1 else "under 0.1"
        skipped = f"; {report['skipped']:,} px were skipped" if report.get("skipped") else ""
        console.print(f"{missing:,} px ({percent} %) have no prediction and are left out{skipped}", highlight=False)


def _table(title: str, columns: Mapping[str, str], rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column(title, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, fields in rows:
        table.add_row(Text(printable(name)), *(_number(fields.get(key)) for key in columns.values()))
    return table


def print_rows(table: Table, console: Console) -> None:
    """Print a table: on a terminal in its width, elsewhere each row on one line, however long."""
    from rich.measure import Measurement

    if not console.is_terminal:
        table.width = Measurement.get(console, console.options.update(max_width=1_000_000), table).maximum
    console.print(table, crop=console.is_terminal)


def _known(columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the columns that have a value in any row."""
    rows = list(rows)
    return {title: key for title, key in columns.items() if any(row.get(key) is not None for row in rows)}


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
