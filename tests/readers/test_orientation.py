"""Orientations 1 to 8, whole and by region, against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.geometry import Box
from pipeline.readers._orientation import stored_box, turn, upright_shape

ORIENTATIONS = range(1, 9)
ORIENTATION_TAG = 0x0112


def upright(stored_YX: np.ndarray, orientation: int) -> np.ndarray:
    """What Pillow shows."""
    image = Image.fromarray(stored_YX)
    image.getexif()[ORIENTATION_TAG] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_whole_image_is_turned_as_pillow_does(orientation: int) -> None:
    """All eight orientations, also below a channel axis."""
    stored_YX = np.arange(15, dtype=np.uint8).reshape(3, 5)
    expected_YX = upright(stored_YX, orientation)
    np.testing.assert_array_equal(turn(stored_YX, orientation), expected_YX)
    np.testing.assert_array_equal(turn(np.stack([stored_YX, stored_YX + 1]), orientation), np.stack([expected_YX, expected_YX + 1]))
    assert upright_shape(stored_YX.shape, orientation) == expected_YX.shape


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, int], int, Box]:
    """A stored shape, an orientation, and a box of the upright image."""
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    orientation = draw(st.sampled_from(ORIENTATIONS))
    height, width = upright_shape(shape, orientation)
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return shape, orientation, Box(y0, x0, draw(st.integers(y0 + 1, height)), draw(st.integers(x0 + 1, width)))


@given(boxes())
def test_any_region_is_that_of_the_whole(case: tuple[tuple[int, int], int, Box]) -> None:
    """Reading the stored box and turning it gives the box of the upright image; the stored box lies inside."""
    shape, orientation, box = case
    stored_YX = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    source = stored_box(box, shape, orientation)
    assert source.clip(shape) == source
    np.testing.assert_array_equal(turn(stored_YX[source.slices], orientation), upright(stored_YX, orientation)[box.slices])
