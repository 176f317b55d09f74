"""Images are like those of a training, or unlike them in a property that is named, whatever their size, padding and light."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, zoom

from pipeline.geometry import Box
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
    return learn_appearance([[describe(one) for one in changed(cells(seed))] for seed in range(12)])


def unlike(known, pixels_CYX):
    return known.unlike(describe(pixels_CYX))


def test_images_of_the_same_kind_are_like_them(known):
    """Of other images of the kind, none is called unlike, at any of the sizes that were learnt."""
    assert [unlike(known, one) for seed in range(50, 60) for one in changed(cells(seed))] == [[]] * 40


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda image: 255 - image, "brightness"),
        (lambda image: gaussian_filter(image.astype(float), (0, 8, 8)), "sharpness"),
        (lambda image: zoom(image, (1, 6, 6), order=1)[:, :512, :512], "scale"),
        (lambda image: np.stack([image[0], image[0] // 2, image[0]]), "colour"),
    ],
    ids=["inverted", "blurred", "enlarged", "coloured"],
)
def test_the_property_is_named(known, change, word):
    """An image of another kind is unlike them, and the property that was changed is among those that are named."""
    for seed in range(60, 64):
        assert word in unlike(known, change(cells(seed)))


def test_the_most_unlike_property_comes_first(known):
    """A strong colour is farther away than a blur that is a little too strong."""
    image = gaussian_filter(cells(70).astype(float), (0, 3, 3))
    assert unlike(known, np.stack([image[0], image[0] / 9, image[0] / 9]))[0] == "colour"


def test_grey_in_three_channels_is_grey(known):
    """Three equal channels are described as one channel is."""
    grey, colour = describe(cells(3)), describe(np.repeat(cells(3), 3, axis=0))
    for name in PROPERTIES:
        np.testing.assert_allclose(grey[name], colour[name], rtol=1e-4, atol=1e-4)


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


@given(seed=st.integers(0, 2**31), gain=st.floats(0.01, 300), offset=st.floats(-1000, 1000))
@settings(max_examples=15, deadline=None)
def test_light_does_not_count(seed, gain, offset):
    """Without levels, neither gain nor offset of a grey image changes its numbers."""
    image = cells(seed, side=128).astype(np.float64)
    plain, lit = describe(image), describe(image * gain + offset)
    for name in PROPERTIES:
        np.testing.assert_allclose(plain[name], lit[name], rtol=1e-2, atol=2e-2)


def test_levels_count_where_a_model_sees_raw_values():
    """An image at half the light is unlike those of a model without normalisation by image, and like those of one with it."""
    for levels, words in (((0.0, 255.0), ["brightness"]), (None, [])):
        known = learn_appearance([[describe(cells(seed), levels)] for seed in range(12)], levels)
        assert known.levels == levels
        assert known.unlike(describe(cells(90) // 4, levels)) == words
        assert known.unlike(describe(cells(90), levels)) == []
    assert known.unlike(describe(cells(90) // 4, (0.0, 255.0))) == []


@pytest.mark.parametrize(
    "pixels_CYX",
    [np.full((1, 300, 300), 9, np.uint8), np.zeros((3, 8, 400), np.uint8), np.full((1, 64, 64), np.nan, np.float32), cells(1, side=32)],
    ids=["even", "narrow", "no data", "too small"],
)
def test_what_shows_too_little_is_not_judged(pixels_CYX):
    """Of an image without content, or of too few pixels, nothing is said."""
    assert describe_windows(windows(pixels_CYX)) is None


@given(height=st.integers(1, 100_000), width=st.integers(1, 100_000))
def test_windows_lie_in_the_image_and_are_few(height, width):
    """At most 64 windows of at most 256 pixels a side lie inside an image; of a small one they hold every pixel."""
    boxes = sample_boxes((height, width))
    assert 1 <= len(boxes) <= 64
    assert all(Box(0, 0, height, width).intersection(box) == box and max(box.shape) <= SIDE for box in boxes)
    assert len(set(boxes)) == len(boxes)
    if height <= SIDE and width <= SIDE:
        assert boxes == [Box(0, 0, height, width)]


def test_it_survives_its_bundle(known):
    """What a bundle keeps is short, plain and gives the same answers."""
    kept = known.to_json()
    again = KnownAppearance.from_json(kept)
    assert again.to_json() == kept
    assert max(len(kept[name]["points"]) for name in PROPERTIES) <= 16
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
        {"levels": [1]},
        {"sharpness": 3},
    ],
)
def test_what_a_bundle_cannot_keep_is_refused(values):
    """Other properties, limits and points raise an error that says what is expected."""
    with pytest.raises(ValueError, match="a limit"):
        KnownAppearance.from_json(values)


def test_nothing_is_learnt_from_nothing():
    """Without a description there is nothing to know."""
    with pytest.raises(ValueError, match="no description"):
        learn_appearance([])
