"""training.html: one page without further files that shows how a training went."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import default_colors
from pipeline.statistics import confusion_matrix
from pipeline.storage import Storage
from pipeline.training.curves import curve_charts
from pipeline.training.history import HISTORY
from pipeline.training.worst_crops import main_confusions, mean_iou
from pipeline.web import data_uri, render_page

__all__ = ["PAGE", "Picture", "write_page"]

PAGE = "training.html"
"""Name of the page in the output folder."""

SCORES = {
    "mean IoU": "mean_iou",
    "mean Dice": "mean_dice",
    "macro F1": "macro_f1",
    "micro F1": "micro_f1",
    "pixel accuracy": "pixel_accuracy",
    "cross-entropy, nats": "cross_entropy",
}
_MOST_CLASSES = 64  # a larger matrix is no longer readable
_MOST_CONFUSIONS = 3  # of a picture
_WRONG = (255, 40, 40)


class Picture(NamedTuple):
    """A part of a validation image, small enough for a page.

    Attributes:
        name: of the image.
        image_YXC: its pixels; the first three channels are shown as red, green and blue, fewer channels as grey.
        truth_YX: class ids; any other value, such as 255, is ignored.
        mask_YX: class ids; any other value, such as 255, means no prediction.
        place: of the part in its image, in words; empty: it is the whole image.
    """

    name: str
    image_YXC: NDArray[np.uint8]
    truth_YX: NDArray[Any]
    mask_YX: NDArray[Any]
    place: str = ""


def write_page(output: Storage, *, title: str, facts: Mapping[str, str], report: Mapping[str, Any], pictures: Sequence[Picture]) -> None:
    """Write the page at once, so that no reader sees a part of it; the same input gives the same bytes.

    Args:
        output: folder of the training; curves are drawn where its history.csv has rows.
        title: what was trained.
        facts: further lines, by name.
        report: report.json of the validation images. Classes may have a ``color``, ``#rrggbb``; others get one of the palette.
        pictures: each is shown as image, truth, prediction and error, with its worst confusions, in this order.
    """
    colors = default_colors(len(report["classes"]))
    classes = [{"color": color, **row} for color, row in zip(colors, report["classes"], strict=True)]
    text = render_page(
        Path(__file__).with_name("training.html.j2"),
        styles=[Path(__file__).with_name("training.css")],
        charts=curve_charts((output.get(HISTORY) or b"").decode(), [row["color"] for row in classes]),
        title=title,
        scores={word: report[key] for word, key in SCORES.items() if key in report},
        facts=facts,
        report=report,
        classes=classes,
        pictures=[_panels(picture, classes) for picture in pictures],
        most_classes=_MOST_CLASSES,
        wrong_color="#{:02x}{:02x}{:02x}".format(*_WRONG),
    )
    output.put(PAGE, text.encode())


def _panels(picture: Picture, classes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return four pictures as data URIs, the share of wrong pixels, the mean IoU, and what is mostly taken for what."""
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
    confusion_KK = confusion_matrix(truth_YX, mask_YX, classes=len(classes))
    known, wrong = int(counted_YX.sum()), int(wrong_YX.sum())
    confusions = main_confusions(confusion_KK)[:_MOST_CONFUSIONS]
    return {
        "name": picture.name,
        "place": picture.place,
        "width": truth_YX.shape[1],
        "wrong": wrong / known if known else None,
        "iou": mean_iou(confusion_KK),
        "confusions": [(classes[one.truth], classes[one.predicted], one.pixels, one.pixels / wrong) for one in confusions],
        "panels": {caption: _png(pixels_YXC) for caption, pixels_YXC in panels.items()},
    }


def _known_ids(ids_YX: NDArray[Any], num_classes: int) -> NDArray[np.intp]:
    """Return class ids, and ``num_classes`` for every other value."""
    return np.where((ids_YX >= 0) & (ids_YX < num_classes), ids_YX, num_classes).astype(np.intp)


def _png(pixels_YXC: NDArray[np.uint8]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels_YXC).save(file, "PNG", optimize=True)
    return data_uri(file.getvalue(), "image/png")
