"""IoU and its relatives, per class and over all classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.metrics import Metric
from pipeline.statistics import Counts, ObjectCounts

__all__ = ["Semantic"]


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
            the class that have a prediction) and ``predicted`` (all pixels of the class in the mask, with truth or without);
            then the scalars. Without truth all values but ``predicted`` and ``overlap_agreement`` are None.
        """
        if counts.confusion is None:
            classes = [_class(0, 0, 0, area) | {"truth": None} for area in counts.predicted.tolist()]
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
    return {"cross_entropy": nats, "overlap_agreement": _ratio(counts.overlap_equal, counts.overlap_pixels)}


def _mean(classes: Sequence[dict[str, Any]], field: str) -> float | None:
    present = [fields[field] for fields in classes if fields[field] is not None]
    return _ratio(sum(present), len(present))


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
