"""Measures the limits of ``nuclei-stained`` that its card states: skin with haematoxylin and eosin, and grey images.

Run: ``GIGASEG_TEST_DATA=FOLDER python -m tests.benchmarks.stained_limits``. The slide has no labels, so colours judge: the darkest blue
pixels of four places without horny layer are nuclei, pink ones are fibres. Grey validation images of stained tissue are given as RGB.
"""

from __future__ import annotations

import csv
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

import pipeline

PLACES = {"dermis": (2150, 850, 500, 500), "dense row": (1300, 900, 500, 250), "top": (900, 1050, 350, 250), "left": (2450, 600, 500, 300)}


def run_of(folder: Path, **keys: Any) -> Any:
    """Run the bundle in this process."""
    return pipeline.run({"model": "nuclei-stained", "compute": {"runner": "serial", "threads": 1}, "output": str(folder), **keys})


def measure_slide(slide: Path, folder: Path) -> None:
    """Print how many of the darkest blue pixels of each place are found, and how many pink pixels of the slide are outlined."""
    pixels_YXC = tifffile.imread(slide, key=0)
    mask_YX = np.asarray(run_of(folder, images=[str(slide)]).mask(slide.stem)) == 1
    red, green, blue = np.moveaxis(pixels_YXC.astype(int), -1, 0)
    is_pink, is_dark = (red > 190) & (green < 150) & (red - blue > 30), (red < 85) & (green < 80) & (blue >= red)
    for name, (y, x, height, width) in PLACES.items():
        place = np.s_[y : y + height, x : x + width]
        print(f"{name}: {mask_YX[place][is_dark[place]].mean():.3f} of the darkest blue pixels")
    print(f"slide: {mask_YX[is_pink].mean():.5f} of the pink pixels")


def measure_grey(data: Path, folder: Path) -> None:
    """Print the IoU of nuclei on the grey validation images."""
    folder.mkdir()
    rows = [("image", "truth")]
    for row in csv.DictReader((data / "split.csv").read_text(encoding="utf-8").splitlines()):
        if row["modality"] == "brightfield-gray" and row["split"] == "val":
            path = folder / f"{row['id']}.png"
            Image.open(data / "images" / path.name).convert("RGB").save(path)
            rows.append((str(path), str(data / "labels" / path.name)))
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    classes = [{"name": "background", "values": [0]}, {"name": "nucleus", "values": "other"}]
    run = run_of(folder / "run", images=[str(folder / "list.csv")], classes=classes)
    print(f"grey: IoU of nuclei {run.report.content['classes'][1]['iou']:.3f}, {len(rows) - 1} images")


def main() -> None:
    """Measure both."""
    data = Path(os.environ["GIGASEG_TEST_DATA"])
    with tempfile.TemporaryDirectory() as folder:
        measure_slide(data / "formats/svs/CMU-1-Small-Region.svs", Path(folder, "slide"))
        measure_grey(data / "microscopy/nuclei-dsb2018", Path(folder, "grey"))


if __name__ == "__main__":
    main()
