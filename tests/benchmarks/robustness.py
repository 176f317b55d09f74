"""How much a bundle's mask changes where the image changes in ways that a user meets: IoU with its own mask of the unchanged image.

Run: ``GIGASEG_TEST_DATA=FOLDER python -m tests.benchmarks.robustness [BUNDLE ...] [--images N] [--like NAME] [--json FILE]``. A bundle
is the name of a shipped one (left out: all), or a folder with ``--like``, the shipped bundle whose images and goal it gets. Images are
validation images, cut to pieces of at most 512 pixels a side, of which N are chosen at equal distances (8, land cover 4; 0: all). Each
change is one run of the engine over files. Counts are pooled over the pieces; the IoU is the mean over the classes but the background.

Changes are those of ``tests/benchmarks/changes.py``. The image lies in the middle of its padding. A run that asks for the range of the
samples gets it, as ``model.range``, and the row says so. Where a pixel size is stated, for the changed image and the unchanged one, it is
that of the data or, if these state none, of the bundle.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import pipeline
from pipeline.errors import InputError
from pipeline.models.bundle_files import BundleSpec, find_bundle, list_bundles, read_spec
from tests.benchmarks.changes import CONTROL, Change, MapPlace, Picture, changes_of, write_picture
from tests.shipped import training_of

__all__ = ["TASKS", "TOLD", "Row", "measure", "pictures_of"]

SIDE = 512
TOLD = ", with model.range"  # end of the name of a row
COLLARS = {"black": 0, "white": 255}


@dataclass(frozen=True)
class Task:
    """What is wanted of a bundle: least IoU, kinds of padding (grey level; None: the background's), which images, how many pieces."""

    goal: float
    padding: Mapping[str, int | None]
    modality: str = ""
    images: int = 8


TASKS = {
    "nuclei": Task(0.95, {"black": 0, "background": None}, "fluorescence"),
    "nuclei-stained": Task(0.85, {"white": 243}, "stained"),
    "axons": Task(0.85, COLLARS),
    "aerial-landcover": Task(0.85, COLLARS, images=4),  # 1.6 CPU seconds a megapixel: several times the others'
    "aerial-buildings": Task(0.85, COLLARS),
}


@dataclass(frozen=True)
class Row:
    """What a change does: pixels of each class that both masks hold, and that at least one of them holds."""

    name: str
    intersections: NDArray[np.int64]
    unions: NDArray[np.int64]

    def iou(self, class_id: int) -> float | None:
        """Return the IoU of a class; None where neither mask holds it."""
        return float(self.intersections[class_id] / self.unions[class_id]) if self.unions[class_id] else None

    def mean(self, classes: Sequence[int]) -> float:
        """Return the mean over classes, those that neither mask holds left out."""
        return float(np.mean([value for value in map(self.iou, classes) if value is not None]))


def pictures_of(like: str, number: int) -> list[Picture]:
    """Return pieces of the validation images of a shipped bundle, at equal distances; 0: all."""
    pieces = [piece for source in _sources(like) for piece in _pieces(*source)]
    chosen = np.linspace(0, len(pieces) - 1, min(number, len(pieces)) if number else len(pieces)).round().astype(int)
    return [_read(*pieces[index]) for index in chosen]


def _sources(like: str) -> Iterator[tuple[Path, float | None]]:
    """Yield the path of each validation image, and its pixel size where a list states it."""
    if modality := TASKS[like].modality:
        data = Path(os.environ["GIGASEG_TEST_DATA"], "microscopy", "nuclei-dsb2018")
        with (data / "split.csv").open(encoding="utf-8") as file:
            ids = [row["id"] for row in csv.DictReader(file) if row["split"] == "val" and row["modality"].startswith(modality)]
        yield from ((data / "images" / f"{one}.png", None) for one in sorted(ids))
        return
    with tempfile.TemporaryDirectory() as folder:
        for image in training_of(like, Path(folder)).val:
            yield Path(image.path).resolve(), image.reader.get("pixel_size")


def _pieces(path: Path, size: float | None) -> Iterator[tuple[Path, float | None, tuple[int, int, int, int]]]:
    """Yield the pieces of an image: left, upper, right and lower end."""
    with Image.open(path) as image:
        width, height = image.size
    rows, cols = max(1, height // SIDE), max(1, width // SIDE)
    for row in range(rows):
        for col in range(cols):
            left, upper = (width - min(width, cols * SIDE)) // 2 + col * SIDE, (height - min(height, rows * SIDE)) // 2 + row * SIDE
            yield path, size, (left, upper, min(left + SIDE, width), min(upper + SIDE, height))


def _read(path: Path, size: float | None, box: tuple[int, int, int, int]) -> Picture:
    with Image.open(path) as image:
        pixels = np.asarray(image.crop(box))
    place = None
    if path.suffix == ".tif":
        import rasterio

        with rasterio.open(path) as file:
            place = MapPlace(file.crs, file.transform * rasterio.Affine.translation(*box[:2]))
    return Picture(f"{path.stem}_{box[0]}_{box[1]}", pixels, size, place)


class Measurement:
    """Runs a bundle over changed pictures, and compares."""

    def __init__(self, bundle: Path, pictures: Sequence[Picture], folder: Path) -> None:
        self._bundle, self._pictures, self._folder = bundle, pictures, folder
        self.spec: BundleSpec = read_spec(bundle)
        self._unchanged = cache(lambda sized: self._masks(CONTROL, [one.pixels for one in pictures], sized=sized)[0])

    def takes(self, change: Change) -> bool:
        """Whether a change makes sense: a stated pixel size needs a bundle that has one, and a file that can state it."""
        can_state = self.spec.unit == "micrometer" or self._pictures[0].place is not None
        return not change.sized or (self.spec.pixel_size is not None and can_state)

    def row(self, change: Change) -> Row:
        """Compare the masks of changed pictures with those of the unchanged ones."""
        is_known = self._pictures[0].size is not None or self._pictures[0].place is not None
        sized = is_known if change.sized is None else change.sized
        unchanged = self._unchanged(sized)
        pixels = [change.of(*both) for both in zip(self._pictures, unchanged, strict=True)]
        masks, asked = self._masks(change, pixels, sized=sized)
        counts = np.zeros((2, len(self.spec.classes)), np.int64)
        for own_YX, mask_YX in zip(unchanged, masks, strict=True):
            back_YX = change.back(mask_YX, own_YX.shape)
            for class_id in range(counts.shape[1]):
                own, found = own_YX == class_id, back_YX == class_id
                counts[:, class_id] += (own & found).sum(), (own | found).sum()
        return Row(change.name + (TOLD if asked else ""), counts[0], counts[1])

    def _masks(self, change: Change, pixels: Sequence[NDArray[Any]], *, sized: bool) -> tuple[list[NDArray[Any]], bool]:
        """Return the mask of each picture on its own grid, and whether the run asked for the range of the samples."""
        with tempfile.TemporaryDirectory(dir=self._folder) as text:
            folder = Path(text)
            paths = [write_picture(folder, *both, sized=sized) for both in self._changed(change, pixels)]
            with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
                sizes = [self._size(one) / change.scale if sized and one.place is None else None for one in self._pictures]
                csv.writer(file).writerows([["image", "pixel_size"], *zip(paths, sizes, strict=True)])
            try:
                return self._run(folder), False
            except InputError as error:
                if "model.range" not in str(error):
                    raise
            return self._run(folder, {"range": change.value_range}), True

    def _changed(self, change: Change, pixels: Sequence[NDArray[Any]]) -> Iterator[Any]:
        return ((picture, change, some) for picture, some in zip(self._pictures, pixels, strict=True))

    def _size(self, picture: Picture) -> float:
        """Return the pixel size that is stated of an unchanged picture, micrometres."""
        size = picture.size or self.spec.pixel_size
        assert isinstance(size, int | float)
        return float(size)

    def _run(self, folder: Path, options: Mapping[str, Any] | None = None) -> list[NDArray[Any]]:
        config = {
            "images": [str(folder / "list.csv")],
            "model": {"name": "bundle", "path": str(self._bundle), **(options or {})},
            "masks": "native",
            "writers": [{"name": "ome_zarr"}],
            "compute": {"runner": "serial", "threads": 1, "backend": "torch"},  # no trial: masks do not depend on the clock
            "output": str(folder / "run"),
        }
        with redirect_stderr(io.StringIO()):
            run = pipeline.run(config)
        if run.state != "done":
            raise SystemExit(f"{self._bundle}: {run.report.content['failures']}")
        return [np.asarray(run.mask(picture.name)) for picture in self._pictures]


def measure(bundle: Path, like: str, number: int | None = None, changes: Sequence[str] | None = None) -> dict[str, Any]:
    """Return what each change does to a bundle's masks.

    Args:
        bundle: its folder.
        like: the shipped bundle whose images and goal it gets.
        number: of pieces; 0: all; None: the usual number.
        changes: their names as the table has them; None: all that make sense for the bundle.

    Returns:
        ``goal``, ``images``, ``pixels``, and ``rows``: by change, ``iou`` and ``classes``.
    """
    task = TASKS[like]
    pictures = pictures_of(like, task.images if number is None else number)
    with tempfile.TemporaryDirectory(prefix="gigaseg-robustness-") as folder:
        found = Measurement(bundle, pictures, Path(folder))
        names = [one.name for one in found.spec.classes]
        classes = [index for index, name in enumerate(names) if name != "background"]
        rows = {}
        for change in changes_of(task.padding, is_grey=pictures[0].pixels.ndim == 2):
            if not found.takes(change) or (changes is not None and not {change.name, change.name + TOLD} & set(changes)):
                continue
            begun, row = time.monotonic(), found.row(change)
            rows[row.name] = {"iou": row.mean(classes), "classes": {names[index]: row.iou(index) for index in classes}}
            print(f"{bundle.name}: {row.name}: {row.mean(classes):.3f} ({time.monotonic() - begun:.0f} s)", file=sys.stderr, flush=True)
    pixels = sum(picture.pixels.shape[0] * picture.pixels.shape[1] for picture in pictures)
    return {"goal": task.goal, "images": len(pictures), "pixels": pixels, "rows": rows}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table: a row a change, a column a bundle; under the goal in bold."""
    lines = [f"| change | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    changes = dict.fromkeys(change for one in found.values() for change in one["rows"])
    for change in changes:
        cells = [_cell(one["rows"].get(change), one["goal"]) for one in found.values()]
        lines.append(f"| {change} | {' | '.join(cells)} |")
    goals = [f"{one['goal']:g}; {one['images']}" for one in found.values()]
    return "\n".join([*lines, f"| goal; images | {' | '.join(goals)} |"])


def _cell(row: Mapping[str, Any] | None, goal: float) -> str:
    if row is None:
        return ""
    text = f"{row['iou']:.3f}"
    return text if row["iou"] >= goal else f"**{text}**"


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description="IoU of a bundle's masks of changed images with its masks of the unchanged ones")
    parser.add_argument("bundles", nargs="*", help="names of shipped bundles, or folders; left out: all shipped ones")
    parser.add_argument("--images", type=int, help="pieces of images; 0: all")
    parser.add_argument("--like", choices=list(TASKS), help="shipped bundle whose images and goal the others get")
    parser.add_argument("--changes", nargs="+", help="only these, by name")
    parser.add_argument("--json", type=Path, help="file to write, with the IoU of each class")
    options = parser.parse_args()
    found = {}
    for text in options.bundles or [name for name in list_bundles() if name in TASKS]:
        like = options.like or Path(text).name
        if like not in TASKS:
            parser.error(f"{text}: say whose images it gets: --like {'|'.join(TASKS)}")
        bundle = find_bundle(text)
        found[text] = measure(bundle, like, options.images, options.changes)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
