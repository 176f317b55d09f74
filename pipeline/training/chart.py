"""Curves over training steps as lines of an SVG: numbers in, coordinates and tick labels out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

__all__ = ["Chart", "Curve", "Line", "Tick", "draw"]

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 60, 540, 10, 212  # edges of the plot; what is outside is for the labels

_MOST_POINTS = 300  # of a curve: more do not fit the pixels of a page
_MOST_DOTS = 40  # with fewer points, each is worth seeing


@dataclass(frozen=True)
class Curve:
    """Values at rising training steps; those that are not finite are not drawn. An empty colour of CSS is that of the text."""

    name: str
    color: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in pixels of the drawing."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """A curve in pixels of the drawing.

    Attributes:
        name, color: those of the curve, for the legend.
        path: `d` of an SVG path: the mean where several steps share a place.
        band: the same from the least to the greatest of them; empty where each step has a place of its own.
        dots: centres (x, y), where there are few.
        last: the last value.
    """

    name: str
    color: str
    path: str
    band: str
    dots: tuple[tuple[float, float], ...]
    last: float


@dataclass(frozen=True)
class Chart:
    """What a template draws: the ticks of both axes, and the curves that have at least one finite value."""

    title: str
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    lines: tuple[Line, ...]


def draw(title: str, curves: Sequence[Curve], *, fixed: tuple[float, float] | None = None) -> Chart:
    """Place curves on common axes, the last on top.

    Args:
        title: what is shown.
        curves: drawn in this order.
        fixed: ends of the axis of values; None: from 0, or the least value below it, to the greatest.

    Example:
        >>> chart = draw("loss", [Curve("loss", "blue", [0, 50, 100], [1.0, float("nan"), 0.0])])
        >>> chart.lines[0].path
        'M60.0,10.0L540.0,212.0'
        >>> [tick.label for tick in chart.x]
        ['0', '20', '40', '60', '80', '100']
    """
    finite = [(curve, [point for point in zip(curve.steps, curve.values, strict=True) if math.isfinite(point[1])]) for curve in curves]
    drawn = [(curve, points) for curve, points in finite if points]
    if not drawn:
        return Chart(title, (), (), ())
    values = [value for _, points in drawn for _, value in points]
    right = max(1, *(points[-1][0] for _, points in drawn))
    heights = _ticks(*(fixed or (min(0.0, *values), max(0.0, *values))))
    frame = _Frame(right, heights[0], heights[-1])
    return Chart(
        title,
        tuple(Tick(frame.x(tick), _label(tick)) for tick in _ticks(0, right) if tick <= right and tick.is_integer()),
        tuple(Tick(frame.y(tick), _label(tick)) for tick in heights),
        tuple(_line(curve, points, frame) for curve, points in drawn),
    )


@dataclass(frozen=True)
class _Frame:
    """From (step, value) to pixels of the drawing."""

    right: float
    bottom: float
    top: float

    def x(self, step: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * step / self.right, 1)

    def y(self, value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (value - self.bottom) / (self.top - self.bottom), 1)


def _line(curve: Curve, points: Sequence[tuple[int, float]], frame: _Frame) -> Line:
    """Join what falls into one place, and the places."""
    first, last = points[0][0], points[-1][0]
    width = (last - first) / _MOST_POINTS if len(points) > _MOST_POINTS else 0
    groups = [list(group) for _, group in groupby(points, lambda point: (point[0] - first) // width if width else point[0])]

    def join(value: Callable[[list[float]], float]) -> list[tuple[float, float]]:
        return [(frame.x(fmean(step for step, _ in group)), frame.y(value([one for _, one in group]))) for group in groups]

    mean, least, greatest = join(fmean), join(min), join(max)
    band = _path([*least, *reversed(greatest)]) + "Z" if least != greatest else ""
    return Line(curve.name, curve.color, _path(mean), band, tuple(mean) if len(mean) <= _MOST_DOTS else (), points[-1][1])


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x},{y}" for x, y in places)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose a range, about five (after Heckbert, Nice Numbers for Graph Labels, 1990)."""
    high = high if high > low else low + 1
    rough = (high - low) / 5
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * decade for factor in (1, 2, 5, 10) if rough <= factor * decade * (1 + 1e-9))
    return [float(f"{count * step:.12g}") for count in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def _label(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e7 else f"{value:.6g}"
