"""A few numbers describe windows of an image, whatever its light, its channels and what surrounds it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry import Box
from pipeline.statistics import PROPERTIES, describe_windows, sample_boxes
from tests.statistics.test_appearance import SIDE, cells, describe, windows


def test_grey_in_three_channels_is_grey():
    """Three equal channels are described as one channel is."""
    grey, colour = describe(cells(3)), describe(np.repeat(cells(3), 3, axis=0))
    for name in PROPERTIES:
        np.testing.assert_allclose(grey[name], colour[name], rtol=1e-4, atol=1e-4)


@given(seed=st.integers(0, 2**31), gain=st.floats(0.01, 300), offset=st.floats(-1000, 1000))
@settings(max_examples=15, deadline=None)
def test_light_does_not_count(seed, gain, offset):
    """Without levels, neither gain nor offset of a grey image changes its numbers."""
    image = cells(seed, side=128).astype(np.float64)
    plain, lit = describe(image), describe(image * gain + offset)
    for name in PROPERTIES:
        np.testing.assert_allclose(plain[name], lit[name], rtol=1e-2, atol=2e-2)


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


@pytest.mark.parametrize("seed", range(4))
def test_polarity_changes_its_sign_in_a_negative(seed):
    """Discs on dark ground have positive numbers, their negative the same ones below 0, and what has no sign stays."""
    image = cells(seed)
    found, negative = describe(image), describe(255 - image)
    assert (found["polarity"] > 0.02).all()
    np.testing.assert_allclose(negative["polarity"], -found["polarity"], atol=1e-3)
    for name in ("sharpness", "scale"):
        np.testing.assert_allclose(negative[name], found[name], atol=1e-3)


def test_polarity_of_noise_is_none():
    """Where neither side has more detail, the numbers are near 0."""
    noise = np.random.default_rng(0).normal(100, 10, (1, 256, 256))
    assert np.abs(describe(noise)["polarity"]).max() < 0.1


@pytest.mark.parametrize("level", [0, 255])
def test_the_edge_of_padding_has_no_polarity(level):
    """The windows of an image in a frame have the numbers that they have without it."""
    image = cells(5, side=512)
    framed = np.full((1, 1024, 1024), level, np.uint8)
    framed[:, 256:768, 256:768] = image
    np.testing.assert_allclose(*(np.median(describe(one)["polarity"], axis=0) for one in (image, framed)), atol=0.15)
