"""Curves of a training, from the text of its history.csv: what the charts of training.html show."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from pipeline.web import Chart, Series, line_chart

__all__ = ["curve_charts"]

MOST_POINTS = 300  # of a curve: more do not fit the pixels of a page
MOST_OF_CHART = 6000  # points of all curves of a chart, which bounds the page where there are many classes
MOST_DOTS = 40  # with fewer points, each is worth seeing
MEAN_COLOR = "var(--ink)"

Point = tuple[float, ...]  # step and value, or step, mean, least and greatest value


def curve_charts(history: str, colors: Sequence[str]) -> list[Chart]:
    """Return the charts of loss, IoU, learning rate and speed over steps, without those that have no finite value.

    Args:
        history: the text of history.csv; may be empty.
        colors: of the classes, by id.
    """
    rows = list(csv.DictReader(io.StringIO(history, newline="")))
    ious = [column for column in (rows[0] if rows else ()) if column.startswith("iou ")]
    of_classes = [(column, Series(column.removeprefix("iou "), color)) for column, color in zip(ious, colors, strict=True)] if ious else []
    losses = [("loss", Series("training loss")), ("cross_entropy", Series("cross-entropy on validation images"))]
    found = [
        _chart(rows, "loss", "Loss", "loss", losses),
        _chart(
            rows,
            "iou",
            "IoU on validation images",
            "IoU",
            [*of_classes, ("mean_iou", Series("mean", MEAN_COLOR, is_dashed=True))],
            domain=(0, 1),
        ),
        _chart(rows, "rate", "Learning rate", "learning rate", [("rate", Series("learning rate"))]),
        _chart(rows, "speed", "Speed", "crops a second", [("crops_per_second", Series("crops a second"))]),
    ]
    return [chart for chart in found if chart is not None]


def _chart(
    rows: Sequence[dict[str, str]], id_: str, title: str, label: str, columns: Sequence[tuple[str, Series]], domain: Any = None
) -> Chart | None:
    """Return the chart of these columns of the history; None: they have no finite value. Its values begin at 0, or below."""
    curves = [(series, _points(rows, column)) for column, series in columns]
    drawn = [(series, points) for series, points in curves if points]
    if not drawn:
        return None
    values = [value for _, points in drawn for _, value in points]
    low, high = domain or (min(0.0, *values), max(0.0, *values))
    last = "; ".join(f"{series.name} {points[-1][1]:.4g}" for series, points in drawn[-MOST_DOTS:])
    most = min(MOST_POINTS, max(2, MOST_OF_CHART // len(drawn)))
    lines = [(series, thinned(points, most)) for series, points in drawn]
    return line_chart(
        id_,
        title,
        f"At the end: {last}." + (" Pale bands reach from the least to the greatest value." if any(map(_is_banded, lines)) else ""),
        x={"label": "step", "scale": "whole", "domain": [0, max(1, *(points[-1][0] for _, points in drawn))]},
        y={"label": label, "scale": "linear", "domain": [low, high if high > low else low + 1]},
        lines=lines,
        dots=all(len(points) <= MOST_DOTS for _, points in lines),
    )


def _points(rows: Sequence[dict[str, str]], column: str) -> list[tuple[int, float]]:
    """Return step and value wherever a column has a finite value."""
    filled = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
    return [point for point in filled if math.isfinite(point[1])]


def _is_banded(line: tuple[Series, Sequence[Point]]) -> bool:
    return any(len(point) > 2 for point in line[1])


def thinned(points: Sequence[tuple[int, float]], most: int) -> list[Point]:
    """Return points as they are, or if there are more than ``most``: mean, least and greatest value of equal spans of steps.

    Example:
        >>> thinned([(1, 5.0), (2, 7.0), (3, 9.0)], 3), thinned([(1, 5.0), (2, 7.0), (3, 9.0), (4, 1.0)], 2)
        ([(1, 5.0), (2, 7.0), (3, 9.0)], [(1.5, 6.0, 5.0, 7.0), (3.5, 5.0, 1.0, 9.0)])
    """
    if len(points) <= most:
        return list(points)
    first, last = points[0][0], points[-1][0]
    width = (last - first + 1) / most
    groups = [list(group) for _, group in groupby(points, lambda point: int((point[0] - first) / width))]
    return [_span([step for step, _ in group], [value for _, value in group]) for group in groups]


def _span(steps: Sequence[int], values: Sequence[float]) -> Point:
    # The mean of huge values may overflow; it lies between them in any case.
    mean = min(max(fmean(values), min(values)), max(values))
    return fmean(steps), mean, min(values), max(values)
