"""The content of report.json: a pure function of the counts of each image."""

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
        has_truth: whether it has truth.
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
    """Everything that a report is built from.

    Attributes:
        state: ``done``, ``partial``, ``failed``, ``interrupted`` or ``running``.
        classes: ``{"name", ...}`` of each class; the id is the position.
        metrics: the fields of all of them are reported side by side.
        images: in the order of the plan, in which floats are added.
        failures: what could not be done; truth that could not be counted is added to them.
        model: ``{"name", "sha256"}``; both None where masks that existed were scored.
        timing: any numbers by name; the one part that differs from run to run.
    """

    state: str
    classes: Sequence[Mapping[str, Any]]
    metrics: Sequence[Metric]
    images: Sequence[ImageCounts]
    failures: Sequence[Failure] = ()
    model: Mapping[str, Any] = field(default_factory=lambda: {"name": None, "sha256": None})
    timing: Mapping[str, Any] = field(default_factory=dict)


def build_report(inputs: ReportInput) -> dict[str, Any]:
    """Return the content of report.json.

    Pooled metrics are those of the summed counts, not means over images. An image whose truth could not be counted keeps its
    areas, has no metrics, is left out of the pooled metrics and is listed among the failures. Where only some images have
    truth, the others are named in ``without_truth``.

    Returns:
        Plain JSON: what is undefined or not finite is None.
    """
    empty = Counts(np.zeros(len(inputs.classes), np.int64))
    counted = [_usable(image, empty) for image in inputs.images]
    pooled = sum(counted, start=empty)
    broken = [Failure(image.name, None, "count", image.truth_error) for image in inputs.images if image.truth_error]
    some_truth = any(image.has_truth for image in inputs.images)
    report: dict[str, Any] = _plain(
        {
            "format": "gigaseg.report/1",
            "state": inputs.state,
            "images": len(inputs.images),
            **_fields(pooled, inputs),
            "confusion": None if pooled.confusion is None else pooled.confusion.tolist(),
            "per_image": [_row(image, counts, inputs) for image, counts in zip(inputs.images, counted, strict=True)],
            "without_truth": [image.name for image in inputs.images if some_truth and not image.has_truth],
            "failures": [asdict(failure) for failure in (*inputs.failures, *broken)],
            "model": dict(inputs.model),
            "timing": dict(inputs.timing),
        }
    )
    return report


def _row(image: ImageCounts, counts: Counts, inputs: ReportInput) -> dict[str, Any]:
    """Return what is reported of one image."""
    return {"name": image.name, **_fields(counts, inputs), **({"numbers": image.numbers} if image.numbers else {})}


def _usable(image: ImageCounts, empty: Counts) -> Counts:
    """Return the counts of an image, without those against a truth that could not be counted."""
    counts = image.counts or empty
    return replace(counts, confusion=None, cross_entropy=None, cross_entropy_pixels=0) if image.truth_error else counts


def _fields(counts: Counts, inputs: ReportInput) -> dict[str, Any]:
    """Return the fields that the report and each image in it share."""
    classes: list[dict[str, Any]] = [{"id": index, "name": spec["name"]} for index, spec in enumerate(inputs.classes)]
    scalars: dict[str, Any] = {}
    for metric in inputs.metrics:
        fields = dict(metric.compute(counts))
        for index, class_fields in enumerate(fields.pop("classes", [])):
            classes[index] |= class_fields
        scalars |= fields
    areas = {name: getattr(counts, name) for name in ("pixels", "no_prediction", "skipped", "quarantined")}
    return {**areas, "classes": classes, **scalars}


def _plain(value: Any) -> Any:
    """Return a value in Python's own types, with None for numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
