"""A comparison of two runs for people and programs: comparison.json, comparison.csv, comparison.html, and tables on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import counted, printable
from pipeline.inputs import first_of
from pipeline.report.comparison_page import comparison_page, describe_changes, describe_difference, describe_images, model_name
from pipeline.report.csv_files import csv_text
from pipeline.report.object_differences import OBJECT_SCORES
from pipeline.report.rendering import page_or_notice
from pipeline.report.setting_differences import setting_text
from pipeline.report.terminal import print_rows
from pipeline.storage import StorageLike, open_storage

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_comparison", "write_comparison"]

MOST_ROWS = 10  # images that got worse, and as many that got better, on a terminal
MOST_NAMES = 5  # of images that are not compared


def write_comparison(comparison: Mapping[str, Any], where: StorageLike) -> None:
    """Write comparison.json, comparison.csv and comparison.html; each file is replaced as a whole.

    The CSV has a row for each class, and one for the mean over classes, of all images and then of each image.
    """
    storage = open_storage(where)
    storage.make()
    files = {
        "comparison.json": json.dumps(comparison, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "comparison.csv": csv_text(_rows(comparison)),
        "comparison.html": page_or_notice(lambda: comparison_page(comparison), f"{storage}"),
    }
    for name, text in files.items():
        storage.put(name, text.encode(errors="backslashreplace"), durable=False)  # the command writes them again at any time


def _rows(comparison: Mapping[str, Any]) -> Iterator[list[Any]]:
    yield ["image", "class", "iou a", "iou b", "difference", "interval from", "interval to"]
    for name, mean, classes in (
        ("all images", comparison["mean"], comparison["classes"]),
        *((image["name"], image, image["classes"]) for image in comparison["per_image"]),
    ):
        for row in (*classes, {**mean, "name": "mean"}):
            yield [name, row["name"], row["a"], row["b"], row["difference"], *(row.get("interval") or (None, None))]


def print_comparison(comparison: Mapping[str, Any], console: Console) -> None:
    """Print the two, what was changed, a line a class and one of means, the images that changed most, and what is not compared."""
    for key in ("a", "b"):
        console.print(printable(f"{key.upper()}: {_side(comparison[key])}"), highlight=False, markup=False)
    console.print(describe_images(comparison), highlight=False)
    console.print()
    _print_settings(comparison, console)
    _print_classes(comparison, console)
    if note := comparison["intervals"]["note"]:
        console.print(f"Intervals: {note}", highlight=False, markup=False)
    console.print()
    _print_images(comparison, console)
    for line in _remarks(comparison):
        console.print(printable(line), highlight=False, markup=False)


def _side(run: Mapping[str, Any]) -> str:
    """Return a run in words: where it is, its model, and its mean IoU over all its images."""
    model, ends = model_name(run), run["mean_iou_interval"]
    interval = f" ({ends[0]:.4f} to {ends[1]:.4f})" if ends else ""
    return f"{run['output']}{model and f' ({model})'}, mean IoU {_iou(run['mean_iou'])}{interval}"


def _print_settings(comparison: Mapping[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    if not comparison["settings"]:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("changed", "A", "B"):
        table.add_column(column, overflow="fold")
    for row in comparison["settings"]:
        table.add_row(*(Text(printable(text)) for text in (row["key"], setting_text(row["a"]), setting_text(row["b"]))))
    print_rows(table, console)
    console.print()


def _print_classes(comparison: Mapping[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    confidence = f"{comparison['intervals']['confidence']:.0%}".replace("%", " %")
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for column in ("IoU A", "IoU B", "B - A", f"{confidence} interval of B - A"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in (*comparison["classes"], {**comparison["mean"], "name": "mean"}):
        cells = _cells(row)
        table.add_row(Text(printable(row["name"])), *cells, style="bold" if row["name"] == "mean" and "id" not in row else None)
    for row in comparison["objects"]:
        cells = _cells(row)
        table.add_row(Text(printable(f"{row['class']}: {OBJECT_SCORES[row['metric']]}")), *cells)
    print_rows(table, console)


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    ends = row["interval"]
    interval = "-" if ends is None else f"{ends[0]:+.4f} to {ends[1]:+.4f}"
    return _iou(row["a"]), _iou(row["b"]), _change(row["difference"]), interval


def _print_images(comparison: Mapping[str, Any], console: Console) -> None:
    """Print how many images changed, and those that changed most, the worst first."""
    from rich.table import Table
    from rich.text import Text

    changed = [row for row in comparison["per_image"] if row["verdict"] != "similar"]
    console.print(describe_difference(comparison), highlight=False)
    console.print(describe_changes(comparison), highlight=False)
    if not changed:
        return
    shown = changed if len(changed) <= 2 * MOST_ROWS else _ends(changed)
    table = Table(box=None, pad_edge=False)
    table.add_column("image", overflow="fold")
    for column in ("mean IoU A", "mean IoU B", "B - A"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in shown:
        table.add_row(Text(printable(row["name"])), _iou(row["a"]), _iou(row["b"]), _change(row["difference"]))
    print_rows(table, console)
    if len(shown) < len(changed):
        console.print(f"and {len(changed) - len(shown):,} more: comparison.csv has all", highlight=False)


def _ends(changed: list[Any]) -> list[Any]:
    """Return the images that lost most and those that gained most."""
    worse = [row for row in changed if row["verdict"] == "worse"][:MOST_ROWS]
    better = [row for row in changed if row["verdict"] == "better"][-MOST_ROWS:]
    return [*worse, *better]


def _remarks(comparison: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not compared, and what is not judged by the same truth."""
    for key in ("a", "b"):
        if names := comparison[f"only_in_{key}"]:
            yield f"only in {key.upper()}: {first_of(names, MOST_NAMES)}"
    for title, rows in (("not compared", comparison["left_out"]), ("judged by other truth", comparison["warnings"])):
        if rows:
            yield f"{title}: {counted(len(rows), 'image')}"
            yield from (f"  {row['name']}: {row['reason']}" for row in rows[:MOST_NAMES])
        if len(rows) > MOST_NAMES:
            yield f"  and {len(rows) - MOST_NAMES:,} more: comparison.json has all"


def _iou(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _change(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"
