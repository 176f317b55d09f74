"""Images are like those of a training, or unlike them in a property that is named, whatever their size, padding and light."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom

from pipeline.statistics import PROPERTIES, KnownAppearance, Window, describe_windows, learn_appearance, sample_boxes

SIDE = 256


def cells(seed, side=SIDE, radius=9.0, channels=1):
    """Bright discs on dark noisy ground, of a size that varies a little."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    light = np.full((side, side), 30.0)
    for _ in range(max(1, round(60 * (9 / radius) ** 2))):
        row, col, size = rng.integers(0, side), rng.integers(0, side), radius * rng.uniform(0.8, 1.25)
        light[(y - row) ** 2 + (x - col) ** 2 < size**2] = rng.uniform(120, 200)
    light = gaussian_filter(light, 1.0)
    pixels_CYX = np.stack([light + rng.normal(0, 4, light.shape) for _ in range(channels)])
    return np.clip(np.rint(pixels_CYX), 0, 255).astype(np.uint8)


def windows(pixels_CYX, valid_YX=None):
    """All windows of an image."""
    boxes = sample_boxes(pixels_CYX.shape[1:])
    return [Window(pixels_CYX[(slice(None), *box.slices)], None if valid_YX is None else valid_YX[box.slices]) for box in boxes]


def describe(pixels_CYX, levels=None, valid_YX=None):
    found = describe_windows(windows(pixels_CYX, valid_YX), levels)
    assert found is not None
    return found


def changed(pixels_CYX):
    """An image as it is, somewhat larger and smaller, and blurred a little."""
    scaled = [zoom(pixels_CYX.astype(float), (1, factor, factor), order=1) for factor in (0.7, 1.4)]
    return [pixels_CYX, *scaled, gaussian_filter(pixels_CYX.astype(float), (0, 1, 1))]


@pytest.fixture(scope="module")
def known():
    """What a model knows that has learnt from twelve pictures of cells."""
    images = [cells(seed) for seed in range(12)]
    return learn_appearance(
        [[describe(one) for one in changed(image)] for image in images], negatives=[describe(255 - one) for one in images]
    )


def unlike(known, pixels_CYX):
    return known.unlike(describe(pixels_CYX))


def test_images_of_the_same_kind_are_like_them(known):
    """Of other images of the kind, none is called unlike, at any of the sizes that were learnt."""
    assert [unlike(known, one) for seed in range(50, 60) for one in changed(cells(seed))] == [[]] * 40


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda image: 255 - image, "brightness"),
        (lambda image: 255 - image, "polarity"),
        (lambda image: gaussian_filter(image.astype(float), (0, 8, 8)), "sharpness"),
        (lambda image: zoom(image, (1, 6, 6), order=1)[:, :512, :512], "scale"),
        (lambda image: np.stack([image[0], image[0] // 2, image[0]]), "colour"),
    ],
    ids=["inverted", "negative detail", "blurred", "enlarged", "coloured"],
)
def test_the_property_is_named(known, change, word):
    """An image of another kind is unlike them, and the property that was changed is among those that are named."""
    for seed in range(60, 64):
        assert word in unlike(known, change(cells(seed)))


def test_the_most_unlike_property_comes_first(known):
    """A strong colour is farther away than a blur that is a little too strong."""
    image = gaussian_filter(cells(70).astype(float), (0, 3, 3))
    assert unlike(known, np.stack([image[0], image[0] / 9, image[0] / 9]))[0] == "colour"


@pytest.mark.parametrize("level", [0, 243, 255])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_padding_changes_nothing(known, level, share):
    """An image in a frame of one value, however wide, is as like or unlike as without it."""
    image = cells(80, side=512)
    side = round(512 * (1 / (1 - share)) ** 0.5)
    framed = np.full((1, side, side), level, np.uint8)
    framed[:, 131 : 131 + 512, 57 : 57 + 512] = image
    assert unlike(known, framed) == []
    inverted = framed.copy()
    inverted[:, 131 : 131 + 512, 57 : 57 + 512] = 255 - image
    assert "brightness" in unlike(known, inverted)


def test_missing_data_do_not_count(known):
    """Pixels without data, of whatever value, change nothing."""
    image, valid = cells(81, side=512).astype(np.float32), np.ones((512, 512), np.bool_)
    valid[:, 200:] = False
    image[:, ~valid] = np.nan
    found = describe(image, valid_YX=valid)
    image[:, ~valid] = -3e38
    again = describe(image, valid_YX=valid)
    assert known.unlike(found) == []
    for name in PROPERTIES:
        np.testing.assert_array_equal(found[name], again[name])


def test_levels_count_where_a_model_sees_raw_values():
    """An image at half the light is unlike those of a model without normalisation by image, and like those of one with it."""
    for levels, words in (((0.0, 255.0), ["brightness"]), (None, [])):
        known = learn_appearance([[describe(cells(seed), levels)] for seed in range(12)], levels)
        assert known.levels == levels
        assert known.unlike(describe(cells(90) // 4, levels)) == words
        assert known.unlike(describe(cells(90), levels)) == []
    assert known.unlike(describe(cells(90) // 4, (0.0, 255.0))) == []


def test_it_survives_its_bundle(known):
    """What a bundle keeps is short, plain and gives the same answers."""
    kept = known.to_json()
    again = KnownAppearance.from_json(kept)
    assert again.to_json() == kept
    assert list(kept) == list(PROPERTIES)
    assert max(len(one["points"]) for name, one in kept.items() if name != "polarity") <= 16
    for seed in range(60, 64):
        assert again.unlike(describe(255 - cells(seed))) == unlike(known, 255 - cells(seed))


@pytest.mark.parametrize(
    "values",
    [
        {"shape": {"limit": 1, "points": [[0, 0, 0]]}},
        {"sharpness": {"limit": 0, "points": [[0, 0, 0]]}},
        {"sharpness": {"limit": 1, "points": [[0, 0]]}},
        {"sharpness": {"limit": 1, "points": [0, 0, 0]}},
        {"sharpness": {"limit": 1, "points": [[0, float("nan"), 0]]}},
        {"sharpness": {"points": [[0, 0, 0]]}},
        {"polarity": {"limit": 1, "points": [[0, 0, 0]]}},
        {"polarity": {"limit": 1, "centre": [0] * 18, "weights": [0] * 17}},
        {"polarity": {"limit": 1, "centre": [[0] * 18], "weights": [0] * 18}},
        {"polarity": {"limit": -1, "centre": [0] * 18, "weights": [0] * 18}},
        {"levels": [1]},
        {"sharpness": 3},
    ],
)
def test_what_a_bundle_cannot_keep_is_refused(values):
    """Other properties, limits and points raise an error that says what is expected."""
    with pytest.raises(ValueError, match="a limit"):
        KnownAppearance.from_json(values)


def test_what_a_bundle_kept_before_polarity_is_compared(known):
    """Without polarity, or learnt without negatives, the other properties speak as ever, and the rest is silent."""
    kept = {name: one for name, one in known.to_json().items() if name != "polarity"}
    old, image = KnownAppearance.from_json(kept), 255 - cells(61)
    assert old.unlike(describe(image)) == [word for word in unlike(known, image) if word != "polarity"] != []
    assert set(learn_appearance([[describe(cells(seed))] for seed in range(6)]).properties) == set(PROPERTIES) - {"polarity"}


def test_negatives_of_images_of_both_kinds_are_told_by_the_direction_alone():
    """Bright discs that fill most of a picture have the quartiles of a negative; a negative of few discs is told by its detail."""
    images = [cells(seed, radius=radius) for seed in range(8) for radius in (5.0, 9.0, 25.0)]
    known = learn_appearance([[describe(one)] for one in images], negatives=[describe(255 - one) for one in images])
    others = [cells(seed, radius=radius) for seed in range(80, 86) for radius in (6.0, 12.0, 22.0)]
    assert [unlike(known, one) for one in others].count([]) >= len(others) - 1
    assert all("polarity" in unlike(known, 255 - one) for one in others)


@pytest.mark.parametrize("number", [1, 3])
def test_few_images_are_known_by_their_windows(number):
    """With fewer images than parts to leave out, limits are wider, and negatives are still told."""
    images = [cells(seed, side=768) for seed in range(number)]
    known = learn_appearance([[describe(one)] for one in images], negatives=[describe(255 - one) for one in images])
    assert known.properties["polarity"].limit >= 1.5
    assert unlike(known, cells(90, side=768)) == []
    assert "polarity" in unlike(known, 255 - cells(91, side=768))


def test_nothing_is_learnt_from_nothing():
    """Without a description there is nothing to know."""
    with pytest.raises(ValueError, match="no description"):
        learn_appearance([])
