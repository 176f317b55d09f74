"""Where the masks of the validation images are wrong most: what to look at first, and what to label next.

Truth and masks are read block by block and counted on a coarse grid of cells, so memory does not grow with the image.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.inputs import Image, open_truth
from pipeline.plugins import build
from pipeline.raster import Raster
from pipeline.statistics import confusion_matrix
from pipeline.tiling import Grid
from pipeline.training.plan import TrainPlan

__all__ = ["CROPS", "WORST", "Confusion", "WorstCrop", "main_confusions", "mean_iou", "worst_crops", "worst_csv"]

WORST = "worst.csv"
"""Name of the list in the output folder."""

CROPS = 16  # that are wanted in all: where there are fewer images, several of each
CELL, CELLS = 128, 3  # side of a cell, pixels, and of a crop, cells
BLOCK = 2048  # pixels a side that are read at once, whole cells
LEAST_KNOWN = 0.1  # share of a crop: one with fewer known pixels is ranked as if the others were right


class Confusion(NamedTuple):
    """A class of the truth, what most of its wrong pixels were taken for, and how many these are."""

    truth: int
    predicted: int
    pixels: int


@dataclass(frozen=True)
class WorstCrop:
    """A part of a validation image.

    Attributes:
        image: of the validation.
        plane: of the image.
        box: of the part, pixels of the working grid.
        confusion_KK: pixels that have truth and prediction; a row is a class of the truth, a column a predicted class.
    """

    image: Image
    plane: int
    box: Box
    confusion_KK: NDArray[np.int64]

    @property
    def known(self) -> int:
        """Pixels that have truth and prediction."""
        return int(self.confusion_KK.sum())

    @property
    def wrong(self) -> int:
        """Those of them whose prediction is not the truth."""
        return self.known - int(self.confusion_KK.trace())

    @property
    def badness(self) -> float:
        """Share of wrong pixels, by which crops are ranked; a few known pixels cannot be worse than a crop that is known whole."""
        return self.wrong / max(self.known, LEAST_KNOWN * self.box.area)


def worst_crops(plan: TrainPlan, masks: Path) -> list[WorstCrop]:
    """Return the place of each validation image where most pixels are wrong, the image with the largest share of them first.

    Of few images, further places of each are returned as well, where something is wrong and which do not overlap. Images without truth in
    any pixel, or without a mask, have none.

    Args:
        plan: of the training.
        masks: folder of the masks of a run over its validation images.
    """
    number = -(-CROPS // max(1, len(plan.val)))
    with ThreadPoolExecutor(4) as pool:
        found = [crop for crops in pool.map(lambda image: list(_crops_of(plan, image, masks, number)), plan.val) for crop in crops]
    return sorted(found, key=lambda crop: (-crop.badness, crop.image.index, crop.plane, crop.box.y0, crop.box.x0))


def worst_csv(plan: TrainPlan, crops: list[WorstCrop]) -> str:
    """Return the list as CSV: image, plane, box in pixels of the mask, counts, mean IoU, and the most common confusion there."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", "plane", "y0", "x0", "y1", "x1", "known px", "wrong px", "wrong", "mean iou", "truth", "taken for", "px"])
    names = [str(spec["name"]) for spec in plan.classes]
    for crop in crops:
        iou, most = mean_iou(crop.confusion_KK), main_confusions(crop.confusion_KK)[:1]
        scores = [round(crop.wrong / crop.known, 6), "" if iou is None else round(iou, 6)]
        told = [names[most[0].truth], names[most[0].predicted], most[0].pixels] if most else ["", "", ""]
        box = (crop.box.y0, crop.box.x0, crop.box.y1, crop.box.x1)
        rows.writerow([crop.image.name, crop.plane, *box, crop.known, crop.wrong, *scores, *told])
    return text.getvalue()


def main_confusions(confusion_KK: NDArray[np.int64]) -> list[Confusion]:
    """Return what each class of the truth is mostly taken for, most pixels first; classes without a wrong pixel have nothing.

    Example:
        >>> main_confusions(np.array([[9, 1, 0], [4, 5, 6], [0, 0, 3]]))
        [Confusion(truth=1, predicted=2, pixels=6), Confusion(truth=0, predicted=1, pixels=1)]
    """
    wrong_KK = confusion_KK - np.diag(np.diag(confusion_KK))
    found = [Confusion(truth, int(row_K.argmax()), int(row_K.max())) for truth, row_K in enumerate(wrong_KK) if row_K.any()]
    return sorted(found, key=lambda one: (-one.pixels, one.truth))


def mean_iou(confusion_KK: NDArray[np.int64]) -> float | None:
    """Return the mean IoU over the classes that occur; None: none does."""
    hits_K = np.diag(confusion_KK)
    unions_K = confusion_KK.sum(axis=0) + confusion_KK.sum(axis=1) - hits_K
    return float((hits_K[unions_K > 0] / unions_K[unions_K > 0]).mean()) if unions_K.any() else None


def _crops_of(plan: TrainPlan, image: Image, masks: Path, number: int) -> Iterator[WorstCrop]:
    """Yield up to so many places of an image that do not overlap, most wrong pixels first; after the first one only wrong ones."""
    path, num_classes = masks / f"{image.name}.ome.zarr", len(plan.classes)
    if not path.exists():  # its blocks have failed
        return
    with ExitStack() as stack:
        truth = stack.enter_context(open_truth(image))
        mask = stack.enter_context(build("readers", {"name": "zarr"}).open(str(path)))
        places = sorted(
            (-wrong, plane, box)
            for plane in range(image.header.num_planes)
            for wrong, box in _places(*_count_cells(plan, truth, mask, image.header.shape, plane), image.header.shape, number)
        )
        for index, (negative, plane, box) in enumerate(places[:number]):
            if index and not negative:
                return
            yield WorstCrop(image, plane, box, confusion_matrix(*_read(plan, truth, mask, box, plane), classes=num_classes))


def _read(plan: TrainPlan, truth: Raster, mask: Raster, box: Box, plane: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return class ids of truth and of prediction; other values are unknown."""
    truth_CYX, known_YX = truth.read_valid(box, plane)
    return plan.truth_map.apply(truth_CYX, box, known_YX), np.asarray(mask.read(box, plane)[0])


def _count_cells(
    plan: TrainPlan, truth: Raster, mask: Raster, shape: tuple[int, int], plane: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the wrong pixels and the known ones of each cell of a plane."""
    counts_2YX = np.zeros((2, *(-(-length // CELL) for length in shape)), np.int64)
    for box in Grid(shape, BLOCK, 0, BLOCK).blocks():
        truth_YX, mask_YX = _read(plan, truth, mask, box, plane)
        known_YX = (truth_YX < len(plan.classes)) & (mask_YX < len(plan.classes))
        cells = tuple(slice(start // CELL, -(-stop // CELL)) for start, stop in ((box.y0, box.y1), (box.x0, box.x1)))
        for at, layer_YX in enumerate((known_YX & (truth_YX != mask_YX), known_YX)):
            rows, cols = (np.arange(0, length, CELL) for length in layer_YX.shape)
            counts_2YX[at][cells] = np.add.reduceat(np.add.reduceat(layer_YX, rows, axis=0, dtype=np.int64), cols, axis=1)
    return counts_2YX[0], counts_2YX[1]


def _places(wrong_YX: NDArray[np.int64], known_YX: NDArray[np.int64], shape: tuple[int, int], number: int) -> Iterator[tuple[int, Box]]:
    """Yield wrong pixels and box of up to so many windows of cells with known pixels, most wrong pixels first, without overlap."""
    wrong_YX, known_YX = (_window_sums(cells_YX) for cells_YX in (wrong_YX, known_YX))
    wrong_YX = np.where(known_YX > 0, wrong_YX, -1)
    for _ in range(number):
        row, col = np.unravel_index(int(wrong_YX.argmax()), wrong_YX.shape)
        wrong = int(wrong_YX[row, col])
        if wrong < 0:
            return
        top, left = (max(0, min(int(at) * CELL, length - CELL * CELLS)) for at, length in zip((row, col), shape, strict=True))
        yield wrong, Box(top, left, min(top + CELL * CELLS, shape[0]), min(left + CELL * CELLS, shape[1]))
        # One cell more than a window, as the last one of a plane is moved inwards by a part of a cell.
        wrong_YX[max(0, row - CELLS) : row + CELLS + 1, max(0, col - CELLS) : col + CELLS + 1] = -1


def _window_sums(cells_YX: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sum of each window of cells that lies inside; of a plane with fewer cells, of all of them."""
    for axis in (0, 1):
        width = min(CELLS, cells_YX.shape[axis])
        sums = np.insert(cells_YX.cumsum(axis=axis), 0, 0, axis=axis)
        stop, start = (np.take(sums, range(first, first + sums.shape[axis] - width), axis=axis) for first in (width, 0))
        cells_YX = stop - start
    return cells_YX
