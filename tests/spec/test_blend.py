"""Blending holds no more than it must, and gives the sums of one accumulator over the whole image, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.blend import Blend, spans
from pipeline.geometry import Box
from pipeline.grid import Grid
from pipeline.place import Host
from pipeline.stitch import weights

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
    for tile in grid.ring(whole):
        seen = tile.outer.grow(-margin)
        inside = seen.meet(whole)
        rows, cols = inside.within(seen).slices
        weight_Y, weight_X = (
            weights(kind, grid.core, halo, at, count) for at, count in zip((tile.row, tile.col), grid.num_cores, strict=True)
        )
        weight_YX = weight_Y[rows, None] * weight_X[None, cols]
        total[(slice(None), *inside.slices)] += scores_of(tile, seen)[:, rows, cols] * weight_YX
    return total


@given(core=st.integers(1, 20), halo=st.integers(0, 50), count=st.integers(1, 6), data=st.data())
def test_spans_are_reached_by_the_same_tiles(core, halo, count, data):
    """Spans follow one another over the range, and each pixel is reached by exactly the tiles that its span names."""
    stop = data.draw(st.integers(core * (count - 1) + 1, core * count))
    start = data.draw(st.integers(0, stop - 1))
    at = start
    for span in spans(core, halo, count, start, stop):
        assert span.start == at < span.stop
        for pixel in range(span.start, span.stop):
            reaching = [index for index in range(count) if index * core - halo <= pixel < (index + 1) * core + halo]
            assert reaching == list(range(span.first, span.last + 1))
        at = span.stop
    assert at == stop


@given(grid=CUTS, kind=KINDS, margin=st.integers(0, 5))
@settings(deadline=None)
def test_sums_are_those_of_one_accumulator(grid, kind, margin):
    """Any cut into blocks gives every pixel once, with the very sum of the naive way; unpadded networks and halos wider than a core too."""
    margin = min(margin, grid.halo)
    total_KYX = accumulated(grid, kind, margin)
    found_KYX, times_YX = np.zeros_like(total_KYX), np.zeros(grid.shape, int)
    for block in grid.blocks():
        blend = Blend(block.box, grid, kind, Host())
        for tile in grid.ring(block.box):
            seen = tile.outer.grow(-margin)
            if (shared := seen.meet(block.box)) is None:
                continue
            scores_KYX = scores_of(tile, seen)[(slice(None), *shared.within(seen).slices)]
            for box, kept_KYX, is_own in blend.add(tile, seen, shared, scores_KYX):
                assert block.box.contains(box)
                assert np.shares_memory(kept_KYX, scores_KYX) == is_own  # nothing is copied where a tile is alone
                assert not is_own or tile.core.contains(box)
                found_KYX[(slice(None), *box.slices)] = kept_KYX
                times_YX[box.slices] += 1
        assert not blend._sums
    assert (times_YX == 1).all()
    assert np.array_equal(found_KYX, total_KYX)


@pytest.mark.parametrize(("core", "halo"), [(32, 4), (16, 8), (8, 12)])
def test_finished_rows_are_let_go(core, halo):
    """After a row of tiles only what the next row reaches is held, whatever the size of the block."""
    grid = Grid((160, 64), core, halo, 160 // core * core)
    box = next(iter(grid.blocks())).box
    blend, most = Blend(box, grid, "linear", Host()), 0
    for tile in grid.ring(box):
        shared = tile.outer.meet(box)
        list(blend.add(tile, tile.outer, shared, np.zeros((1, *shared.shape), np.float32)))
        most = max(most, sum(sum_KYX.size for sum_KYX in blend._sums.values()))
        if tile.col == grid.num_cores[1] - 1:
            assert all(y >= (tile.row + 1) * core - halo for y, _ in blend._sums)
    assert 0 < most <= 64 * 2 * halo + 2 * halo * (core + 2 * halo)
