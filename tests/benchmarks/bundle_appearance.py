"""What the training images of a shipped bundle look like, and which images a run calls unlike them.

Write the statistics into a bundle, from the images of its training; a training does the same for its own bundle::

    GIGASEG_TEST_DATA=FOLDER python -m tests.benchmarks.bundle_appearance write nuclei [--bundle FOLDER]

Print, for each bundle, the share of images that a run warns of: its validation images, as they are and changed a little
(``tests/benchmarks/changes.py``), which should be few, and images of other kinds, which should be many::

    GIGASEG_TEST_DATA=FOLDER python -m tests.benchmarks.bundle_appearance kinds [nuclei ...] [--images N]

Each image goes through a file, and is read on the working grid as a run reads it. No network is run.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import config_from_mapping
from pipeline.engine import appearance_warning, read_windows
from pipeline.errors import InputError
from pipeline.inputs import build_catalogue, open_image
from pipeline.models.bundle_files import find_bundle, list_bundles, read_spec, rewrite_card
from pipeline.training.appearance import training_appearance
from pipeline.training.dataset_scan import scan_dataset
from tests.benchmarks.changes import CONTROL, Change, Picture, changes_of, write_picture
from tests.benchmarks.robustness import TASKS, pictures_of
from tests.shipped import training_of

__all__ = ["KINDS", "kind_pictures", "warnings_of", "write_appearance", "wrong_changes"]

Pixels = NDArray[np.uint8]


def write_appearance(name: str, bundle: Path) -> None:
    """Write what the training images of a shipped bundle look like into its model.yaml, or into that of another bundle."""
    with tempfile.TemporaryDirectory() as scratch:
        plan = training_of(name, Path(scratch))
        plan = scan_dataset(plan) if plan.config.region_share is not None else plan
        rewrite_card(bundle, appearance=training_appearance(plan))


def _nuclei(modality: str) -> Callable[[], Iterator[tuple[str, Pixels]]]:
    def read() -> Iterator[tuple[str, Pixels]]:
        data = Path(os.environ["GIGASEG_TEST_DATA"], "microscopy", "nuclei-dsb2018")
        with (data / "split.csv").open(encoding="utf-8") as file:
            ids = [row["id"] for row in csv.DictReader(file) if row["modality"].startswith(modality)]
        yield from ((one, np.asarray(Image.open(data / "images" / f"{one}.png"))) for one in ids)

    return read


def _folder(pattern: str) -> Callable[[], Iterator[tuple[str, Pixels]]]:
    def read() -> Iterator[tuple[str, Pixels]]:
        for path in sorted(Path(os.environ["GIGASEG_TEST_DATA"]).glob(pattern)):
            yield path.stem, np.asarray(Image.open(path))

    return read


def _slide() -> Iterator[tuple[str, Pixels]]:
    import tifffile

    path = Path(os.environ["GIGASEG_TEST_DATA"], "formats", "svs", "CMU-1-Small-Region.svs")
    yield path.stem, np.asarray(tifffile.imread(path, key=0))


KINDS: dict[str, Callable[[], Iterator[tuple[str, Pixels]]]] = {
    "fluorescence": _nuclei("fluorescence"),
    "stained tissue": _nuclei("stained"),
    "a slide, H&E": _slide,
    "brightfield": _nuclei("brightfield"),
    "satellite": _folder("aerial/dubai-mbrsc/images/*.jpg"),
    "drone": _folder("aerial/banepa-buildings/val.tif"),
    "axons, SEM": _folder("microscopy/axon-myelin-sem/images/*.png"),
    "organelles, EM": _folder("microscopy/em-organelles-epfl6/images/*.png"),
    "imaginal discs": _folder("microscopy/drosophila-disc/images/*.jpg"),
}
"""Images by kind."""


def kind_pictures(kind: str, number: int) -> list[Picture]:
    """Return images of a kind, at equal distances, without pixel sizes; 0: all."""
    found = [Picture(name, pixels) for name, pixels in KINDS[kind]()]
    chosen = np.linspace(0, len(found) - 1, min(number, len(found)) if number else len(found)).round().astype(int)
    return [found[index] for index in chosen]


def wrong_changes() -> list[Change]:
    """Return changes that make an image one of another kind."""
    from scipy.ndimage import gaussian_filter

    def blur(picture: Picture, mask_YX: NDArray[np.uint8]) -> Pixels:
        return np.rint(gaussian_filter(picture.pixels.astype(np.float32), (8, 8, 0)[: picture.pixels.ndim])).astype(np.uint8)

    def resized(scale: float) -> Callable[[Picture, NDArray[np.uint8]], Pixels]:
        def change(picture: Picture, mask_YX: NDArray[np.uint8]) -> Pixels:
            height, width = (max(1, round(side * scale)) for side in picture.pixels.shape[:2])
            return np.asarray(Image.fromarray(picture.pixels).resize((width, height), Image.Resampling.LANCZOS))

        return change

    rows = [Change("inverted", lambda one, _: 255 - one.pixels), Change("Gaussian blur, sigma 8", blur)]
    return rows + [Change(f"size times {scale:g}", resized(scale), scale=scale, sized=False) for scale in (4, 0.25)]


def warnings_of(bundle: Path, pictures: Sequence[Picture], change: Change = CONTROL) -> list[str]:
    """Return what a run says of each changed image; empty: nothing. Grey images are written in colour for a bundle that needs colours."""
    spec = read_spec(bundle)
    in_color = not spec.merge_channels and spec.architecture.get("channels", 3) == 3
    is_known = pictures[0].size is not None or pictures[0].place is not None
    sized = is_known if change.sized is None else change.sized
    with tempfile.TemporaryDirectory(prefix="gigaseg-appearance-") as text:
        folder, rows = Path(text), [["image", "pixel_size"]]
        for picture in pictures:
            pixels = change.of(picture, np.zeros(picture.pixels.shape[:2], np.uint8))
            if in_color and pixels.ndim == 2:
                pixels = np.repeat(pixels[:, :, None], 3, axis=2)
            size = picture.size / change.scale if sized and picture.size is not None else ""
            rows.append([str(write_picture(folder, picture, change, pixels, sized=sized)), str(size)])
        with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        options = {"name": "bundle", "path": str(bundle)}
        try:
            return _warnings(folder, options)
        except InputError as error:
            if "model.range" not in str(error):
                raise
        return _warnings(folder, {**options, "range": change.value_range})


def _warnings(folder: Path, model: dict[str, object]) -> list[str]:
    mapping = {"images": str(folder / "list.csv"), "model": model, "output": str(folder / "run")}
    catalogue, found = build_catalogue(config_from_mapping(mapping, folder)), []
    for image in catalogue.images:
        with open_image(image) as raster:
            found.append(appearance_warning(catalogue.model, read_windows(raster)))
    return found


def _row(name: str, warnings: Sequence[str]) -> str:
    words = Counter(warning.partition("(")[2].partition(")")[0] for warning in warnings if warning)
    said = ", ".join(f"{word} {number}" for word, number in words.most_common(3))
    return f"| {name} | {len(warnings)} | {sum(map(bool, warnings)) / len(warnings):.0%} | {said} |"


def print_table(name: str, bundle: Path, number: int) -> None:
    """Print the share of images that a run of a bundle warns of; ``name`` is the shipped one whose images it gets."""
    task = TASKS[name]
    print(f"\n{name}\n\n| images | number | warned of | of what |\n|---|---|---|---|")
    own = pictures_of(name, number)
    print(_row("validation, all", warnings_of(bundle, pictures_of(name, 0))), flush=True)
    for change in changes_of(task.padding, is_grey=own[0].pixels.ndim == 2):
        if not change.sized:
            print(_row(f"validation, {change.name}", warnings_of(bundle, own, change)), flush=True)
    for change in wrong_changes():
        print(_row(f"validation, {change.name}", warnings_of(bundle, own, change)), flush=True)
    for kind in KINDS:
        print(_row(kind, warnings_of(bundle, kind_pictures(kind, number))), flush=True)


def main() -> None:
    """Write or print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("task", choices=["write", "kinds"])
    parser.add_argument("names", nargs="*", help="shipped bundles; left out: all")
    parser.add_argument("--bundle", type=Path, help="this one instead of the shipped bundle of that name")
    parser.add_argument("--images", type=int, default=24, help="of each kind; 0: all")
    options = parser.parse_args()
    for name in options.names or [name for name in list_bundles() if name in TASKS]:
        bundle = options.bundle or find_bundle(name)
        if options.task == "write":
            write_appearance(name, bundle)
        else:
            print_table(name, bundle, options.images)


if __name__ == "__main__":
    main()
