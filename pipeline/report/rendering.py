"""The report for people and programs: report.json, CSV tables, one page that loads nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.report.csv_files import csv_text
from pipeline.report.failure_groups import describe_group
from pipeline.storage import StorageLike, open_storage

__all__ = ["write_report"]

MOST_ROWS = 1000  # of a table of the page; the CSV files hold every row
MOST_CLASSES = 64  # of the matrix of the page: a larger one cannot be read; report.json holds it
PAGE_OBJECT_COLUMNS = {
    "truth": "truth",
    "predicted": "predicted",
    "AP at IoU 0.5": "ap50",
    "AP at 0.75": "ap75",
    "mean AP, 0.5 to 0.95": "mean_ap",
    "F1 at 0.5": "f1_50",
    "PQ": "pq",
    "SQ": "sq",
    "RQ": "rq",
    "AJI": "aji",
    "object Dice": "object_dice",
    "splits": "splits",
    "merges": "merges",
    "per mm²": "per_mm2",
    "per hectare": "per_hectare",
}
NESTED = ("classes", "instances", "pixel_area", "worst_block")  # fields of an image that fill no cell of per_image.csv
OBJECT_LISTS = ("ap", "sizes_predicted", "sizes_truth")  # fields of several numbers: in report.json, not in instances.csv


def write_report(report: Mapping[str, Any], where: StorageLike) -> None:
    """Write report.json, per_class.csv, per_image.csv, failures.csv, failure_groups.csv and index.html; instances.csv with objects.

    Each file is replaced as a whole. In the CSV files an undefined value is an empty cell, and text that a spreadsheet would
    take for a formula gets an apostrophe in front.
    """
    classes, images = report["classes"], report["per_image"]
    class_rows = [_class_row(spec) for spec in classes]
    class_columns = list(class_rows[0]) if class_rows else ["id", "name"]
    scalars = [key for key in images[0] if key not in NESTED] if images else ["name"]
    image_columns = [*scalars, *(f"iou {spec['name']}" for spec in classes)]
    image_rows = ([*(image[key] for key in scalars), *(spec.get("iou") for spec in image["classes"])] for image in images)
    failure_columns = ["image", "block", "phase", "cause", "attempts"]
    group_columns = ["failures", "unit", "units", "images", "phases", "cause", "attempts", "first image", "first block"]
    groups = (
        {**group, "phases": " ".join(group["phases"]), **{f"first {key}": value for key, value in group["first"].items()}}
        for group in report["failure_groups"]
    )
    files = {
        "report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "per_class.csv": csv_text([class_columns, *(row.values() for row in class_rows)]),
        "per_image.csv": csv_text([image_columns, *image_rows]),
        "failures.csv": csv_text([failure_columns, *([failure[key] for key in failure_columns] for failure in report["failures"])]),
        "failure_groups.csv": csv_text([group_columns, *([group[key] for key in group_columns] for group in groups)]),
        "index.html": _page(report),
    }
    if "instances" in report:
        files["instances.csv"] = csv_text(_object_rows(report))
    storage = open_storage(where)
    storage.make()
    for name, text in files.items():
        storage.put(name, text.encode(errors="backslashreplace"), durable=False)  # `gigaseg report` writes them again at any time


def _class_row(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of per_class.csv: the ends of an interval are a cell each."""
    row = {key: value for key, value in spec.items() if key != "iou_interval"}
    if "iou_interval" in spec:
        row["iou_low"], row["iou_high"] = spec["iou_interval"] or (None, None)
    return row


def _object_rows(report: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yield the rows of instances.csv: scores of each class over all images, then of each image and class."""
    every = [("all images", report["instances"]), *((image["name"], image["instances"]) for image in report["per_image"])]
    columns = list(dict.fromkeys(key for _, rows in every for row in rows for key in row if key not in OBJECT_LISTS))
    yield ["image", *columns]
    yield from ([name, *(row.get(key) for key in columns)] for name, rows in every for row in rows)


def _page(report: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["sizes"] = _sizes
    environment.filters["describe"] = describe_group
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:,}" if isinstance(value, int) else _number(value)
    columns = _known(PAGE_OBJECT_COLUMNS, report.get("instances", ()))
    limits = {"most_rows": MOST_ROWS, "most_classes": MOST_CLASSES}
    rows = [(image["name"], one) for image in report["per_image"] for one in image.get("instances", ())]
    return environment.get_template("index.html.j2").render(report=report, object_columns=columns, object_rows=rows, **limits)


def _sizes(row: Mapping[str, Any]) -> list[tuple[int, int | None, int]]:
    """Return least area, truth objects and predicted objects of each octave of areas that has any; truth objects None: no truth."""
    predicted = dict(row["sizes_predicted"])
    truth = None if row["sizes_truth"] is None else dict(row["sizes_truth"])
    areas = sorted(predicted.keys() | (truth or {}).keys())
    return [(area, None if truth is None else truth.get(area, 0), predicted.get(area, 0)) for area in areas]


def _known(columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the columns that have a value in any row."""
    rows = list(rows)
    return {title: key for title, key in columns.items() if any(row.get(key) is not None for row in rows)}


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
