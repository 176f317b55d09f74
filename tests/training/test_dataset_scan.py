"""The scan before a training: what it finds in the images is what a second way of counting finds, and wrong truth is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.engine import read_zero_filled
from pipeline.geometry import Box
from pipeline.inputs import open_image
from pipeline.statistics import normalization_fitter
from pipeline.tiling import Grid
from pipeline.training import dataset_scan
from tests.training.scene import discs, planned, refusal


def test_a_truth_value_outside_the_classes_is_found_before_training(mine):
    """A stray value is named with its file and its place, for every image that holds one."""
    for name in ("a1", "a4"):
        truth = np.asarray(Image.open(mine / "truth" / f"{name}.png")).copy()
        truth[40, 41] = 99
        Image.fromarray(truth).save(mine / "truth" / f"{name}.png")
    classes = [{"name": "ground", "values": [0]}, {"name": "disc", "values": list(range(1, 20))}]
    message = refusal(mine, classes=classes)
    assert "truth value 99 at (y=40, x=41)" in message
    assert "a1.png" in message
    assert "a4.png" in message


def test_what_the_scan_finds_is_what_numpy_finds(mine):
    """Areas, the presence of classes, and mean and deviation of the data set, over several blocks, against numpy."""
    for seed in range(6):
        pixels, _truth = discs(seed, 96, 3)
        Image.fromarray(pixels).save(mine / "images" / f"a{seed}.png")
    empty = np.zeros((96, 96), np.uint8)
    Image.fromarray(empty).save(mine / "truth" / "a1.png")
    plan = planned(mine, val={"names": ["a0"]}, ignore=2)
    pixels = np.stack([np.asarray(Image.open(mine / "images" / f"a{at}.png")) for at in range(1, 6)]).reshape(-1, 3)
    truths = [np.asarray(Image.open(mine / "truth" / f"a{at}.png")) for at in range(1, 6)]
    counted = [truth[truth != 2] for truth in truths]
    areas = plan.statistics.areas
    assert areas.pixels == (sum(int((one == 0).sum()) for one in counted), sum(int((one > 0).sum()) for one in counted))
    assert areas.present == (sum(one.size for one in counted), sum(one.size for one in counted if (one > 0).any()))
    np.testing.assert_allclose(plan.normalize["mean"], pixels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(plan.normalize["std"], pixels.std(axis=0), rtol=1e-6)


@pytest.mark.parametrize("kind", ["percentile", "zscore", "contrast"])
@pytest.mark.parametrize("block", [2048, 40])
def test_numbers_of_an_image_are_those_that_a_run_finds(mine, monkeypatch, kind, block):
    """Whatever the blocks of the scan and those of a run, an image is normalised alike in both."""
    monkeypatch.setattr(dataset_scan, "BLOCK", block)
    plan = planned(mine, normalize=kind)
    assert plan.normalize == kind
    fitter = normalization_fitter(kind)
    for image, found in zip(plan.train, plan.statistics.images, strict=True):
        total = {}
        with open_image(image) as raster:
            for box in Grid(image.header.shape, 32, 0, 32).blocks():
                part = fitter.observe(*read_zero_filled(raster, box.grow(fitter.halo), 0), box, 0)
                total = fitter.merge(total, part) if total else part
            whole = Box(0, 0, *image.header.shape)
            in_one = fitter.observe(*read_zero_filled(raster, whole.grow(fitter.halo), 0), whole, 0)
        assert found.normalize == fitter.fit(total) == fitter.fit(in_one)
