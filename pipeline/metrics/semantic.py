"""IoU and its relatives, per class and over all classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.metrics import Metric
from pipeline.statistics import Counts

__all__ = ["Semantic"]


class Semantic(Metric):
    """IoU, Dice, precision and recall per class, their means, accuracy, cross-entropy, overlap agreement.

    A ratio whose denominator is zero is None: IoU and Dice of a class that neither truth nor mask has (it is
    left out of the means), precision where nothing was predicted, recall where there is no truth. A class
    that only one of them has scores 0. Ratios count pixels that have both truth and a prediction.

    Example::

        metrics: [{name: semantic}]
    """

    def compute(self, counts: Counts) -> dict[str, Any]:
        """Turn counts into the fields of the report.

        Returns:
            ``classes``: per class ``iou``, ``dice``, ``precision``, ``recall``, ``f1`` (the same as ``dice``), ``truth``
            (pixels of the class among those with a prediction) and ``predicted`` (all pixels of the class in the mask,
            with truth or without); then the scalars. Without truth all but ``predicted`` and ``overlap_agreement`` is None.
        """
        if counts.confusion is None:
            blank = dict.fromkeys(("iou", "dice", "precision", "recall", "f1", "truth"))
            classes: list[dict[str, Any]] = [{**blank, "predicted": area} for area in counts.predicted.tolist()]
            return {"classes": classes, **_scalars(classes, 0, 0), **_sums(counts)}
        hits = counts.confusion.diagonal().tolist()
        truths, claims = counts.confusion.sum(axis=1).tolist(), counts.confusion.sum(axis=0).tolist()
        classes = [_class(*pixels) for pixels in zip(hits, truths, claims, counts.predicted.tolist(), strict=True)]
        return {"classes": classes, **_scalars(classes, sum(hits), sum(truths)), **_sums(counts)}


def _class(hit: int, truth: int, claim: int, area: int) -> dict[str, Any]:
    """Score one class: pixels found right, true, predicted where there is truth, predicted anywhere; Python integers never overflow."""
    dice = _ratio(2 * hit, truth + claim)
    return {
        "iou": _ratio(hit, truth + claim - hit),
        "dice": dice,
        "precision": _ratio(hit, claim),
        "recall": _ratio(hit, truth),
        "f1": dice,
        "truth": truth,
        "predicted": area,
    }


def _scalars(classes: Sequence[dict[str, Any]], hits: int, pixels: int) -> dict[str, float | None]:
    """Score all classes together; ``hits`` of ``pixels`` are right."""
    weighted = [one["iou"] * one["truth"] for one in classes if one["truth"]]
    mean_dice, accuracy = _mean(classes, "dice"), _ratio(hits, pixels)
    return {
        "mean_iou": _mean(classes, "iou"),
        "mean_dice": mean_dice,
        "macro_f1": mean_dice,
        # Every pixel has one true and one predicted class, so false positives and false negatives are the same pixels.
        "micro_f1": accuracy,
        "frequency_weighted_iou": _ratio(sum(weighted), pixels),
        "pixel_accuracy": accuracy,
    }


def _sums(counts: Counts) -> dict[str, float | None]:
    nats = None if counts.cross_entropy is None else _ratio(counts.cross_entropy, counts.cross_entropy_pixels)
    return {"cross_entropy": nats, "overlap_agreement": _ratio(counts.overlap_equal, counts.overlap_pixels)}


def _mean(classes: Sequence[dict[str, Any]], field: str) -> float | None:
    present = [one[field] for one in classes if one[field] is not None]
    return _ratio(sum(present), len(present))


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
