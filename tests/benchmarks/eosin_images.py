"""Makes training images of the bundle ``nuclei-stained`` that hold eosin, which the stained images of the Data Science Bowl do not.

Run: ``python -m tests.benchmarks.eosin_images nuclei-dsb2018 CMU-1-Small-Region.svs OUT [--glass]``. OUT gets PNG files and ``list.csv``,
which names them beside the stained images of the data set. The slide is OpenSlide's, CC0; its upper half is left for looking at results.

The colours of haematoxylin and of eosin are medians of optical densities: of the slide's darkest blue pixels and of its pink fibres.
Each training image gets a copy: part of the colour of its background is taken away, and the slide's eosin alone is laid over it, so that
nuclei keep their labels and lie among fibres. The lower half of the slide is an image of its own: background where there is
next to no haematoxylin, and not labelled (65535) elsewhere.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter, zoom

__all__ = ["stained_rows"]

UNKNOWN = 65535
TYPICAL = 17.0  # diameter of nuclei where the slide is laid over an image without a change of size, pixels


def stained_rows(data: Path) -> list[dict[str, str]]:
    """Return the rows of ``split.csv`` of the stained images."""
    with (data / "split.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["modality"].startswith("stained")]


def density(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the optical density of 8-bit values."""
    return -np.log10((pixels.astype(np.float32) + 1) / 256)


def pixels_of(densities: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the 8-bit values of optical densities."""
    return np.clip(np.rint(256 * 10.0**-densities - 1), 0, 255).astype(np.uint8)


def eosin_and_labels(slide_YXC: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Return the densities (Y, X, 3) of the eosin alone, and 0 where there is next to no haematoxylin, UNKNOWN elsewhere."""
    red, green, blue = np.moveaxis(slide_YXC.astype(int), -1, 0)
    density_YXC = density(slide_YXC)
    is_blue = (red < 85) & (green < 80) & (blue >= red)
    is_pink = (red > 190) & (green < 150) & (red - blue > 30)
    colors = [np.median(density_YXC[chosen], axis=0) for chosen in (is_blue, is_pink)]
    colors_SC = np.stack([color / np.linalg.norm(color) for color in colors])
    blue_YX, pink_YX = np.moveaxis(density_YXC @ np.linalg.pinv(colors_SC), -1, 0)
    stained_YX = binary_dilation(gaussian_filter(blue_YX, 1) > 0.35 * np.median(blue_YX[is_blue]), iterations=1)
    return pink_YX.clip(0)[..., None] * colors_SC[1], np.where(stained_YX, UNKNOWN, 0).astype(np.uint16)


def with_eosin(
    pixels_YXC: NDArray[np.uint8], labels_YX: NDArray[Any], eosin_YXC: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return an image on whose nuclei and background eosin lies, enlarged as its nuclei are."""
    areas = np.bincount(labels_YX.ravel())[1:]
    diameter = 2 * np.sqrt(np.median(areas[areas > 0]) / np.pi) if areas.any() else TYPICAL
    factor = float(np.clip(diameter / TYPICAL, 1, 2.5))
    height, width = (int(np.ceil(side / factor)) + 1 for side in pixels_YXC.shape[:2])
    top, left = (int(rng.integers(whole - part)) for whole, part in zip(eosin_YXC.shape, (height, width), strict=False))
    patch_YXC = zoom(eosin_YXC[top : top + height, left : left + width], (factor, factor, 1), order=1)
    patch_YXC = patch_YXC[: pixels_YXC.shape[0], : pixels_YXC.shape[1]][:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    density_YXC = density(pixels_YXC)
    ground_C = np.median(density_YXC[labels_YX == 0], axis=0)
    cleared_YXC = (density_YXC - rng.uniform(0.3, 1) * ground_C).clip(0)
    return pixels_of(cleared_YXC + rng.uniform(0.6, 1.6) * patch_YXC)


def on_glass(pixels_YXC: NDArray[np.uint8], labels_YX: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Return an image and its labels with white glass instead of up to half of the image, at one side and often at another."""
    pixels_YXC, labels_YX, white = pixels_YXC.copy(), labels_YX.copy(), int(rng.integers(230, 256))
    for axis in (0, 1):
        width = int(rng.uniform(0, 0.5) * labels_YX.shape[axis])
        ends = [slice(None)] * 2
        ends[axis] = slice(0, width) if rng.random() < 0.5 else slice(labels_YX.shape[axis] - width, None)
        if axis == 0 or rng.random() < 0.5:
            pixels_YXC[tuple(ends)], labels_YX[tuple(ends)] = white, 0
    return pixels_YXC, labels_YX


def main() -> None:
    """Write the images and their list."""
    parser = argparse.ArgumentParser(description="training images with eosin")
    for name in ("data", "slide", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--glass", action="store_true", help="also a copy of each with white glass beside the tissue")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data, out = options.data.resolve(), options.out.resolve()
    whole_YXC = tifffile.imread(options.slide, key=0)
    slide_YXC = whole_YXC[len(whole_YXC) // 2 :]
    eosin_YXC, labels_YX = eosin_and_labels(slide_YXC)
    Image.fromarray(slide_YXC).save(out / "slide.png")
    Image.fromarray(labels_YX).save(out / "slide_labels.png")
    listed = [(out / "slide.png", out / "slide_labels.png")]
    rng = np.random.default_rng(0)
    for row in stained_rows(data):
        image, labels = (data / folder / f"{row['id']}.png" for folder in ("images", "labels"))
        listed.append((image, labels))
        if row["split"] == "train":
            pixels = with_eosin(np.asarray(Image.open(image)), np.asarray(Image.open(labels)), eosin_YXC, rng)
            Image.fromarray(pixels).save(out / f"eosin_{row['id']}.png")
            listed.append((out / f"eosin_{row['id']}.png", labels))
    rng = np.random.default_rng(1)
    for image, labels in [pair for pair in listed if pair[0].name.startswith("eosin_")][: None if options.glass else 0]:
        pixels, glass_labels = on_glass(np.asarray(Image.open(image)), np.asarray(Image.open(labels)), rng)
        name = image.name.replace("eosin", "glass")
        Image.fromarray(pixels).save(out / name)
        Image.fromarray(glass_labels).save(out / f"labels_{name}")
        listed.append((out / name, out / f"labels_{name}"))
    with (out / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "truth"), *listed])


if __name__ == "__main__":
    main()
