"""IoU and its relatives, per class and over all classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.metrics import Metric
from pipeline.statistics import CONFIDENCE_BINS, CONFIDENCE_STEPS, Counts, ObjectCounts

__all__ = ["Semantic"]

ERRORS = ("true_positives", "false_positives", "false_negatives")


class Semantic(Metric):
    """IoU, Dice, precision and recall per class, their means, accuracy, cross-entropy, overlap agreement.

    A ratio whose denominator is zero is None: IoU and Dice of a class that is neither in the truth nor in the mask, and that
    the means leave out; precision where nothing was predicted; recall where there is no truth. A class in only one of them
    scores 0. Ratios count pixels that have both truth and a prediction.

    Example::

        metrics: [{name: semantic}]
    """

    def compute(self, counts: Counts, objects: Mapping[int, ObjectCounts] | None = None) -> dict[str, Any]:
        """Return the fields of the report.

        Returns:
            ``classes``: per class ``iou``, ``dice``, ``precision``, ``recall``, ``f1`` (equal to ``dice``), ``truth`` (pixels of
            the class that have a prediction), ``predicted`` (all pixels of the class in the mask, with truth or without),
            ``true_positives``, ``false_positives`` and ``false_negatives`` (pixels that have both); then the scalars, and
            ``reliability`` with ``calibration_error``, where the model gives probabilities.
            Without truth all values but ``predicted`` and ``overlap_agreement`` are None.
        """
        if counts.confusion is None:
            classes = [_class(0, 0, 0, area) | dict.fromkeys(("truth", *ERRORS)) for area in counts.predicted.tolist()]
            return {"classes": classes, **_scalars(classes, 0, 0), **_sums(counts)}
        hits = counts.confusion.diagonal().tolist()
        truths, claims = counts.confusion.sum(axis=1).tolist(), counts.confusion.sum(axis=0).tolist()
        classes = [_class(*pixels) for pixels in zip(hits, truths, claims, counts.predicted.tolist(), strict=True)]
        return {"classes": classes, **_scalars(classes, sum(hits), sum(truths)), **_sums(counts)}


def _class(hit: int, truth: int, claim: int, area: int) -> dict[str, Any]:
    """Return the scores of one class from its pixels: right, in the truth, predicted where there is truth, predicted anywhere."""
    dice = _ratio(2 * hit, truth + claim)
    return {
        "iou": _ratio(hit, truth + claim - hit),
        "dice": dice,
        "precision": _ratio(hit, claim),
        "recall": _ratio(hit, truth),
        "f1": dice,
        "truth": truth,
        "predicted": area,
        **dict(zip(ERRORS, (hit, claim - hit, truth - hit), strict=True)),
    }


def _scalars(classes: Sequence[dict[str, Any]], hits: int, pixels: int) -> dict[str, float | None]:
    """Return the scores over all classes; ``hits`` of ``pixels`` are right."""
    weighted = [fields["iou"] * fields["truth"] for fields in classes if fields["truth"]]
    mean_dice, accuracy = _mean(classes, "dice"), _ratio(hits, pixels)
    return {
        "mean_iou": _mean(classes, "iou"),
        "mean_dice": mean_dice,
        "macro_f1": mean_dice,
        # Every pixel has one true and one predicted class, so each false positive is a false negative of another class.
        "micro_f1": accuracy,
        "frequency_weighted_iou": _ratio(sum(weighted), pixels),
        "pixel_accuracy": accuracy,
    }


def _sums(counts: Counts) -> dict[str, float | None]:
    nats = None if counts.cross_entropy is None else _ratio(counts.cross_entropy, counts.cross_entropy_pixels)
    return {"cross_entropy": nats, "overlap_agreement": _ratio(counts.overlap_equal, counts.overlap_pixels), **_calibration(counts)}


def _calibration(counts: Counts) -> dict[str, Any]:
    """Return how often the model is right at each confidence, and the expected calibration error.

    The error is the mean distance between confidence and accuracy of the bins, each weighted by its pixels (Naeini et al., 2015;
    Guo et al., 2017).
    """
    if counts.confidence is None:
        return {"reliability": None, "calibration_error": None}
    edges = [index / CONFIDENCE_BINS for index in range(CONFIDENCE_BINS + 1)]
    bins, error = [], 0.0
    for low, high, pixels, right, steps in zip(edges, edges[1:], *counts.confidence.tolist(), strict=False):
        confidence = _ratio(steps / CONFIDENCE_STEPS, pixels)
        bins.append({"from": low, "to": high, "pixels": pixels, "right": right, "confidence": confidence})
        error += abs(steps / CONFIDENCE_STEPS - right)
    return {"reliability": bins, "calibration_error": _ratio(error, sum(one["pixels"] for one in bins))}


def _mean(classes: Sequence[dict[str, Any]], field: str) -> float | None:
    present = [fields[field] for fields in classes if fields[field] is not None]
    return _ratio(sum(present), len(present))


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
