"""Scores of objects of two runs compared, over the images whose objects both have scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.report.intervals import difference_intervals_of, ious_of

__all__ = ["OBJECT_SCORES", "compare_objects", "object_sums"]

OBJECT_SCORES = {"ap50": "AP at IoU 0.5", "pq": "PQ"}
"""Scores that are compared, and their names: both are quotients of sums over images, as the IoU is."""

Row = Mapping[str, Any]


def compare_objects(first: Mapping[str, Row], second: Mapping[str, Row], names: Sequence[str], *, seed: int = 0) -> list[dict[str, Any]]:
    """Return the differences of AP at IoU 0.5 and of panoptic quality, of each class whose objects both runs have scored.

    Args:
        first: rows of ``per_image`` of A's report.json, by the name of the image.
        second: those of B's.
        names: images that are compared.
        seed: of the intervals, which are paired over images as those of the IoU.

    Returns:
        ``class``, ``metric``, ``a``, ``b``, ``difference``, ``interval``, ``images`` each; empty where one run has no objects.
    """
    of_a, of_b = ({name: _sums(images[name]) for name in names} for images in (first, second))
    classes = list(dict.fromkeys(name for sums in of_a.values() for name in sums))
    found = []
    for class_name in classes:
        shared = [name for name in names if class_name in of_a[name] and class_name in of_b[name]]
        if not shared:
            continue
        a_N23, b_N23 = (np.stack([sums[name][class_name] for name in shared]) for sums in (of_a, of_b))
        intervals = difference_intervals_of(a_N23, b_N23, seed=seed).classes
        scores_a, scores_b = (ious_of(sums_N23.sum(axis=0))[:-1] for sums_N23 in (a_N23, b_N23))
        for score, a, b, ends in zip(OBJECT_SCORES, scores_a, scores_b, intervals, strict=True):
            values = {"a": a, "b": b, "difference": b - a}
            known = {key: None if np.isnan(value) else float(value) for key, value in values.items()}
            found.append({"class": class_name, "metric": score, **known, "interval": ends and list(ends), "images": len(shared)})
    return found


def object_sums(row: Row) -> NDArray[np.float64]:
    """Return what the scores of one class in one image are quotients of: (2, 3), each a score's numerator and the rest of its denominator.

    Args:
        row: of ``instances`` in a row of ``per_image`` of report.json; its truth is known.
    """
    objects, pairs = row["truth"] + row["predicted"], round((row["precision50"] or 0) * row["predicted"])
    iou = (row["pq"] or 0) * objects / 2  # summed over the pairs: PQ is it over half the number of objects
    of_ap = [pairs, row["predicted"] - pairs, row["truth"] - pairs]
    return np.array([of_ap, [iou, objects / 2 - iou, 0]], np.float64)


def _sums(image: Row) -> dict[str, NDArray[np.float64]]:
    """Return the sums of each class of an image whose objects were scored."""
    return {row["class"]: object_sums(row) for row in image.get("instances", ()) if row.get("truth") is not None}
