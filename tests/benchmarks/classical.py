"""Classical methods on real images: mean IoU of each method and data set, against always saying the commonest class.

Run: ``GIGASEG_TEST_DATA=FOLDER python -m tests.benchmarks.classical [--fit] [SET ...]``. What each part of an image means
(``outputs``) and the options of a method (:data:`CHOICES`) stand in ``classical.yaml`` beside this file; ``--fit`` finds them anew, on
training images alone: those of the best mean IoU. Images are cut to their middle, at most 768 pixels a side.

A graph cut is slow. Its texture and the classes of its parts are those that are best for colour alone, on all training images; with
these, its smoothness is the best of the very runs that are scored, on the middles of all training images, 1.2 megapixels in all.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
import yaml

from workflows.run import run

SIDE = 768
MAPS = Path(__file__).with_suffix(".yaml")
METHODS = {
    "Otsu": {"name": "histogram", "classes": 2},
    "Otsu, 5 parts": {"name": "histogram", "classes": 5},
    "Li": {"name": "histogram", "classes": 2, "method": "li"},
    "triangle": {"name": "histogram", "classes": 2, "method": "triangle"},
    "local mean": {"name": "histogram", "classes": 2, "local": {"window": 101}},
    "k-means": {"name": "kmeans", "classes": 8},
    "k-means, texture": {"name": "kmeans", "classes": 12, "smooth": 1.0, "texture": [2.0, 5.0]},
    "watershed": {"name": "watershed", "classes": 5},
    "graph cut, colour alone": {"name": "graphcut", "classes": 5, "smoothness": 0.0},
    "graph cut": {"name": "graphcut", "classes": 5},
}
WINDOWS = [{}, {"smooth": 2.0}, {"texture": 3.0}, {"texture": 8.0}]
CHOICES: dict[str, list[dict[str, object]]] = {
    **dict.fromkeys(("Otsu", "Otsu, 5 parts", "Li", "triangle"), WINDOWS),
    "watershed": [{}, {"texture": 3.0}, {"texture": 8.0}],
    "local mean": [{"local": {"window": window, "offset": offset}} for window in (101, 301) for offset in (0, -5, -20)],
    "k-means, texture": [{}, {"texture": [3.0, 8.0]}, {"texture": [8.0]}, {"smooth": 2.0, "texture": [8.0]}],
    "graph cut": [{"smoothness": smoothness} for smoothness in (3.0, 10.0, 30.0)],
    "graph cut, colour alone": [{"texture": texture} for texture in ([], [4.0], [8.0])],
}
"""Options to choose from; a method that is not here has its own alone. The graph cut takes texture and outputs of colour alone."""
CUT, ALONE = "graph cut", "graph cut, colour alone"
PIXELS = 2 * SIDE**2  # of training images, in all, that the smoothness is chosen on
Fitted = dict[str, object]


@dataclass(frozen=True)
class DataSet:
    """Images and their truth, cut and with class ids; 255 is ignored."""

    classes: int
    train: Sequence[tuple[np.ndarray, np.ndarray]]
    val: Sequence[tuple[np.ndarray, np.ndarray]]

    def baseline(self) -> float:
        """Mean IoU of a mask that has the validation images' commonest class everywhere."""
        counts = sum(np.bincount(truth[truth != 255], minlength=self.classes) for _, truth in self.val)
        return float(counts.max() / counts.sum() / (counts > 0).sum())


def read(path: Path) -> np.ndarray:
    """Pixels, (Y, X) or (Y, X, 3)."""
    from PIL import Image

    return tifffile.imread(path) if path.suffix == ".tif" else np.array(Image.open(path))


def middle(pixels: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The middle of an image, at most ``side`` pixels high and wide."""
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def pairs(images: Sequence[Path], truths: Sequence[Path], ids: np.ndarray, side: int = SIDE) -> list[tuple[np.ndarray, np.ndarray]]:
    """Read and cut images; ``ids[value]`` is the class of a truth value, the last one that of all larger ones."""
    found = []
    for image, truth in zip(images, truths, strict=True):
        values = middle(read(truth), side)
        found.append((middle(read(image), side), ids[np.minimum(values, len(ids) - 1)].astype(np.uint8)))
    return found


def split(folder: Path, part: str, most: int, **where: str) -> tuple[list[Path], list[Path]]:
    """Images and truths of one part of a data set with a ``split.csv``, evenly spread."""
    with (folder / "split.csv").open() as file:
        names = [row["id"] for row in csv.DictReader(file) if row["split"] == part and all(row[k] == v for k, v in where.items())]
    names = names[:: -(-len(names) // most)]
    suffix = next((folder / "images").iterdir()).suffix
    return [folder / "images" / f"{name}{suffix}" for name in names], [folder / "labels" / f"{name}.png" for name in names]


def load(root: Path, name: str, *, small: bool = False) -> DataSet:
    """Read a data set; ``small``: at most three images of 384 pixels a side, for a test."""
    side, few = (384, {"train": 3, "val": 3}) if small else (SIDE, {"train": 24, "val": 90})
    if name == "nuclei":
        folder, other = root / "microscopy/nuclei-dsb2018", {"modality": "fluorescence"}
        ids = np.array([0, 1])
        return DataSet(2, *(pairs(*split(folder, part, few[part], **other), ids, side) for part in ("train", "val")))
    if name in ("axon", "organelles", "disc"):
        folder = root / "microscopy" / {"axon": "axon-myelin-sem", "organelles": "em-organelles-epfl6", "disc": "drosophila-disc"}[name]
        ids = np.append(np.arange(255), 255)
        return DataSet(
            {"axon": 3, "organelles": 7, "disc": 3}[name], *(pairs(*split(folder, part, 8), ids, side) for part in ("train", "val"))
        )
    if name == "banepa":
        files = [([root / f"aerial/banepa-buildings/{p}.tif"], [root / f"aerial/banepa-buildings/{p}_mask.tif"]) for p in ("train", "val")]
        return DataSet(2, *(pairs(*one, np.array([0, 1]), side) for one in files))
    if name == "atlanta":  # one image: its left half is for training
        image, truth = (read(root / "aerial/spacenet-atlanta" / file) for file in ("image.tif", "mask.tif"))
        return DataSet(2, [(image[:, :450], truth[:, :450])], [(image[:, 450:], truth[:, 450:])])
    if name == "dubai":
        folder, ids = root / "aerial/dubai-mbrsc", np.array([255, 0, 1, 2, 3, 4])
        parts = json.loads((folder / "splits.json").read_text())["by_part"]
        chosen = [parts["train"][::5], parts["val"]]
        return DataSet(
            5, *(pairs([folder / f"images/{n}.jpg" for n in some], [folder / f"masks/{n}.png" for n in some], ids, 512) for some in chosen)
        )
    folder, ids = root / "aerial/camvid-noncommercial", np.append(np.arange(11), 255)
    chosen = [sorted((folder / part / "images").iterdir())[::step] for part, step in (("train", 30), ("val", 8))]
    return DataSet(11, *(pairs(some, [f.parents[1] / "masks" / f"{f.stem}.png" for f in some], ids) for some in chosen))


SETS = ("nuclei", "banepa", "atlanta", "axon", "organelles", "disc", "dubai", "camvid")


def segmented(folder: Path, images: Sequence[tuple[np.ndarray, np.ndarray]], model: dict[str, object], classes: int = 0) -> Path:
    """Run the engine over images in memory; with ``classes`` they are scored. Returns the output folder."""
    folder.mkdir(parents=True)
    rows = ["image,truth"]
    for at, (image, truth) in enumerate(images):
        tifffile.imwrite(folder / f"{at}.tif", image, tile=(256, 256), photometric="rgb" if image.ndim == 3 else "minisblack")
        tifffile.imwrite(folder / f"{at}.truth.tif", truth, tile=(256, 256))
        rows.append(f"{at}.tif,{at}.truth.tif" if classes else f"{at}.tif,")
    (folder / "list.csv").write_text("\n".join(rows))
    config = {
        "images": [str(folder / "list.csv")],
        "model": model,
        "ignore": 255,
        "compute": {"runner": "serial"},
        "output": str(folder / "out"),
    }
    (folder / "run.yaml").write_text(json.dumps(config))
    with Path(os.devnull).open("w") as silence, contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        code = run(folder / "run.yaml")
    assert code == 0, f"exit code {code}"
    return folder / "out"


def fitted(folder: Path, data: DataSet, method: str, others: dict[str, Fitted]) -> Fitted:
    """Find options of a method and the class of each part, on the training images."""
    if method == CUT:
        return fitted_cut(data, others[ALONE])
    choices = CHOICES.get(method, [{}])
    found = [(*outputs_of(folder / str(at), data, {**METHODS[method], **options}), options) for at, options in enumerate(choices)]
    _, outputs, options = max(found, key=lambda one: one[0])
    return {**options, "outputs": outputs}


def fitted_cut(data: DataSet, alone: Fitted) -> Fitted:
    """Find the smoothness, where texture and outputs are those of colour alone."""
    side = math.isqrt(PIXELS // len(data.train))
    light = replace(data, val=[(middle(image, side), middle(truth, side)) for image, truth in data.train])
    found = [{**alone, **options} for options in CHOICES[CUT]]
    return max(found, key=lambda options: next(scores(light, {CUT: options}, [CUT]))[1])


def outputs_of(folder: Path, data: DataSet, model: dict[str, object]) -> tuple[float, list[int]]:
    """Find the class of each part, on the training images: the best mean IoU that changing one part at a time reaches, and that."""
    import zarr

    parts = int(str(model["classes"]))
    out = segmented(folder, data.train, model)
    counts = np.zeros((parts, data.classes), np.int64)
    for at, (_, truth) in enumerate(data.train):
        mask = zarr.open_array(out / "masks" / f"{at}.ome.zarr" / "0", mode="r")[...]
        known = truth != 255
        counts += np.bincount(mask[known] * data.classes + truth[known], minlength=counts.size).reshape(counts.shape)

    def score(classes: list[int]) -> float:
        matrix = np.stack([counts[np.array(classes) == k].sum(axis=0) for k in range(data.classes)])
        union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        return float((matrix.diagonal()[union > 0] / union[union > 0]).mean())

    chosen = [int(row.argmax()) for row in counts]
    while True:
        others = [[*chosen[:at], k, *chosen[at + 1 :]] for at in range(parts) for k in range(data.classes)]
        best = max(others, key=score)
        if score(best) <= score(chosen):
            return score(chosen), chosen
        chosen = best


def scores(data: DataSet, maps: dict[str, Fitted], methods: Sequence[str] = tuple(METHODS)) -> Iterator[tuple[str, float]]:
    """Return the mean IoU of each method on the validation images."""
    for method in methods:
        model = {**METHODS[method], **maps[method], "classes": data.classes}
        with tempfile.TemporaryDirectory() as text:
            out = segmented(Path(text) / "val", data.val, model, data.classes)
            yield method, json.loads((out / "report" / "report.json").read_text())["mean_iou"]


def main() -> None:
    """Print a table: methods down, data sets across."""
    root = Path(os.environ["GIGASEG_TEST_DATA"])
    names = [name for name in sys.argv[1:] if name != "--fit"] or list(SETS)
    maps = yaml.safe_load(MAPS.read_text()) if MAPS.exists() else {}
    table = {method: [] for method in ("commonest class", *METHODS)}
    for name in names:
        data = load(root, name)
        if "--fit" in sys.argv:
            maps[name] = {}
            with tempfile.TemporaryDirectory() as text:
                for at, method in enumerate(METHODS):
                    maps[name][method] = fitted(Path(text) / str(at), data, method, maps[name])
                    print(f"{name}: {method} {maps[name][method]}", file=sys.stderr, flush=True)
            maps = json.loads(json.dumps(maps))  # what two methods share is written twice, not as a reference
            MAPS.write_text(yaml.safe_dump(maps, sort_keys=False, default_flow_style=None, width=140))
        table["commonest class"].append(data.baseline())
        for method, found in scores(data, maps[name]):
            table[method].append(found)
            print(f"{name}: {method} {found:.3f}", file=sys.stderr, flush=True)
    print(f"| mean IoU | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for method, row in table.items():
        print(f"| {method} | {' | '.join(f'{one:.3f}' for one in row)} |")


if __name__ == "__main__":
    main()
