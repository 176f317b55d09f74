"""The scores that a bundle states, from the report of a run over the validation images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.report import intervals_of, object_sums

__all__ = ["class_scores", "object_scores", "validation_scores"]


def validation_scores(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of classes, and of objects by class where they were scored, as ``scores`` of model.yaml has them."""
    objects = object_scores(report)
    return {**class_scores(report), **({"objects": objects} if objects else {})}


def class_scores(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores of classes with their 95 % intervals, and how much was scored.

    Without enough images the intervals are null, and ``intervals.note`` says why.
    """
    classes = report["classes"]
    return {
        "mean_iou": report["mean_iou"],
        "mean_iou_interval": report["mean_iou_interval"],
        "mean_dice": report["mean_dice"],
        "pixel_accuracy": report["pixel_accuracy"],
        "iou": {row["name"]: row["iou"] for row in classes},
        "iou_interval": {row["name"]: row["iou_interval"] for row in classes},
        "intervals": report["intervals"],
        "images": report["images"],
        "pixels": report["pixels"] - report["skipped"],
    }


def object_scores(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores of objects with their 95 % intervals, by class; empty where no objects were scored.

    The intervals are those of the IoU: bootstrap over images. AP at IoU 0.5 is a quotient of counts as the IoU is. So is the panoptic
    quality: the summed IoU of the pairs over half the number of objects.
    """
    found = {}
    for row in report.get("instances", ()):
        if row["ap50"] is not None:
            rows = [one for image in report["per_image"] for one in image.get("instances", ()) if one["class"] == row["class"]]
            found[row["class"]] = {
                **{key: row[key] for key in ("ap50", "mean_ap", "pq", "truth", "predicted")},
                **_object_intervals([one for one in rows if one["truth"] is not None]),
            }
    return found


def _object_intervals(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the intervals of AP at IoU 0.5 and of panoptic quality, from the rows of all images that have truth."""
    found = intervals_of(np.array([object_sums(row) for row in rows], np.float64).reshape(-1, 2, 3))
    return {"ap50_interval": found.classes[0], "pq_interval": found.classes[1]}
