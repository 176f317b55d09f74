"""The blocks of a phase are a sequence that holds none of them, also where only some blocks of the image are chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Blocks
from pipeline.tiling import Grid

SIDE = 16


def blocks_of(planes=1, rows=1, cols=1, chosen=None):
    shape = (rows * SIDE - 3, cols * SIDE - 5)
    image = Image(0, "a", "/a.tif", Header(shape, 1, "uint8", planes={"z": planes}), {"name": "auto"})
    return Blocks("predict", image, Grid(shape, SIDE, 0, SIDE), "key", None if chosen is None else np.array(chosen, np.int32))


@st.composite
def some_blocks(draw):
    planes, rows, cols = draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    number = planes * rows * cols
    chosen = draw(st.none() | st.sets(st.integers(0, number - 1), min_size=1).map(sorted))
    return blocks_of(planes, rows, cols, chosen)


@given(some_blocks())
def test_every_way_to_a_block_gives_the_same_one(blocks):
    """By index, by iteration and by id; the area is that of all of them, and ids sort as texts do."""
    listed = list(blocks)
    assert listed == [blocks[index] for index in range(len(blocks))]
    assert [blocks.id_of(index) for index in range(len(blocks))] == [block.id for block in listed]
    assert [blocks.index_of(block.id) for block in listed] == list(range(len(blocks)))
    assert blocks.area == sum(block.box.area for block in listed)
    assert list(blocks.sorted_by_id()) == sorted(range(len(listed)), key=lambda index: listed[index].id)


def test_other_blocks_are_not_among_them():
    """Neither those outside the image nor those that are not chosen."""
    blocks = blocks_of(1, 2, 3, chosen=[1, 5])
    assert [blocks.index_of(f"a:{at}") for at in ("0.0.1", "0.1.2", "0.0.0", "0.2.0", "1.0.1")] == [0, 1, None, None, None]
    with pytest.raises(IndexError):
        blocks[2]
