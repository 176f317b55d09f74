"""The report for people and programs: report.json, CSV tables, one page that loads nothing else."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from itertools import chain
from typing import Any

from pipeline.errors import printable
from pipeline.report.areas import area_table, zone_table
from pipeline.report.change import change_table
from pipeline.report.csv_files import csv_text
from pipeline.report.gallery import make_gallery
from pipeline.report.model_card import read_examples
from pipeline.report.page import build_page, colors_of
from pipeline.storage import Storage, StorageLike, open_storage
from pipeline.system import say

__all__ = ["page_or_notice", "write_report"]

NOTICE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>No page</title></head><body>
<h1>This page could not be made</h1>
<p>{cause}</p>
<p>The numbers are in the files beside it. Please send this to whoever maintains gigaseg:</p>
<pre>{trace}</pre>
</body></html>
"""
NESTED = (
    "areas",
    "classes",
    "instances",
    "numbers",
    "pixel_area",
    "warnings",
    "worst_block",
    "zones",
)  # fields of an image that fill no cell of per_image.csv
OBJECT_LISTS = ("ap", "sizes_predicted", "sizes_truth")  # fields of several numbers: in report.json, not in instances.csv


def write_report(
    report: Mapping[str, Any], where: StorageLike, *, provenance: Mapping[str, Any] | None = None, thumbnails: Storage | None = None
) -> None:
    """Write report.json, per_class.csv, per_image.csv, areas.csv, failures.csv, failure_groups.csv and index.html.

    With objects also instances.csv, with zones also zones.csv, with change also change.csv.

    Each file is replaced as a whole. In the CSV files an undefined value is an empty cell, and text that a spreadsheet would
    take for a formula gets an apostrophe in front.

    Args:
        report: the content of report.json.
        where: the folder of the report.
        provenance: what the page says of how it was made: ``{"output", "run", "config", "colors", "count_keys"}``, the URL of the run's
            folder, the content of run.json, the text of config.yaml, the colour of each class, and the key of the truth that was counted,
            by image. Each may be absent.
        thumbnails: output of the run, which holds them; None: the page has no pictures.
    """
    storage = open_storage(where)
    storage.make()

    def put(name: str, text: str) -> None:
        storage.put(name, text.encode(errors="backslashreplace"), durable=False)  # `gigaseg report` writes them again at any time

    put("report.json", json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    for name, rows in _tables(report).items():
        put(name, csv_text(rows))

    def make_page() -> str:
        gallery = None
        if thumbnails is not None:
            gallery = make_gallery(report, thumbnails, colors_of(report, provenance), (provenance or {}).get("count_keys"))
        return build_page(report, provenance=provenance, gallery=gallery, examples=read_examples(report, storage))

    put("index.html", page_or_notice(make_page, f"{storage}"))


def page_or_notice(make_page: Callable[[], str], where: str) -> str:
    """Return the page that ``make_page`` returns, or one that says why there is none.

    A page brings together pictures, names and records of many files. Where one of them breaks it, the numbers in the folder ``where`` are
    written and sound, so that the run that made them has not failed.
    """
    try:
        return make_page()
    except Exception as error:  # noqa: BLE001 - see above
        cause = printable(f"{type(error).__name__}: {error}")
        say(f"the page could not be made ({cause}); the numbers are in {where}", event="no page", level="warning")
        return NOTICE.format(cause=escape(cause), trace=escape(traceback.format_exc()))


def _tables(report: Mapping[str, Any]) -> dict[str, Iterable[Iterable[Any]]]:
    """Return the rows of each CSV file."""
    classes, images = report["classes"], report["per_image"]
    class_rows = [_class_row(spec) for spec in classes]
    class_columns = list(class_rows[0]) if class_rows else ["id", "name"]
    scalars = [key for key in images[0] if key not in NESTED] if images else ["name"]
    told = ["warnings"] if any("warnings" in image for image in images) else []
    image_columns = [*scalars, *(f"iou {spec['name']}" for spec in classes), *told]
    image_rows = (
        [
            *(image[key] for key in scalars),
            *(spec.get("iou") for spec in image["classes"]),
            *("; ".join(image.get(key, ())) for key in told),
        ]
        for image in images
    )
    failure_columns = ["image", "block", "phase", "cause", "attempts"]
    group_columns = ["failures", "unit", "units", "images", "phases", "cause", "attempts", "first image", "first block"]
    groups = (
        {**group, "phases": " ".join(group["phases"]), **{f"first {key}": value for key, value in group["first"].items()}}
        for group in report["failure_groups"]
    )
    tables: dict[str, Iterable[Iterable[Any]]] = {
        "per_class.csv": [class_columns, *(row.values() for row in class_rows)],
        "per_image.csv": chain([image_columns], image_rows),
        "areas.csv": area_table(report),
        "failures.csv": [failure_columns, *([failure[key] for key in failure_columns] for failure in report["failures"])],
        "failure_groups.csv": [group_columns, *([group[key] for key in group_columns] for group in groups)],
    }
    tables |= {"instances.csv": _object_rows(report)} if "instances" in report else {}
    tables |= {"change.csv": change_table(report)} if report.get("change") is not None else {}
    return tables | ({"zones.csv": zone_table(report)} if "zones" in report else {})


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
