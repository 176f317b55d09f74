"""training.html: one page without further files that shows how a training went."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import default_colors
from pipeline.storage import Storage
from pipeline.training.chart import HEIGHT, LEFT, RIGHT, WIDTH, Chart, Curve, draw
from pipeline.training.history import HISTORY

__all__ = ["PAGE", "Picture", "write_page"]

PAGE = "training.html"
"""Name of the page in the output folder."""

_MOST_CLASSES = 64  # a larger matrix is no longer readable
_WRONG = (255, 40, 40)
_ACCENT, _SECOND = "#1e78dc", "#f58231"


@dataclass(frozen=True)
class Picture:
    """A part of a validation image, small enough for a page.

    Attributes:
        name: of the image.
        image_YXC: pixels of the image; the first three channels are shown as red, green and blue, fewer channels as grey.
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
        report: the content of report.json for the validation images. A class may have a ``color``, ``#rrggbb``; others
            get one of the palette by their id.
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
