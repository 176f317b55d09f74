"""Where crops lie: on labels, also where these are few, and never beyond what may be used."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import GigasegError
from pipeline.geometry import Box
from pipeline.training.crop_places import CropPlaces
from pipeline.training.crops import Crops, ImageCache
from tests.training.scene import OFF, planned, refusal


def write_one(folder, pixels, truth):
    for part, array in (("images", pixels), ("truth", truth)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / part / "a.png")
    return folder


def with_own_val(folder):
    """A second image to validate with."""
    (folder / "val").mkdir()
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(folder / "val" / "b.png")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / "truth" / "b.png")
    return folder


NO_LABEL = {
    "classes": [{"name": "ground"}, {"name": "disc"}],
    "ignore": 255,
    "val": ["val/"],
    "augment": OFF,
    "crop": 32,
    "normalize": "none",
}


def test_crops_hold_labels_where_these_are_few(tmp_path):
    """Of a large image with one labelled spot, each crop holds a part of the spot, at many places of the crop."""
    truth = np.full((1500, 1500), 255, np.uint8)
    truth[700:706, 900:903] = 1
    plan = planned(with_own_val(write_one(tmp_path, np.zeros_like(truth), truth)), **NO_LABEL)
    crops = [Crops(plan, ImageCache(2**28))[index] for index in range(60)]
    assert all((crop.target_YX == 1).any() for crop in crops)
    assert len({int(np.argmax((crop.target_YX == 1).any(axis=1))) for crop in crops}) > 10


def test_places_of_a_fully_labelled_image_are_uniform(tmp_path):
    """Every place is as likely as any other, to within what chance allows, and all of the image is reached."""
    plan = planned(with_own_val(write_one(tmp_path, np.zeros((96, 72), np.uint8), np.zeros((96, 72), np.uint8))), **NO_LABEL)
    places, rng = CropPlaces(plan), np.random.default_rng(1)
    drawn = [places.draw(rng, 0).box for _ in range(4000)]
    tops, lefts = ([getattr(box, side) for box in drawn] for side in ("y0", "x0"))
    assert (min(tops), max(tops), min(lefts), max(lefts)) == (0, 64, 0, 40)
    assert np.mean(tops) == pytest.approx(32, abs=1.2)  # four standard errors
    assert np.mean(lefts) == pytest.approx(20, abs=0.8)
    assert all(box.shape == (32, 32) for box in drawn)


def test_unlabelled_images_are_refused(tmp_path):
    """Where no pixel has a class, there is nothing to learn."""
    truth = np.full((96, 96), 255, np.uint8)
    folder = with_own_val(write_one(tmp_path, np.zeros_like(truth), truth))
    assert "truth: found no labelled pixel to train on; expected truth with classes where images have data" in refusal(folder, **NO_LABEL)


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_a_margin_that_nothing_has_room_for(tmp_path, balance):
    """Beside a region, a place for too wide a margin does not exist, and the crop says so after a bounded search."""
    folder = write_one(tmp_path, np.zeros((256, 256), np.uint8), (np.indices((256, 256)).sum(0) % 2).astype(np.uint8))
    plan = planned(folder, val={"by": "region"}, augment=OFF, crop=32, sampling={"balance": balance})
    places, rng = CropPlaces(plan), np.random.default_rng(0)
    assert places.draw(rng, 300) is None
    place = places.draw(rng, 4)
    assert place is not None
    assert plan.regions[0].is_clear(place.box.grow(4).clip((256, 256)))
    assert Box(0, 0, 256, 256).intersection(place.box) == place.box


def test_the_search_for_a_crop_ends(tmp_path, monkeypatch):
    """Where every place is refused, the error names the key to change."""
    folder = with_own_val(write_one(tmp_path, np.zeros((96, 96), np.uint8), np.zeros((96, 96), np.uint8)))
    plan = planned(folder, **NO_LABEL)
    monkeypatch.setattr(CropPlaces, "draw", lambda *_: None)
    with pytest.raises(GigasegError, match=r"crop: no crop of 32 pixels with a labelled pixel in 200 draws\. Use a smaller crop"):
        Crops(plan, ImageCache(2**28))[0]
