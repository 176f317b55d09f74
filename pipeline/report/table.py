"""The report as a table for people, on a terminal or in a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_table"]

_COLUMNS = {"IoU": "iou", "Dice": "dice", "precision": "precision", "recall": "recall", "truth px": "truth", "predicted px": "predicted"}


def print_table(report: Mapping[str, Any], console: Console) -> None:
    """Print one line a class, a line of means, and a line on pixels without prediction where there are any; ``-`` is undefined.

    On a terminal long names are folded. Elsewhere each class is one line, however long, without colour codes.

    Args:
        report: as made by :func:`pipeline.report.build_report`.
        console: what prints it.
    """
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for title in _COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for one in report["classes"]:
        table.add_row(Text(one["name"]), *(_number(one.get(key)) for key in _COLUMNS.values()))
    table.add_row("mean", _number(report.get("mean_iou")), _number(report.get("mean_dice")), style="bold")
    if not console.is_terminal:
        table.width = Measurement.get(console, console.options.update(max_width=1_000_000), table).maximum
    console.print(table, crop=console.is_terminal)
    if missing := report["no_prediction"]:
        share = 100 * missing / report["pixels"]
        percent = f"{share:.1f}" if share >= 0.1 else "under 0.1"
        console.print(f"{missing:,} px ({percent} %) have no prediction and are left out", highlight=False)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
