"""The tables of a report on a terminal, or in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from pipeline.errors import counted, printable
from pipeline.inputs import OUTSIDE
from pipeline.report.change import change_lines
from pipeline.report.gallery import rank_images
from pipeline.report.warnings import warning_lines
from pipeline.web import in_area, in_percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["print_rows", "print_table", "print_warnings", "print_worst"]

WORST = 3  # images that are printed
WARNINGS = 3  # different ones that are printed
NAMED = 5  # images without a prediction whose names are printed
LEAST_NAME = 12  # columns of a terminal that a name has at least, where columns of numbers can be left out

Fields = Mapping[str, Any]
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
COLUMNS = {
    "IoU": "iou",
    "95 % interval": "iou_interval",
    "Dice": "dice",
    "precision": "precision",
    "recall": "recall",
    "truth px": "truth",
    "predicted px": "predicted",
}


def print_table(report: Mapping[str, Any], console: Console) -> None:
    """Print one line a class and a line of means, a line a class of objects, missing pixels, areas of maps, zones; ``-`` is undefined.

    On a terminal long names are folded, and columns on the right are left out where it is narrow. Elsewhere each class is one
    line, however long, without colour codes. Intervals have a column where the report has any; without truth there are no scores.
    """
    known = _known(COLUMNS, report["classes"])
    if known:
        has_truth = known.keys() != {"predicted px"}
        columns = {title: key for title, key in COLUMNS.items() if title in known or (has_truth and key != "iou_interval")}
        mean = {key: report.get(f"mean_{key}") for key in ("iou", "iou_interval", "dice")} if has_truth else None
        _print_numbers("class", columns, [(spec["name"], spec) for spec in report["classes"]], console, mean)
    if objects := report.get("instances"):
        if known:
            console.print()
        _print_numbers("objects of class", _known(OBJECT_COLUMNS, objects), [(one["class"], one) for one in objects], console)
    if missing := report["no_prediction"]:
        share = 100 * missing / report["pixels"]
        percent = f"{share:.1f}" if share >= 0.1 else "under 0.1"
        skipped = f"; {report['skipped']:,} px were skipped" if report.get("skipped") else ""
        console.print(f"{missing:,} px ({percent} %) have no prediction and are left out{skipped}", highlight=False)
    for line in (*area_lines(report), *change_lines(report)):
        console.print(line, highlight=False, markup=False)


def area_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the areas of the largest classes of maps, and how many zones there are, a line each; empty: neither is known."""
    lines, areas = [], report.get("areas")
    if areas and areas["unit"] == "meter":
        known = sorted((one for one in areas["classes"] if one["predicted"]), key=lambda one: -one["predicted"])
        shown = [f"{printable(one['class'])} {in_area(one['predicted'], 'meter')}" for one in known[:NAMED]]
        more = f" and {len(known) - NAMED:,} more classes" if len(known) > NAMED else ""
        lines += [f"areas: {', '.join(shown)}{more}"] if shown else []
    elif not areas and any((image.get("areas") or {}).get("unit") == "meter" for image in report["per_image"]):
        unknown = sum(not image.get("areas") for image in report["per_image"])
        of_all = f"{unknown:,} of {counted(report['images'], 'image')}"
        lines.append(f"areas: not added up, as the size of a pixel is not known for {of_all}; see report/areas.csv")
    if zones := report.get("zones"):
        named = [zone for zone in zones if zone["zone"] != OUTSIDE]
        outside = sum(zone["pixels"] for zone in zones if zone["zone"] == OUTSIDE) / max(1, report["pixels"])
        lines.append(f"zones: {counted(len(named), 'zone')}, {in_percent(outside)} of the pixels in none; see report/zones.csv")
    return lines


def print_worst(report: Mapping[str, Any], console: Console) -> None:
    """Print the images of the lowest mean IoU with the worst class of each, where several have truth; name those without prediction."""
    images = report["per_image"]
    scored = [images[index] for index in rank_images(report) if images[index].get("mean_iou") is not None]
    if len(scored) > 1:
        console.print()
        print_rows(_worst_table(scored[:WORST]), console)
    missing = [printable(image["name"]) for image in images if image["pixels"] <= image["no_prediction"]]
    if missing and len(images) > 1:
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        console.print(f"no prediction: {', '.join(missing[:NAMED])}{more}", highlight=False, markup=False)


def print_warnings(report: Mapping[str, Any], console: Console) -> None:
    """Print which masks are to be treated with care, and why: one line for all images of one reason."""
    for line in warning_lines(report, WARNINGS):
        console.print(line, highlight=False, markup=False)


def _worst_table(images: Iterable[Mapping[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("worst images", overflow="fold")
    table.add_column("mean IoU", justify="right", no_wrap=True)
    table.add_column("worst class", overflow="fold")
    table.add_column("IoU", justify="right", no_wrap=True)
    for image in images:
        worst = min((spec for spec in image["classes"] if spec.get("iou") is not None), key=lambda spec: spec["iou"])
        table.add_row(Text(printable(image["name"])), _number(image["mean_iou"]), Text(printable(worst["name"])), _number(worst["iou"]))
    return table


def _print_numbers(
    title: str, columns: Mapping[str, str], rows: Sequence[tuple[str, Fields]], console: Console, mean: Fields | None = None
) -> None:
    """Print a line a name, and one of means if any: on a terminal the columns that fit beside names, at least one."""
    from rich.table import Table
    from rich.text import Text

    texts = {column: [_number(fields.get(key)) for _, fields in rows] for column, key in columns.items()}
    means = {} if mean is None else {column: _number(mean[key]) for column, key in columns.items() if key in mean}
    room = console.width - min(LEAST_NAME, max(len(title), *(len(name) for name, _ in rows)))
    widths = accumulate(max(map(len, [column, means.get(column, ""), *some])) + 2 for column, some in texts.items())
    shown = [column for column, width in zip(texts, widths, strict=True) if not console.is_terminal or width <= room] or list(texts)[:1]
    table = Table(box=None, pad_edge=False)
    table.add_column(title, overflow="fold")
    for column in shown:
        table.add_column(column, justify="right", no_wrap=True)
    for at, (name, _) in enumerate(rows):
        table.add_row(Text(printable(name)), *(texts[column][at] for column in shown))
    if means:
        table.add_row("mean", *(means.get(column, "") for column in shown), style="bold")
    print_rows(table, console)


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
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "-".join(map(_number, value))
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
