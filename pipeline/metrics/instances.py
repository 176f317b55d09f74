"""AP, PQ, AJI and other scores of objects, for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pipeline.metrics import Metric
from pipeline.statistics import DICE_UNITS, IOU_THRESHOLDS, IOU_UNITS, Counts, ObjectCounts, ObjectMatches

__all__ = ["ObjectQuality"]


class ObjectQuality(Metric):
    """How well predicted objects agree with truth objects, class by class; objects of different classes never match.

    TP are pairs of a predicted and a truth object whose intersection over union (IoU) is at least a threshold t, matched one to
    one, as many as possible; FP and FN are the unmatched predicted and truth objects. Images are pooled by adding their counts.

    ========================  ==========================================================================================
    field                     definition
    ========================  ==========================================================================================
    ap50, ap75, ap, mean_ap   TP / (TP + FP + FN) at t = 0.5, at 0.75, at each of 0.5, 0.55 .. 0.95, and the mean of these ten: the
                              average precision of Data Science Bowl 2018 (Caicedo et al. 2019), StarDist and Cellpose. It needs
                              no confidence of objects. COCO's AP, the area under a precision-recall curve, is another score.
    precision50, recall50     TP / (TP + FP) and TP / (TP + FN) at t = 0.5
    f1_50                     2 TP / (2 TP + FP + FN) at t = 0.5
    pq, sq, rq                Panoptic quality of one class of things (Kirillov et al. 2019): over pairs with IoU above 0.5 (an IoU of
                              exactly 0.5 does not count here), sq is their mean IoU, rq their F1, and pq = sq x rq.
    aji                       Aggregated Jaccard index (Kumar et al. 2017): each truth object and the predicted object of best IoU,
                              which may serve several truth objects. Pixels of the intersections over pixels of the unions and of
                              the objects that are in no pair. Cellpose's index of that name pairs one to one instead.
    object_dice               Ensemble Dice, "DICE2" (Vu et al. 2019): over all pairs that share pixels, twice the shared pixels over
                              the areas of both. An object without any partner does not change it.
    glas_dice                 Object-level Dice of the GlaS challenge (Sirinukunwattana et al. 2017): Dice of each object with the
                              one of the other side that shares most pixels with it, else 0, weighted by area; mean of both sides.
    splits                    Surplus predicted objects where several lie in one truth object, each with more than half of its area.
    merges                    Surplus truth objects where several lie in one predicted object, each with more than half of its area:
                              the "splitting operations" of the Cell Tracking Challenge (Matula et al. 2015); ``splits`` mirrors them.
    count_error               predicted - truth, over images that have truth
    truth, predicted          numbers of objects; predicted: over all images, with truth or without
    sizes_truth,              Numbers of objects by area, as pairs [least area in pixels, objects], up to twice the least area.
    sizes_predicted
    ========================  ==========================================================================================

    A ratio whose denominator is zero is None: all ratios if there are no objects at all, precision if nothing was predicted, recall
    if there is no truth object, sq if no pair matches. The other ratios are 0 if only prediction or truth has objects.
    Without truth, only ``predicted`` and ``sizes_predicted`` are known.

    Example::

        metrics: [{name: semantic}, {name: instances}]
    """

    required_keys: ClassVar[tuple[str, ...]] = ("instances",)

    def compute(self, counts: Counts, objects: Mapping[int, ObjectCounts] | None = None) -> dict[str, Any]:
        """Return ``instances``: the fields of each class that has counts, in the order of the ids; ``class`` holds the id."""
        return {"instances": [_class(class_id, found) for class_id, found in sorted((objects or {}).items())]}


def _class(class_id: int, found: ObjectCounts) -> dict[str, Any]:
    matches = found.matches
    scores = _scores(matches or ObjectMatches())
    return {
        "class": class_id,
        "truth": None if matches is None else matches.truth,
        "predicted": found.predicted,
        **(scores if matches is not None else dict.fromkeys(scores)),
        "sizes_predicted": _histogram(found.sizes_predicted),
        "sizes_truth": None if matches is None else _histogram(matches.sizes_truth),
    }


def _scores(matches: ObjectMatches) -> dict[str, Any]:
    """Return the scores that compare prediction and truth."""
    objects, half = matches.truth + matches.predicted, matches.matched[0]
    # TP + FP + FN is the number of objects less one for each pair: it is zero only where there are none.
    ap = [_ratio(found, objects - found) for found in matches.matched]
    at = dict(zip(IOU_THRESHOLDS, ap, strict=True))
    return {
        "ap50": at[0.5],
        "ap75": at[0.75],
        "mean_ap": _mean(ap),
        "ap": None if objects == 0 else ap,
        "precision50": _ratio(half, matches.predicted),
        "recall50": _ratio(half, matches.truth),
        "f1_50": _ratio(2 * half, objects),
        "pq": _ratio(2 * matches.iou / IOU_UNITS, objects),
        "sq": _ratio(matches.iou / IOU_UNITS, matches.above_half),
        "rq": _ratio(2 * matches.above_half, objects),
        "aji": _ratio(matches.best_shared, matches.best_union),
        "object_dice": _ratio(2 * matches.shared, matches.shared_areas) if matches.shared else _ratio(0, objects),
        "glas_dice": _mean(
            [
                _ratio(matches.truth_dice / DICE_UNITS, matches.truth_pixels),
                _ratio(matches.predicted_dice / DICE_UNITS, matches.predicted_pixels),
            ]
        ),
        "splits": matches.splits,
        "merges": matches.merges,
        "count_error": matches.predicted - matches.truth,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _ratio(sum(known), len(known))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _histogram(sizes: Sequence[int]) -> list[list[int]]:
    """Return [least area, objects] from the smallest octave that has objects to the largest."""
    rows = [[1 << octave, found] for octave, found in enumerate(sizes)]
    return rows[next((octave for octave, found in enumerate(sizes) if found), len(rows)) :]
