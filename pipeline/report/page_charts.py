"""The charts of a report's page. Each is left out where its numbers are not known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from pipeline.errors import printable
from pipeline.report.page_words import STAGES
from pipeline.web import Chart, Series, histogram_chart, in_digits, in_percent, in_seconds, line_chart, stacked_chart

__all__ = ["MOST_ACTORS", "charts_of", "size_bins"]

MOST_ACTORS = 40
MOST_SIZE_CHARTS = 12
BINS = 20  # of IoU


def charts_of(report: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Return the charts that a report has the numbers for.

    Args:
        report: the content of report.json.
        classes: its classes, with their colours.
    """
    found = [_ious(report["per_image"]), _reliability(report), *_sizes(report, classes), *_times(report["timing"])]
    return [chart for chart in found if chart is not None]


def _ious(images: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Return how many images have which mean IoU; None: fewer than two have any."""
    values = sorted(one["mean_iou"] for one in images if one.get("mean_iou") is not None)
    if len(values) < 2:
        return None
    counts = [0] * BINS
    for value in values:
        counts[min(int(value * BINS), BINS - 1)] += 1
    lowest, middle, highest = (in_digits(value) for value in (values[0], median(values), values[-1]))
    summary = f"Of {len(values):,} images the lowest has {lowest}, the middle one {middle}, the highest {highest}."
    bins = [(index / BINS, (index + 1) / BINS, [count]) for index, count in enumerate(counts)]
    x = {"label": "mean IoU of an image", "scale": "linear", "domain": [0, 1]}
    return histogram_chart("ious", "Mean IoU of the images", summary, x=x, y="images", series=[Series("images")], bins=bins)


def _reliability(report: Mapping[str, Any]) -> Chart | None:
    """Return how often the model is right at each confidence; None: it gives no probabilities, or there is no truth."""
    bins = [one for one in report.get("reliability") or () if one["pixels"]]
    if not bins:
        return None
    error = in_percent(report.get("calibration_error"))
    summary = f"Expected calibration error {error}: the mean distance of the points from the diagonal, weighted by pixels."
    points = [(one["confidence"], one["right"] / one["pixels"]) for one in bins]
    axes = {"x": {"label": "confidence of the model", "domain": [0, 1]}, "y": {"label": "share of pixels that are right", "domain": [0, 1]}}
    drawn = line_chart(
        "reliability", "How sure the model is, and how often it is right", summary, lines=[(Series("model"), points)], **axes, **_LOOK
    )
    rows = [
        [f"{one['from']:.2f} to {one['to']:.2f}", f"{one['confidence']:.4f}", f"{right:.4f}", f"{one['pixels']:,}"]
        for one, (_, right) in zip(bins, points, strict=True)
    ]
    return replace(drawn, head=["confidence", "mean confidence", "share right", "pixels"], rows=rows)


_LOOK: dict[str, Any] = {"diagonal": True, "square": True, "dots": True}


def size_bins(row: Mapping[str, Any]) -> list[tuple[int, int, list[int]]]:
    """Return least area, the area it stays below, and truth and predicted objects of each octave; only predicted ones without truth."""
    predicted = dict(row.get("sizes_predicted") or ())
    truth = None if row.get("sizes_truth") is None else dict(row["sizes_truth"])
    areas = sorted(predicted.keys() | (truth or {}).keys())
    return [(area, 2 * area, [*([] if truth is None else [truth.get(area, 0)]), predicted.get(area, 0)]) for area in areas]


def _sizes(report: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    """Yield how large the objects of each class are."""
    colors = {one["name"]: one["color"] for one in classes}
    for index, row in enumerate((report.get("instances") or ())[:MOST_SIZE_CHARTS]):
        bins, name = size_bins(row), printable(row["class"])
        if not bins:
            continue
        has_truth = len(bins[0][2]) == 2
        series = [Series("truth"), Series("predicted")] if has_truth else [Series("predicted", colors.get(row["class"]))]
        summary = "Objects by their area; each bar is an octave, twice as large as the one before."
        x = {"label": "area of an object, px", "scale": "log2", "domain": None}
        yield histogram_chart(f"sizes-{index}", f"Sizes of {name}", summary, x=x, y="objects", series=series, bins=bins)


def _times(timing: Mapping[str, Any]) -> Iterator[Chart]:
    """Yield the time of all actors by stage, and that of each actor where there are several."""
    stages = timing.get("stage_seconds") or {}
    total = sum(stages.values())
    if not total:
        return
    order = [*(one for one in STAGES if one in stages), *(one for one in stages if one not in STAGES)]
    series = [Series(STAGES.get(one, one)) for one in order]
    summary = "; ".join(f"{STAGES.get(one, one)} {in_percent(stages[one] / total)}" for one in sorted(order, key=lambda one: -stages[one]))
    rows = [("all actors", [stages[one] for one in order])]
    title = f"Time by stage, {in_seconds(total)} of all actors"
    yield stacked_chart("stages", title, f"{summary}. Reading and writing go on beside the model.", x="seconds", series=series, rows=rows)
    actors = timing.get("actors") or []
    if len(actors) < 2:
        return
    rows = [(printable(one["actor"]), [one["seconds"].get(stage, 0.0) for stage in order]) for one in actors[:MOST_ACTORS]]
    if rest := actors[MOST_ACTORS:]:
        rows.append((f"{len(rest)} more, mean", [sum(one["seconds"].get(stage, 0.0) for one in rest) / len(rest) for stage in order]))
    summary = f"{len(actors):,} actors, the busiest first; each is named by its host and process."
    yield stacked_chart("actors", "Time by actor", summary, x="seconds", series=series, rows=rows)
