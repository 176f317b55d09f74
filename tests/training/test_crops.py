"""Crops: which are drawn, and what they hold."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.geometry import Box
from pipeline.training.crops import Crops, ImageCache, split_border
from tests.training.scene import OFF, discs, planned, write_scene


def test_a_crop_is_what_its_place_says(mine):
    """Without augmentation a crop holds the normalised pixels and the classes of its box, whether the image is kept or read by region."""
    plan = planned(mine, augment=OFF, normalize={"mean": [10.0], "std": [2.0]})
    kept, by_region = Crops(plan, ImageCache(2**28)), Crops(plan, ImageCache(1))
    for index in range(12):
        crop, again = kept[index], by_region[index]
        name, _, place = crop.where.partition(" at ")
        box = eval(place, {"Box": Box})  # noqa: S307 - our own text
        pixels = np.asarray(Image.open(mine / "images" / f"{name}.png"))[box.slices]
        truth = np.asarray(Image.open(mine / "truth" / f"{name}.png"))[box.slices]
        np.testing.assert_array_equal(crop.pixels_CYX[0], (pixels.astype(np.float32) - 10) / 2)
        np.testing.assert_array_equal(crop.target_YX, truth > 0)
        np.testing.assert_array_equal(crop.pixels_CYX, again.pixels_CYX)
        assert crop.where == again.where


def test_classes_can_be_balanced(mine):
    """Centred on a class at random, half of the crops have a disc in their middle; at random places, as many as there are disc pixels."""
    share = {}
    for balance in (0.0, 1.0):
        plan = planned(mine, augment=OFF, crop=16, sampling={"balance": balance})
        crops = Crops(plan, ImageCache(2**28))
        share[balance] = np.mean([crops[at].target_YX[8, 8] == 1 for at in range(300)])
    assert share[0.0] < 0.35
    assert 0.38 < share[1.0] < 0.62


def shares_of_empty(folder, side, *limits):
    """The share of crops without a disc, by limit."""
    shares = []
    for empty in limits:
        crops = Crops(planned(folder, augment=OFF, crop=side, sampling={"empty": empty}), ImageCache(2**28))
        shares.append(np.mean([not crops[at].target_YX.any() for at in range(400)]))
    return shares


def test_empty_crops_are_limited_and_no_more(mine):
    """A share of empty crops that is below the limit stays, one that is above comes down to it and not further."""
    free, half, third, none = shares_of_empty(mine, 16, 1.0, 0.75, 0.3, 0.0)
    assert 0.45 < free < 0.6
    assert half == pytest.approx(free, abs=0.03)
    assert third == pytest.approx(0.3, abs=0.04)
    assert none == 0


def test_a_rare_class_is_found_where_it_was_seen(mine):
    """Where hardly a crop holds anything, the limit holds all the same: a crop is centred on one of the few pixels."""
    spot = np.zeros((96, 96), np.uint8)
    spot[40:43, 40:43] = 1
    for path in (mine / "truth").iterdir():
        Image.fromarray(spot).save(path)
    free, some, none = shares_of_empty(mine, 16, 1.0, 0.3, 0.0)
    assert free > 0.9
    assert some == pytest.approx(0.3, abs=0.04)
    assert none == 0


def test_an_image_smaller_than_a_crop_is_reflected(mine):
    """An image smaller than the crop lies in its middle, with its own reflection around it."""
    small = np.arange(30 * 20, dtype=np.uint32).reshape(30, 20).astype(np.uint8)
    for at in range(6):
        Image.fromarray(small).save(mine / "images" / f"a{at}.png")
        Image.fromarray((small > 100).astype(np.uint8)).save(mine / "truth" / f"a{at}.png")
    plan = planned(mine, augment=OFF, crop=48, normalize="none")
    crop = Crops(plan, ImageCache(2**28))[0]
    wanted = np.pad(small, ((9, 9), (14, 14)), mode="reflect")
    np.testing.assert_array_equal(crop.pixels_CYX[0], wanted)
    np.testing.assert_array_equal(crop.target_YX, wanted > 100)


def test_the_border_is_what_brute_force_says(mine):
    """A pixel is border where another number lies within the width, rows and columns apart."""
    _, truth = discs(0, 40)
    found = split_border((truth > 0).astype(np.uint8), truth, split=1, border=2, width=2)
    for y in range(2, 38):
        for x in range(2, 38):
            around = truth[y - 2 : y + 3, x - 2 : x + 3]
            wanted = 0 if truth[y, x] == 0 else 2 if (around != truth[y, x]).any() else 1
            assert found[y, x] == wanted


def with_collar(folder, label):
    """Two scenes whose outer 20 pixels have no data, with some label there."""
    for name in ("a0", "a1"):
        pixels, truth = (np.asarray(Image.open(folder / part / f"{name}.png")).copy() for part in ("images", "truth"))
        collar = np.ones(truth.shape, bool)
        collar[20:-20, 20:-20] = False
        pixels[collar], truth[collar] = 0, label
        Image.fromarray(np.where(collar, 0, np.maximum(pixels, 1)).astype(np.uint8)).save(folder / "images" / f"{name}.png")
        Image.fromarray(truth).save(folder / "truth" / f"{name}.png")
    return folder


@pytest.mark.parametrize("keys", [{}, {"border": {"of": "disc"}}, {"normalize": "percentile", "val": {"by": "region"}, "crop": 16}])
def test_labels_without_data_are_never_learnt(tmp_path, keys):
    """The same crops, class areas, class weights and normalisation come out whatever the truth says where an image has no data."""
    plans, crops = [], []
    options = {
        "reader": {"name": "auto", "nodata": 0},
        "sampling": {"balance": 0.5},
        "loss": {"name": "cross_entropy", "class_weights": "median_frequency"},
    }
    for label in (0, 3):
        folder = with_collar(write_scene(tmp_path / str(label), 2), label)
        plans.append(planned(folder, crop=keys.get("crop", 32), **{**options, **{key: keys[key] for key in keys if key != "crop"}}))
        crops.append(Crops(plans[-1], ImageCache(2**28)))
    assert plans[0].statistics.areas == plans[1].statistics.areas
    assert plans[0].normalize == plans[1].normalize
    assert plans[0].loss == plans[1].loss
    has_collar = False
    for index in range(60):
        one, other = crops[0][index], crops[1][index]
        np.testing.assert_array_equal(one.target_YX, other.target_YX)
        np.testing.assert_array_equal(one.pixels_CYX, other.pixels_CYX)
        assert one.where == other.where
        assert (one.target_YX != 255).any()
        has_collar |= bool((one.target_YX == 255).any())
    assert has_collar
