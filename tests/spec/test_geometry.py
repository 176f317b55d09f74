"""Boxes are sets of pixels, and reflection is numpy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geometry import Box, ceil_to, reflect_index

SIDES = st.integers(-20, 20)


@st.composite
def boxes(draw):
    y0, x0 = draw(SIDES), draw(SIDES)
    return Box(y0, x0, y0 + draw(st.integers(1, 15)), x0 + draw(st.integers(1, 15)))


def pixels(box):
    return {(y, x) for y in range(box.y0, box.y1) for x in range(box.x0, box.x1)}


@given(size=st.integers(1, 30), before=st.integers(0, 200), after=st.integers(0, 200))
def test_reflection_is_numpys_at_any_width(size, before, after):
    """Positions are those of `np.pad(mode="reflect")`, also where the pad is many times the axis, and of one pixel."""
    padded = np.pad(np.arange(size), (before, after), mode="reflect")
    assert reflect_index(-before, size + after, size).tolist() == padded.tolist()


@given(size=st.integers(1, 30), start=st.integers(-100, 100), length=st.integers(0, 100))
def test_reflection_of_a_part_is_a_part_of_the_reflection(size, start, length):
    """A range that begins anywhere, even outside altogether, gives what a longer range gives there."""
    whole = reflect_index(-300, 300, size)
    part = reflect_index(start, start + length, size)
    assert part.tolist() == whole[start + 300 : start + 300 + length].tolist()
    assert ((part >= 0) & (part < size)).all()


@given(boxes(), st.integers(0, 9), st.integers(1, 20), st.integers(1, 20))
def test_grow_and_clip(box, margin, height, width):
    """Growing adds the pixels at most a margin away; clipping keeps those inside the image."""
    grown = box.grow(margin)
    assert grown.shape == (box.shape[0] + 2 * margin, box.shape[1] + 2 * margin)
    clipped = grown.clip((height, width))
    assert pixels(clipped) == pixels(grown) & pixels(Box(0, 0, height, width))


@given(boxes(), boxes())
def test_within_keeps_the_pixels(box, outer):
    """Local coordinates plus the origin are the old ones; shape and area stay."""
    local = box.relative_to(outer)
    assert local.shift(outer.y0, outer.x0) == box
    assert (local.shape, local.area) == (box.shape, len(pixels(box)))


@given(st.integers(0, 1000), st.integers(1, 64))
def test_ceil_to_is_the_next_multiple(value, step):
    """The smallest multiple that is not less."""
    assert ceil_to(value, step) == next(at for at in range(0, 2000, step) if at >= value)
