"""Small images with discs to learn from, and a training of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from pipeline.config import load_yaml
from pipeline.errors import InputError
from pipeline.training.dataset_scan import scan_dataset
from pipeline.training.plan import make_plan
from pipeline.training.schema import TRAINING_YAML


def discs(seed, side=96, channels=1, number=6):
    """Bright discs on a dark, noisy ground, and their numbers: pixels (Y, X[, C]) uint8, truth (Y, X) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    truth = np.zeros((side, side), np.uint8)
    for one in range(1, number + 1):
        row, col, radius = rng.integers(8, side - 8), rng.integers(8, side - 8), rng.integers(6, 11)
        truth[(y - row) ** 2 + (x - col) ** 2 < radius**2] = one
    pixels = np.where(truth[..., None] > 0, 170, 70) + rng.normal(0, 12, (side, side, channels))
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    return (pixels if channels > 1 else pixels[..., 0]), truth


def write_scene(folder, number=6, channels=1, side=96):
    """Write images/aN.png, or aN.tif of two channels, and truth/aN.png."""
    for name in ("images", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed in range(number):
        pixels, truth = discs(seed, side, channels)
        if channels == 2:  # the second channel of a picture would be opacity
            tifffile.imwrite(folder / "images" / f"a{seed}.tif", pixels, photometric="minisblack", planarconfig="contig")
        else:
            Image.fromarray(pixels).save(folder / "images" / f"a{seed}.png")
        Image.fromarray(truth).save(folder / "truth" / f"a{seed}.png")
    return folder


BASE = {
    "images": "images/",
    "truth": "truth/{stem}.png",
    "classes": [{"name": "ground", "values": [0]}, {"name": "disc", "values": "other"}],
    "model": {"name": "unet", "depth": 2, "base": 4},
    "crop": 48,
    "batch": 4,
    "steps": 8,
    "precision": "fp32",
    "compute": {"threads": 1},
    "output": "out",
}


def train_yaml(folder, name="train.yaml", **keys):
    """Write a YAML; a key that is None is left out."""
    content = {key: value for key, value in {**BASE, **keys}.items() if value is not None}
    path = folder / name
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


OFF = {"flips": False, "turns": False, "scale": [1, 1], "brightness": 0.0, "contrast": 0.0, "color": 0.0, "noise": 0.0}
"""Augmentation that changes nothing."""


def planned(folder, **keys):
    """The plan of a YAML, scanned."""
    return scan_dataset(make_plan(load_yaml(TRAINING_YAML, train_yaml(folder, **keys))))


def refusal(folder, **keys):
    """What is wrong with a YAML, as one text."""
    with pytest.raises(InputError) as error:
        planned(folder, **keys)
    return str(error.value)


def weights_at(output):
    """The tensors of a training's bundle, by name."""
    from safetensors.numpy import load_file

    return load_file(output / "bundle" / "weights.safetensors")


def rows_at(output):
    """history.csv without the clock: rows of text."""
    lines = [line.split(",") for line in (output / "history.csv").read_text().splitlines()]
    clock = {lines[0].index("seconds"), lines[0].index("crops_per_second")}
    return [[cell for at, cell in enumerate(line) if at not in clock] for line in lines]


def report_of(output):
    """The report of the run over the validation images."""
    return json.loads((output / "val" / "report" / "report.json").read_text())
