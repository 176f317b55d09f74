"""The report as files: report.json, three CSV tables and one page that loads nothing else."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.storage import StorageLike, open_storage

__all__ = ["write_report"]

_MOST_ROWS = 1000  # of a table of the page; the CSV files hold every row
_MOST_CLASSES = 64  # of the matrix of the page: a larger one cannot be read; report.json holds it


def write_report(report: Mapping[str, Any], where: StorageLike) -> None:
    """Write report.json, per_class.csv, per_image.csv, failures.csv and index.html.

    Each file is replaced as a whole. In the CSV files an undefined value is an empty cell, and text that a spreadsheet would
    take for a formula gets an apostrophe in front.

    Args:
        report: as made by :func:`pipeline.report.build_report`.
        where: storage of the report, or its URL or path; made where it is missing.

    Raises:
        StoreError: the storage cannot be written.
    """
    storage = open_storage(where)
    storage.make()
    files = {
        "report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "per_class.csv": _csv(_per_class(report)),
        "per_image.csv": _csv(_per_image(report)),
        "failures.csv": _csv(_failures(report)),
        "index.html": _page(report),
    }
    for name, text in files.items():
        storage.put(name, text.encode(), durable=False)  # `gigaseg report` writes them again at any time


def _per_class(report: Mapping[str, Any]) -> Iterable[Sequence[Any]]:
    """One row a class."""
    header = list(report["classes"][0]) if report["classes"] else ["id", "name"]
    return [header, *([one[key] for key in header] for one in report["classes"])]


def _per_image(report: Mapping[str, Any]) -> Iterable[Sequence[Any]]:
    """One row an image: its scalars, then the IoU of each class."""
    images = report["per_image"]
    scalars = [key for key in images[0] if key != "classes"] if images else ["name"]
    header = [*scalars, *(f"iou {one['name']}" for one in report["classes"])]
    return [header, *([*(image[key] for key in scalars), *(one.get("iou") for one in image["classes"])] for image in images)]


def _failures(report: Mapping[str, Any]) -> Iterable[Sequence[Any]]:
    """One row a failure."""
    header = ["image", "block", "phase", "cause", "attempts"]
    return [header, *([one[key] for key in header] for one in report["failures"])]


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """The value of a CSV cell."""
    if not isinstance(value, str):
        return value
    # The csv module does not quote a lone carriage return, and a reader would end the row there.
    text = value.replace("\r", " ")
    # A spreadsheet takes text for a formula that starts with one of these.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def _page(report: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    return environment.get_template("index.html.j2").render(report=report, most_rows=_MOST_ROWS, most_classes=_MOST_CLASSES)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
