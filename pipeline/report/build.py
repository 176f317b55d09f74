"""What a report says: a pure function of the counts of each image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.metrics import Metric
from pipeline.statistics import Counts

__all__ = ["Failure", "ImageCounts", "ReportInput", "build_report"]


@dataclass(frozen=True)
class Failure:
    """One thing that was not done, and why.

    Attributes:
        image: NAME.
        block: id of the block; None: the whole image.
        phase: the phase that failed; ``plan`` where the image could not be opened.
        cause: what went wrong, one line.
        attempts: how often it was tried.
    """

    image: str
    block: str | None
    phase: str
    cause: str
    attempts: int = 1


@dataclass(frozen=True)
class ImageCounts:
    """One image of the run.

    Attributes:
        name: NAME.
        counts: summed over its blocks in plan order; None: nothing could be counted.
        has_truth: whether it was given truth.
        truth_error: why its truth could not be counted, with value and first position; empty when it could.
        numbers: sums over its blocks, by phase and name.
    """

    name: str
    counts: Counts | None = None
    has_truth: bool = False
    truth_error: str = ""
    numbers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportInput:
    """Everything that a report is made of.

    Attributes:
        state: ``done``, ``partial``, ``failed``, ``interrupted`` or ``running``.
        classes: ``{"name", ...}`` of each class; the id is the position.
        metrics: their fields are put side by side.
        images: in plan order, which is the order that floats are added in.
        failures: what is not done; truth that could not be counted need not be listed.
        model: ``{"name", "sha256"}``; both None where masks were scored that existed.
        timing: any numbers by name; the one part that differs from run to run.
    """

    state: str
    classes: Sequence[Mapping[str, Any]]
    metrics: Sequence[Metric]
    images: Sequence[ImageCounts]
    failures: Sequence[Failure] = ()
    model: Mapping[str, Any] = field(default_factory=lambda: {"name": None, "sha256": None})
    timing: Mapping[str, Any] = field(default_factory=dict)


def build_report(given: ReportInput) -> dict[str, Any]:
    """Make the content of report.json.

    Pooled metrics are those of the summed counts, not means over images. An image whose truth could not be
    counted keeps its areas, has no metrics, is in no pooled metric and is among the failures. Where only some images
    have truth, the others are named in ``without_truth``.

    Returns:
        Plain JSON: what is undefined or not finite is None.
    """
    empty = Counts(np.zeros(len(given.classes), np.int64))
    counted = [_usable(image, empty) for image in given.images]
    pooled = sum(counted, start=empty)
    spoilt = [Failure(image.name, None, "count", image.truth_error) for image in given.images if image.truth_error]
    some_truth = any(image.has_truth for image in given.images)
    report: dict[str, Any] = _plain(
        {
            "format": "gigaseg.report/1",
            "state": given.state,
            "images": len(given.images),
            **_fields(pooled, given),
            "confusion": None if pooled.confusion is None else pooled.confusion.tolist(),
            "per_image": [_row(image, counts, given) for image, counts in zip(given.images, counted, strict=True)],
            "without_truth": [image.name for image in given.images if some_truth and not image.has_truth],
            "failures": [asdict(failure) for failure in (*given.failures, *spoilt)],
            "model": dict(given.model),
            "timing": dict(given.timing),
        }
    )
    return report


def _row(image: ImageCounts, counts: Counts, given: ReportInput) -> dict[str, Any]:
    """Return what is reported of one image."""
    return {"name": image.name, **_fields(counts, given), **({"numbers": image.numbers} if image.numbers else {})}


def _usable(image: ImageCounts, empty: Counts) -> Counts:
    """Leave out what rests on broken truth."""
    counts = image.counts or empty
    return replace(counts, confusion=None, cross_entropy=None, cross_entropy_pixels=0) if image.truth_error else counts


def _fields(counts: Counts, given: ReportInput) -> dict[str, Any]:
    """The fields that the whole and each image share."""
    classes: list[dict[str, Any]] = [{"id": index, "name": spec["name"]} for index, spec in enumerate(given.classes)]
    scalars: dict[str, Any] = {}
    for metric in given.metrics:
        found = dict(metric.compute(counts))
        for index, more in enumerate(found.pop("classes", [])):
            classes[index] |= more
        scalars |= found
    areas = {name: getattr(counts, name) for name in ("pixels", "no_prediction", "skipped", "quarantined")}
    return {**areas, "classes": classes, **scalars}


def _plain(value: Any) -> Any:
    """Python's own types only, and None for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
