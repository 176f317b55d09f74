"""Every object once: objects joined across blocks are those of one pass over the whole image, for any cut and order of blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.oracle.object_phases import (
    cells,
    compared,
    components,
    joined,
    joined_where_touching,
    joined_with_digest,
    kept_by_centroid,
)

MOST_BLOCKS = 24  # of one drawn image


def spiral(side):
    """One long object, one pixel thick, that passes every block many times."""
    mask_YX, at, step, free = np.zeros((side, side), np.uint8), np.array([0, 0]), np.array([0, 1]), True
    mask_YX[0, 0] = 1
    while free:
        free = False
        while is_free(mask_YX, at + step) and is_free(mask_YX, at + 2 * step, outside=True):
            at, free = at + step, True
            mask_YX[tuple(at)] = 1
        step = np.array([step[1], -step[0]])
    return mask_YX


def is_free(mask_YX, at, *, outside=False):
    is_inside = (at >= 0).all() and (at < mask_YX.shape).all()
    return not mask_YX[tuple(at)] if is_inside else outside


def comb(side):
    """Teeth that are one object by a back that only the last row of blocks sees."""
    mask_YX = np.zeros((side, side), np.uint8)
    mask_YX[:, ::2] = mask_YX[-1] = 1
    return mask_YX


def rings(side):
    """Objects inside each other."""
    y, x = np.mgrid[:side, :side]
    return (np.maximum(abs(y - side // 2), abs(x - side // 2)) % 2).astype(np.uint8)


def diagonals(side):
    """Lines of pixels that touch by corners alone, through the corners of blocks."""
    y, x = np.mgrid[:side, :side]
    return ((y - x) % 7 == 0).astype(np.uint8) | (((y + x) % 7 == 0) * 2).astype(np.uint8)


def checkerboard(side):
    """One object by corners, or as many as there are black fields."""
    return (np.indices((side, side)).sum(axis=0) % 2).astype(np.uint8)


def zigzag(side):
    """Two objects that wind around each other, of two classes."""
    mask_YX = np.full((side, side), 2, np.uint8)
    mask_YX[::2] = 1
    mask_YX[1::4, -1] = mask_YX[3::4, 0] = 1
    mask_YX[0::4, 0] = mask_YX[2::4, -1] = 2
    return mask_YX


SHAPES = {one.__name__: one for one in (spiral, comb, rings, diagonals, checkerboard, zigzag)}


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_objects_that_cross_every_block_are_whole(shape, connectivity):
    """Spirals, combs, rings, diagonals and more: the ids of one pass, for any block, down to blocks much smaller than the objects."""
    mask_YX = SHAPES[shape](23)
    wanted = components(mask_YX, connectivity)
    for block in (5, 8, 11, 23):
        assert np.array_equal(joined(mask_YX, block, {"name": "components", "connectivity": connectivity}), wanted)


def test_blocks_of_one_pixel():
    """Even where each pixel is a block of its own."""
    for connectivity in (4, 8):
        for mask_YX in (spiral(7), diagonals(6), checkerboard(6)):
            wanted = components(mask_YX, connectivity)
            assert np.array_equal(joined(mask_YX, 1, {"name": "components", "connectivity": connectivity}), wanted)


@st.composite
def masks(draw):
    """A mask of up to three classes, (Y, X) or (T, Y, X), and a block that cuts it into at most 24."""
    planes, height, width = draw(st.sampled_from([0, 0, 2, 3])), draw(st.integers(1, 40)), draw(st.integers(1, 40))
    num_classes, seed = draw(st.integers(1, 3)), draw(st.integers(0, 2**32 - 1))
    density = draw(st.sampled_from([0.02, 0.3, 0.5, 0.6, 0.7, 0.95]))  # diagonal neighbours percolate at 0.41, neighbours by sides at 0.59
    blocks = [b for b in range(1, 42) if -(-height // b) * -(-width // b) * max(1, planes) <= MOST_BLOCKS]
    rng = np.random.default_rng(seed)
    shape = (planes, height, width) if planes else (height, width)
    mask = np.where(rng.random(shape) < density, rng.integers(1, num_classes + 1, shape), 0).astype(np.uint8)
    mask[rng.random(shape) < 0.01] = 255  # no prediction
    return mask, draw(st.sampled_from(blocks)), num_classes


@settings(max_examples=120)
@given(
    masks(),
    st.sampled_from([4, 8]),
    st.sampled_from([(0, None), (2, None), (5, 30), (0, 1), (60, None)]),
    st.integers(1, 4),
    st.one_of(st.none(), st.integers(0, 99)),
)
@example((np.ones((9, 9), np.uint8), 4, 1), 8, (0, None), 1, 3)
@example((np.zeros((9, 9), np.uint8), 4, 1), 8, (0, None), 1, 3)
def test_components_are_those_of_one_pass(drawn, connectivity, areas, halo, order):
    """Any image, classes, planes, cut, halo and order: the ids of `scipy.ndimage.label` over the whole image, numbered by first pixel."""
    mask, block, num_classes = drawn
    method = {"name": "components", "connectivity": connectivity, "min_area": areas[0], "max_area": areas[1], "halo": halo}
    classes = list(range(1, num_classes + 1))
    found = joined(mask, block, method, order=order, classes=classes)
    assert np.array_equal(found, components(mask, connectivity, *areas, classes=classes))


@settings(max_examples=30)
@given(masks(), st.integers(0, 4), st.integers(0, 2))
def test_filling_and_smoothing_do_not_show_blocks(drawn, fill_holes, smooth):
    """Holes that are filled and thin parts that are left out at borders of blocks: those of one block."""
    mask, block, _ = drawn
    method = {"name": "components", "fill_holes": fill_holes, "smooth": smooth, "halo": 1 + fill_holes + 2 * smooth}
    assert np.array_equal(joined(mask, block, method), joined(mask, 41, method))


def test_ids_do_not_depend_on_the_order():
    """Every order leaves the same bytes, and other cuts the same ids."""
    mask = (np.random.default_rng(5).random((2, 40, 40)) < 0.55).astype(np.uint8)
    method = {"name": "components"}
    digests = {joined_with_digest(mask, 10, method, order=order)[1] for order in (None, 1, 2, 3)}
    assert len(digests) == 1
    ids = [joined(mask, block, method) for block in (10, 13, 40)]
    assert np.array_equal(ids[0], ids[1])
    assert np.array_equal(ids[0], ids[2])


def discs(*centres, radius=9, shape=(60, 60)):
    y, x = np.ogrid[: shape[0], : shape[1]]
    mask_YX = np.zeros(shape, np.uint8)
    for row, col in centres:
        mask_YX[(y - row) ** 2 + (x - col) ** 2 <= radius**2] = 1
    return mask_YX


def test_two_objects_that_touch_at_a_seam_stay_two():
    """Two discs side by side, the seam exactly between them: one object wherever labels that touch are joined, and two for us."""
    method = {"name": "watershed", "halo": 20}
    for mask_YX in (discs((30, 20), (30, 39)), discs((20, 30), (39, 30))):
        for block in (30, 15, 10):
            ids_YX = joined(mask_YX, block, method)
            assert ids_YX.max() == 2
            assert np.array_equal(ids_YX, joined(mask_YX, 60, method))
        assert joined_where_touching(mask_YX, 30, method).max() == 1
        assert joined(mask_YX, 30, {"name": "components"}).max() == 1  # the mask alone cannot tell them apart


@pytest.fixture(scope="module")
def dense():
    """Cells that touch, and a bar across ten blocks."""
    mask_YX = (cells(384, 20, seed=1) > 0).astype(np.uint8)
    mask_YX[180:200] = 0
    mask_YX[185:193, 10:370] = 1
    return mask_YX


WATERSHED = {"name": "watershed", "halo": 40}


def test_dense_objects_are_those_of_one_pass(dense):
    """No cell is split, merged or changed by a seam, and the ids are those of one pass, for any block and order."""
    whole_YX = joined(dense, 384, WATERSHED)
    assert whole_YX.max() > 300
    for block, order in ((64, 1), (50, None)):
        assert np.array_equal(joined(dense, block, WATERSHED, order=order), whole_YX)


def test_other_rules_fail_where_ours_does_not(dense):
    """The control: joining what touches merges cells on seams, and going by centroids cuts what is larger than a halo."""
    whole_YX = joined(dense, 384, WATERSHED)
    touching, by_centroid = (compared(rule(dense, 64, WATERSHED), whole_YX) for rule in (joined_where_touching, kept_by_centroid))
    assert touching["merges"] > 5
    assert touching["found"] < touching["objects"]
    assert by_centroid["splits"] > 2
    assert by_centroid["found"] > by_centroid["objects"]
    ours = compared(joined(dense, 64, WATERSHED), whole_YX)
    assert ours == {"objects": ours["objects"], "found": ours["objects"], "same": ours["objects"], "splits": 0, "merges": 0}
