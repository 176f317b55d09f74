"""Write the report of a run with its pictures, and with those of its model.

Blocks leave thumbnails. What is drawn here are those that no block has left: of masks that existed before, and of truth that has changed
since the masks were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.engine import Job, drawn_truth, key_of_truth, leave_thumbnails, mask_of, read_thumbnails
from pipeline.inputs import Image, open_image
from pipeline.records import RunFolder
from pipeline.report import MOST_PICTURES, keep_examples, rank_images, write_report
from pipeline.storage import Storage

__all__ = ["rewrite_report", "write_pictured_report"]

MOST_PIXELS = 1 << 28  # of all masks that are read again here: a few seconds


def write_pictured_report(
    folder: RunFolder,
    plan: Mapping[str, Any],
    job: Job,
    images: Iterable[Image],
    report: Mapping[str, Any],
    pictures: Storage | None = None,
) -> None:
    """Draw the pictures that are missing, and write the report.

    Args:
        folder: of the run.
        plan: the plan row of its ledger.
        job: what was done.
        images: of the run, or the masks that were scored.
        report: content of report.json.
        pictures: output of the run that made the masks, if they were only scored: its thumbnails hold pictures of the images.
    """
    folder.log(*_draw_late(job, images, report, pictures))
    keep_examples(folder.report, job.model.example_files() if job.model else ())
    rewrite_report(folder, plan, report)


def rewrite_report(folder: RunFolder, plan: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    """Write the report with the pictures that there are, and with what the folder says of how it was made."""
    count_keys = {image["name"]: image["count_key"] for image in plan["images"]}
    colors = [one.get("color") for one in plan["classes"]]
    told = {"output": str(folder.storage), "run": folder.read(), "config": folder.read_config_text()}
    provenance = {**told, "colors": colors, "count_keys": count_keys}
    write_report(report, folder.report, provenance=provenance, thumbnails=folder.storage)


def _draw_late(job: Job, images: Iterable[Image], report: Mapping[str, Any], pictures: Storage | None) -> tuple[str, ...]:
    """Draw what is missing of the images that the gallery shows, as far as that takes seconds; return a note for each one that failed."""
    by_name = {image.name: image for image in images}
    shown = [report["per_image"][index]["name"] for index in rank_images(report)[:MOST_PICTURES]]
    left, notes = MOST_PIXELS, list[str]()
    for image in (by_name[name] for name in shown if name in by_name):
        if drawn_truth(job.storage, image.name) == key_of_truth(job, image):
            continue
        mask = image if job.goal == "evaluate" else mask_of(job, image)
        if mask is None:
            continue
        height, width = image.header.shape
        left -= height * width
        if left < 0:
            break
        beside = read_thumbnails(pictures or job.storage, image.name)
        with open_image(mask) as opened:
            notes += leave_thumbnails(job, image, opened, None if beside is None else beside.image_YXS)
    return tuple(notes)
