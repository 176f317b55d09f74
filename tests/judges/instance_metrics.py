"""What other programs say of random label images: the values that `tests/oracle/test_instance_metrics.py` holds our metrics to.

The programs are no dependency of this project. They go into an environment of their own, from the root of the checkout:

    python3.11 -m venv /tmp/judges
    /tmp/judges/bin/pip install torch numba scipy scikit-image scikit-learn matplotlib opencv-python-headless numexpr natsort tqdm six
    /tmp/judges/bin/pip install --no-deps cellpose==4.2.1.1 stardist==0.9.2 csbdeep==0.8.2 fastremap fill-voids roifile \
        torchmetrics==1.9.0 lightning-utilities panopticapi-lite==0.2.0 hover-net==0.0.9 py-ctcmetrics==1.3.3
    /tmp/judges/bin/python tests/judges/instance_metrics.py

It writes `instance_metrics.csv` beside this file: a row for each class of object in each case. Where several programs follow one
definition, it ends with an error if they differ. The file was made with numpy 2.4.6, scipy 1.17.1 and torch 2.14.1.

Where definitions differ:

- Panoptic quality: StarDist counts pairs with an IoU of exactly 0.5, panopticapi, torchmetrics and HoVer-Net do not. Ours is theirs.
- AJI: Cellpose pairs objects one to one before it adds up; HoVer-Net (as the authors of the index) lets a predicted object serve
  several truth objects. Ours is HoVer-Net's.
- TP at 0.5: Cellpose and StarDist count an IoU of exactly 0.5. Ours is theirs.
"""

from __future__ import annotations

import csv
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np

__all__ = ["FIELDS", "NUM_CASES", "TABLE", "Case", "case", "cases"]

TABLE = Path(__file__).with_suffix(".csv")
THRESHOLDS = [part / 20 for part in range(10, 20)]
NUM_CASES = 240
FIELDS = [
    *("case", "crc", "class", "truth", "predicted"),
    *(f"tp{5 * part}" for part in range(10, 20)),  # Cellpose and StarDist
    *("ap50", "precision50", "recall50", "f1_50", "stardist_pq"),  # StarDist; ap50: Cellpose too
    *("pq", "sq", "rq"),  # panopticapi, torchmetrics and HoVer-Net
    *("aji", "object_dice"),  # HoVer-Net; empty where it divides by zero
    *("splits", "merges"),  # Cell Tracking Challenge
    "cellpose_aji",
]


@dataclass(frozen=True)
class Case:
    """Two label images, and the class (1 or 2) of each label by its number."""

    truth_YX: np.ndarray
    predicted_YX: np.ndarray
    truth_classes: np.ndarray
    predicted_classes: np.ndarray

    @property
    def crc(self):
        """Of the pixels and classes: another version of the random number generator could draw other images."""
        arrays = (self.truth_YX, self.predicted_YX, self.truth_classes, self.predicted_classes)
        return zlib.crc32(b"".join(array.astype("<i8").tobytes() for array in arrays))

    def of_class(self, class_id):
        """The label images of one class, in a border of background, which some programs take for granted."""
        sides = (self.truth_YX, self.truth_classes), (self.predicted_YX, self.predicted_classes)
        return [np.pad(labels_YX * (classes[labels_YX] == class_id), 1) for labels_YX, classes in sides]


def cases() -> Iterator[Case]:
    """All cases."""
    return map(case, range(NUM_CASES))


def case(number: int) -> Case:
    """One case: objects that are moved, cut, joined, lost and invented, halves of objects, noise, nothing at all."""
    rng = np.random.default_rng([16, number])
    truth_YX, predicted_YX = (noise, boxes, cells, cut_and_joined, halves, empty)[number % 6](rng)
    num_classes = 1 + (number % 4 == 0)
    sides = (truth_YX, predicted_YX)
    classes = [np.append(0, rng.integers(1, num_classes + 1, labels_YX.max(initial=0))) for labels_YX in sides]
    return Case(*sides, *classes)


def noise(rng):
    """Every pixel has any of a few labels, so that equal and exact ratios abound."""
    shape, labels = rng.integers(2, 9, 2), rng.integers(2, 7)
    return rng.integers(0, labels, shape), rng.integers(0, labels, shape)


def boxes(rng):
    """Rectangles over each other, and the same moved and resized; labels with gaps."""
    truth_YX, predicted_YX = np.zeros((2, 48, 48), np.int64)
    for label in 3 * np.arange(1, 13):
        y, x, height, width = *rng.integers(0, 40, 2), *rng.integers(3, 14, 2)
        truth_YX[y : y + height, x : x + width] = label
        dy, dx, dh, dw = rng.integers(-2, 3, 4)
        if rng.random() < 0.9:
            predicted_YX[max(0, y + dy) : y + dy + height + dh, max(0, x + dx) : x + dx + width + dw] = 40 - label
    return truth_YX, predicted_YX


def cells(rng):
    """Touching cells around points, and the same around points that are moved, lost and invented."""
    points = rng.integers(0, 512, (14, 2))
    moved = points + rng.integers(-24, 25, points.shape)
    return around(points, 72), around(np.concatenate([moved[2:], rng.integers(0, 512, (2, 2))]), rng.integers(56, 96))


def around(points_N2, radius):
    """Label the pixels nearest to each point, up to a distance; both in eighths of a pixel, so that numbers are exact."""
    grid_YX2 = 8 * np.stack(np.mgrid[:64, :64], axis=-1) + 4
    distance_NYX = ((grid_YX2[None] - points_N2[:, None, None]) ** 2).sum(axis=-1)
    return np.where(distance_NYX.min(axis=0) < radius**2, 1 + distance_NYX.argmin(axis=0), 0)


def cut_and_joined(rng):
    """Cells, of which some are cut along a line and some get the label of another."""
    truth_YX = around(rng.integers(0, 512, (16, 2)), 80)
    labels = np.append(0, rng.integers(1, 17, 16))
    predicted_YX = labels[truth_YX]
    predicted_YX[:, rng.integers(10, 54) :] += 16
    predicted_YX[truth_YX == 0] = 0
    return truth_YX, predicted_YX


def halves(rng):
    """Rectangles of even sides, whole or in two equal parts, on either side: an IoU of 0.5 twice for one object."""
    sides = np.zeros((2, 40, 40), np.int64)
    for label in range(1, 10):
        y, x = divmod(label - 1, 3)
        box = np.s_[13 * y : 13 * y + 2 * rng.integers(1, 6), 13 * x : 13 * x + 2 * rng.integers(1, 6)]
        first, second = rng.permutation(2)
        sides[first][box] = label
        part = sides[second][box]
        part[:] = label
        if rng.random() < 0.7:
            part[: len(part) // 2] = label + 9
        if rng.random() < 0.3:
            part[: len(part) // 2] = 0
    return sides[0], sides[1]


def empty(rng):
    """One side or both without any object, or one object everywhere."""
    sides = [around(rng.integers(0, 512, (5, 2)), 96), np.zeros((64, 64), np.int64), np.ones((64, 64), np.int64)]
    return sides[rng.integers(3)], sides[rng.integers(3)]


def judged(one: Case) -> Iterator[dict[str, float | int | str]]:
    """Ask every program, for each class."""
    panoptic = by_panopticapi(one)
    same(panoptic, by_torchmetrics(one))  # float32
    for class_id in range(1, 3):
        truth_YX, predicted_YX = one.of_class(class_id)
        if not (truth_YX.any() or predicted_YX.any()):
            continue
        pq, sq, rq = panoptic[class_id]
        matched = by_stardist(truth_YX, predicted_YX)
        tp, ap50, cellpose_aji = by_cellpose(truth_YX, predicted_YX)
        same(tp, [at.tp for at in matched])
        same([ap50], [matched[0].accuracy])
        aji = object_dice = ""
        if truth_YX.any() and predicted_YX.any():
            aji, object_dice, hovernet_pq = by_hovernet(truth_YX, predicted_YX)
            same([pq, sq, rq], hovernet_pq, within=2e-6)  # it adds 1e-6 to denominators
        yield {
            "class": class_id,
            "truth": matched[0].n_true,
            "predicted": matched[0].n_pred,
            **dict(zip([f"tp{part * 5}" for part in range(10, 20)], tp, strict=True)),
            "ap50": matched[0].accuracy,
            "precision50": matched[0].precision,
            "recall50": matched[0].recall,
            "f1_50": matched[0].f1,
            "stardist_pq": matched[0].panoptic_quality,
            "pq": pq,
            "sq": sq,
            "rq": rq,
            "aji": aji,
            "object_dice": object_dice,
            "splits": by_ctc(predicted_YX, truth_YX),
            "merges": by_ctc(truth_YX, predicted_YX),
            "cellpose_aji": cellpose_aji,
        }


def same(first, second, within=1e-6):
    """End with an error if two programs differ."""
    np.testing.assert_allclose(first, second, rtol=0, atol=within)


def by_cellpose(truth_YX, predicted_YX):
    """TP at each threshold, AP at 0.5, Cellpose's own AJI."""
    from cellpose.metrics import aggregated_jaccard_index, average_precision

    with np.errstate(all="ignore"):
        ap, tp, _, _ = average_precision(truth_YX, predicted_YX, threshold=THRESHOLDS)
        both = truth_YX.any() and predicted_YX.any()
        aji = aggregated_jaccard_index([truth_YX], [predicted_YX])[0] if both else ""
    return tp.astype(int).tolist(), float(ap[0]), aji


def by_stardist(truth_YX, predicted_YX):
    """Its result at each threshold."""
    from stardist.matching import matching

    return matching(truth_YX, predicted_YX, thresh=THRESHOLDS)


def by_torchmetrics(one: Case):
    """PQ, SQ and RQ of background and both classes."""
    import torch
    from torchmetrics.functional.detection import panoptic_quality

    sides = [(one.predicted_YX, one.predicted_classes), (one.truth_YX, one.truth_classes)]
    images = [torch.from_numpy(np.stack([classes[labels_YX], labels_YX], axis=-1)[None]) for labels_YX, classes in sides]
    things = panoptic_quality(*images, things={1, 2}, stuffs={0}, return_sq_and_rq=True, return_per_class=True).numpy()
    return things[[2, 0, 1]]  # it lists things before stuff


def by_panopticapi(one: Case):
    """The same by the authors of panoptic quality; background is a segment, because it leaves unlabelled pixels out."""
    from panopticapi.evaluation import pq_compute_single_core
    from panopticapi.utils import id2rgb
    from PIL import Image

    categories = {class_id: {"isthing": int(class_id > 0)} for class_id in range(3)}
    with tempfile.TemporaryDirectory() as folder:
        annotations = []
        for name, labels_YX, classes in (
            ("truth.png", one.truth_YX, one.truth_classes),
            ("predicted.png", one.predicted_YX, one.predicted_classes),
        ):
            Image.fromarray(id2rgb(labels_YX + 1)).save(Path(folder, name))
            found, areas = np.unique(labels_YX, return_counts=True)
            segments = [
                {"id": int(label) + 1, "category_id": int(classes[label]), "area": int(area), "iscrowd": 0}
                for label, area in zip(found, areas, strict=True)
            ]
            annotations.append({"image_id": 0, "file_name": name, "segments_info": segments})
        found = pq_compute_single_core(0, [tuple(annotations)], folder, folder, categories)
    _, per_class = found.pq_average(categories, isthing=None)
    return [[per_class[class_id][name] for name in ("pq", "sq", "rq")] for class_id in range(3)]


def by_hovernet(truth_YX, predicted_YX):
    """AJI, DICE2, and (PQ, SQ, RQ); it needs labels without gaps."""
    metrics = hovernet_metrics()
    labels = [metrics.remap_label(labels_YX) for labels_YX in (truth_YX, predicted_YX)]
    (rq, sq, pq), _ = metrics.get_fast_pq(*labels)
    dice = metrics.get_dice_2(*labels) if (truth_YX * predicted_YX).any() else ""
    return metrics.get_fast_aji(*labels), dice, [pq, sq, rq]


@cache
def hovernet_metrics():
    """The one module of HoVer-Net that counts; its package imports all that it trains with."""
    folder = Path(find_spec("hover_net").origin).parent
    spec = spec_from_file_location("hovernet_metrics", folder / "metrics" / "stats_utils.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_ctc(truth_YX, predicted_YX):
    """Count the splitting operations ("NS") of the Cell Tracking Challenge."""
    import tifffile
    from ctc_metrics.utils.representations import match

    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, name)) for name in ("truth.tif", "predicted.tif")]
        for path, labels_YX in zip(paths, (truth_YX, predicted_YX), strict=True):
            tifffile.imwrite(path, labels_YX.astype(np.int32))
        _, _, _, computed, _ = match(*paths)
    return len(computed) - len(set(computed))


def write() -> None:
    """Ask about all cases and write the table."""
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        table.writeheader()
        for number, one in enumerate(cases()):
            for row in judged(one):
                rounded = {name: f"{value:.9g}" if isinstance(value, float) else value for name, value in row.items()}
                table.writerow({"case": number, "crc": f"{one.crc:08x}", **rounded})


if __name__ == "__main__":
    write()
