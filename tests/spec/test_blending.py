"""Blending holds no more than it must, and gives the sums of one accumulator over the whole image, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry import Box
from pipeline.tiling.array_ops import NumpyOps
from pipeline.tiling.blending import Blender, axis_spans, num_seam_shares, overlap_regions, sum_shares
from pipeline.tiling.grid import Grid
from pipeline.tiling.stitching import axis_weights

CUTS = st.builds(
    lambda shape, core, halo, cores, full: Grid(shape, core, halo, core * cores, full=full),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    core=st.integers(3, 20),
    halo=st.integers(0, 30),
    cores=st.integers(1, 3),
    full=st.booleans(),
)
KINDS = st.sampled_from(["linear", "gaussian"])


def scores_of(tile, seen, classes=2):
    """Scores that belong to a tile, whoever asks for them."""
    return np.random.default_rng((tile.row, tile.col)).standard_normal((classes, *seen.shape), np.float32)


def accumulated(grid, kind, margin):
    """The weighted sum of all tiles in one float32 array over the image; tiles lose ``margin`` on every side."""
    total = np.zeros((2, *grid.shape), np.float32)
    whole, halo = Box(0, 0, *grid.shape), grid.halo - margin
    for tile in grid.tiles(whole):
        seen = tile.outer.grow(-margin)
        inside = seen.intersection(whole)
        rows, cols = inside.relative_to(seen).slices
        weight_Y, weight_X = (
            axis_weights(kind, grid.core, halo, at, count) for at, count in zip((tile.row, tile.col), grid.num_cores, strict=True)
        )
        weight_YX = weight_Y[rows, None] * weight_X[None, cols]
        total[(slice(None), *inside.slices)] += scores_of(tile, seen)[:, rows, cols] * weight_YX
    return total


@given(core=st.integers(1, 20), halo=st.integers(0, 50), count=st.integers(1, 6), cores=st.integers(1, 3), data=st.data())
def test_spans_are_reached_by_the_same_tiles(core, halo, count, cores, data):
    """Spans follow one another, lie in one block each, and each pixel is reached by exactly the tiles that its span names."""
    block = core * cores
    stop = data.draw(st.integers(core * (count - 1) + 1, core * count))
    start = data.draw(st.integers(0, stop - 1))
    at = start
    for span in axis_spans(core, halo, block, count, start, stop):
        assert span.start == at < span.stop
        assert span.start // block == (span.stop - 1) // block
        for pixel in range(span.start, span.stop):
            reaching = [index for index in range(count) if index * core - halo <= pixel < (index + 1) * core + halo]
            assert reaching == list(range(span.first, span.last + 1))
        at = span.stop
    assert at == stop


def blended(grid, kind, margin, block, order):
    """Give a block's tiles to a blend, in some order; returns the blend, and what it gave."""
    blend, given = Blender(grid, kind, NumpyOps()), []
    for tile in order(list(grid.tiles(block))):
        seen = tile.outer.grow(-margin)
        shared = seen.intersection(Box(0, 0, *grid.shape))
        scores_KYX = scores_of(tile, seen)[(slice(None), *shared.relative_to(seen).slices)]
        for box, kept_KYX, is_own in blend.add(tile, seen, shared, scores_KYX):
            assert block.intersection(box) == box
            assert np.shares_memory(kept_KYX, scores_KYX) == is_own  # nothing is copied where a tile is alone
            assert not is_own or tile.core.intersection(box) == box
            given.append((box, kept_KYX))
    return blend, given


@given(grid=CUTS, kind=KINDS, margin=st.integers(0, 5), data=st.data())
@settings(deadline=None)
def test_sums_are_those_of_one_accumulator(grid, kind, margin, data):
    """Any cut into blocks, and any order of tiles, gives every pixel once, with the very sum of the naive way.

    So do networks without padding, and halos wider than a core.
    """
    margin = min(margin, grid.halo)
    total_KYX = accumulated(grid, kind, margin)
    found_KYX, times_YX = np.zeros_like(total_KYX), np.zeros(grid.shape, int)
    held = {}
    for block in grid.blocks():
        blend, given = blended(grid, kind, margin, block, lambda tiles: data.draw(st.permutations(tiles)))
        for region, shares in blend.shares.items():
            held.setdefault(region, {}).update(shares)
        for box, kept_KYX in given:
            found_KYX[(slice(None), *box.slices)] = kept_KYX
            times_YX[box.slices] += 1
    for region, shares in held.items():
        assert set(shares) == set(region.tiles)
        found_KYX[(slice(None), *region.box.slices)] = sum_shares(shares)
        times_YX[region.box.slices] += 1
    assert (times_YX == 1).all()
    assert np.array_equal(found_KYX, total_KYX)


@given(grid=CUTS, reach=st.integers(0, 12))
def test_regions_cut_the_image(grid, reach):
    """Regions of the whole image are those of its blocks, hold every pixel once, and lie in one block each."""
    whole = list(overlap_regions(grid, reach, Box(0, 0, *grid.shape)))
    assert {region for block in grid.blocks() for region in overlap_regions(grid, reach, block)} == set(whole)
    assert sum(region.box.area for region in whole) == grid.shape[0] * grid.shape[1]


@given(grid=CUTS, reach=st.integers(0, 30))
def test_shares_of_seams_are_counted(grid, reach):
    """They are one for each tile of each pixel that tiles of several blocks predict."""
    cores, counted = grid.block // grid.core, 0
    for region in overlap_regions(grid, reach, Box(0, 0, *grid.shape)):
        if len({(row // cores, col // cores) for row, col in region.tiles}) > 1:
            counted += region.box.area * len(region.tiles)
    assert num_seam_shares(grid, reach) == counted


@pytest.mark.parametrize(("core", "halo"), [(32, 4), (16, 8), (8, 12)])
def test_finished_rows_are_let_go(core, halo):
    """After a row of tiles only what the next row reaches is held, whatever the size of the block."""
    grid = Grid((160, 64), core, halo, 160 // core * core)
    blend, most = Blender(grid, "linear", NumpyOps()), 0
    for tile in grid.tiles(next(grid.blocks())):
        shared = tile.outer.intersection(Box(0, 0, *grid.shape))
        list(blend.add(tile, tile.outer, shared, np.zeros((1, *shared.shape), np.float32)))
        most = max(most, sum(share_KYX.size for shares in blend.shares.values() for share_KYX in shares.values()))
        if tile.col == grid.num_cores[1] - 1:
            assert all(region.box.y0 >= (tile.row + 1) * core - halo for region in blend.shares)
    waiting = sum(range(2 * halo, 0, -core))  # of a tile's rows, for the rows of tiles that reach into it
    assert 0 < most <= waiting * (64 // core + 1) * (core + 2 * halo)
