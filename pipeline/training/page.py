"""training.html: one page without further files that shows how a training went."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import default_colors
from pipeline.storage import Storage
from pipeline.training.history import HISTORY

__all__ = ["PAGE", "Chart", "Curve", "Line", "Picture", "Tick", "draw", "write_page"]

PAGE = "training.html"
"""Name of the page in the output folder."""

_MOST_CLASSES = 64  # a larger matrix is no longer readable
_WRONG = (255, 40, 40)
_ACCENT, _SECOND = "#1e78dc", "#f58231"

WIDTH, HEIGHT = 560, 250  # of a chart
LEFT, RIGHT, TOP, BOTTOM = 60, 540, 10, 212  # edges of its plot; what is outside is for the labels
_MOST_POINTS = 300  # of a curve: more do not fit the pixels of a page
_MOST_DOTS = 40  # with fewer points, each is worth seeing


class Picture(NamedTuple):
    """A part of a validation image, small enough for a page.

    Attributes:
        name: of the image.
        image_YXC: its pixels; the first three channels are shown as red, green and blue, fewer channels as grey.
        truth_YX: class ids; any other value, such as 255, is ignored.
        mask_YX: class ids; any other value, such as 255, means no prediction.
    """

    name: str
    image_YXC: NDArray[np.uint8]
    truth_YX: NDArray[Any]
    mask_YX: NDArray[Any]


def write_page(output: Storage, *, title: str, facts: Mapping[str, str], report: Mapping[str, Any], pictures: Sequence[Picture]) -> None:
    """Write the page at once, so that no reader sees a part of it; the same input gives the same bytes.

    Args:
        output: folder of the training; curves are drawn where its history.csv has rows.
        title: what was trained.
        facts: further lines, by name.
        report: report.json of the validation images. Classes may have a ``color``, ``#rrggbb``; others get one of the palette.
        pictures: each is shown as image, truth, prediction and error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    colors = default_colors(len(report["classes"]))
    classes = [{"color": color, **row} for color, row in zip(colors, report["classes"], strict=True)]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    text = environment.get_template("training.html.j2").render(
        title=title,
        facts=facts,
        report=report,
        classes=classes,
        charts=_charts((output.get(HISTORY) or b"").decode(), [row["color"] for row in classes]),
        frame={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT},
        pictures=[_panels(picture, classes) for picture in pictures],
        most_classes=_MOST_CLASSES,
    )
    output.put(PAGE, text.encode())


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _charts(history: str, colors: Sequence[str]) -> list[Chart]:
    """Loss, IoU, learning rate and speed over steps."""
    rows = list(csv.DictReader(io.StringIO(history, newline="")))

    def curve(column: str, name: str, color: str) -> Curve:
        filled = [row for row in rows if row[column]]
        return Curve(name, color, [int(row["step"]) for row in filled], [float(row[column]) for row in filled])

    ious = [column for column in (rows[0] if rows else ()) if column.startswith("iou ")]
    of_classes = [curve(column, column.removeprefix("iou "), color) for column, color in zip(ious, colors, strict=True)] if ious else []
    loss = [curve("loss", "training loss", _ACCENT), curve("cross_entropy", "cross-entropy on validation images", _SECOND)]
    charts = [
        draw("Loss", loss),
        draw("IoU on validation images", [*of_classes, curve("mean_iou", "mean", "")], fixed=(0.0, 1.0)),
        draw("Learning rate", [curve("rate", "learning rate", _ACCENT)]),
        draw("Speed", [curve("crops_per_second", "crops a second", _ACCENT)]),
    ]
    return [chart for chart in charts if chart.lines]


def _panels(picture: Picture, classes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return four pictures as data URIs, and the share of wrong pixels."""
    truth_YX, mask_YX = (_known_ids(ids_YX, len(classes)) for ids_YX in (picture.truth_YX, picture.mask_YX))
    counted_YX = (truth_YX < len(classes)) & (mask_YX < len(classes))
    wrong_YX = counted_YX & (truth_YX != mask_YX)
    image_YXC = picture.image_YXC[..., :3]
    grey_YX1 = image_YXC.mean(axis=-1, keepdims=True).astype(np.uint8)
    grey_YXC = np.repeat(grey_YX1, 3, axis=-1)
    lut_KC = np.array([(*bytes.fromhex(row["color"][1:]), 255) for row in classes] + [(0, 0, 0, 0)], np.uint8)
    panels = {
        "image": image_YXC if image_YXC.shape[-1] == 3 else grey_YXC,
        "truth": lut_KC[truth_YX],
        "prediction": lut_KC[mask_YX],
        "error": np.where(wrong_YX[..., None], np.array(_WRONG, np.uint8), grey_YXC),
    }
    counted = int(counted_YX.sum())
    return {
        "name": picture.name,
        "width": truth_YX.shape[1],
        "wrong": int(wrong_YX.sum()) / counted if counted else None,
        "panels": {caption: _png(pixels_YXC) for caption, pixels_YXC in panels.items()},
    }


def _known_ids(ids_YX: NDArray[Any], num_classes: int) -> NDArray[np.intp]:
    """Return class ids, and ``num_classes`` for every other value."""
    return np.where((ids_YX >= 0) & (ids_YX < num_classes), ids_YX, num_classes).astype(np.intp)


def _png(pixels_YXC: NDArray[np.uint8]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels_YXC).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


class Curve(NamedTuple):
    """Values at rising training steps; those that are not finite are not drawn. An empty colour of CSS is that of the text."""

    name: str
    color: str
    steps: Sequence[int]
    values: Sequence[float]


class Tick(NamedTuple):
    """A labelled place on an axis, in pixels of the drawing."""

    at: float
    label: str


class Line(NamedTuple):
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


class Chart(NamedTuple):
    """What a template draws: the ticks of both axes, and the curves that have at least one finite value."""

    title: str
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    lines: tuple[Line, ...]


def draw(title: str, curves: Sequence[Curve], *, fixed: tuple[float, float] | None = None) -> Chart:
    """Place curves on common axes, the last on top. The axis of values ends at ``fixed``, or includes 0 and all values.

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


class _Frame(NamedTuple):
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
