"""Every pixel has one owner, and every tile lies on the stride."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.geometry import Box
from pipeline.tiling.grid import Grid


@st.composite
def grids(draw, most=70, *, full=False):
    """Any image down to 1x1, any stride, cores and blocks larger or smaller than the image, halos up to beyond it."""
    stride = draw(st.sampled_from([1, 2, 4, 8]))
    core = stride * draw(st.integers(1, 6))
    shape = draw(st.integers(1, most)), draw(st.integers(1, most))
    grid = Grid(shape, core, stride * draw(st.integers(0, 12)), core * draw(st.integers(1, 4)), stride, full=full)
    assume(grid.num_cores[0] * grid.num_cores[1] < 600)
    return grid


def tiles_of(grid):
    return [tile for box in grid.blocks() for tile in grid.tiles(box)]


def painted(shape, boxes):
    """How often each pixel lies in one of the boxes; a box that leaves the image is an error."""
    count_YX = np.zeros(shape, int)
    for box in boxes:
        assert Box(0, 0, *shape).intersection(box) == box, f"{box} leaves {shape}"
        count_YX[box.slices] += 1
    return count_YX


@given(grids())
def test_every_pixel_is_in_one_core_and_one_block(grid):
    """Cores partition the image, and so do blocks; none is empty, none leaves the image."""
    boxes, tiles = list(grid.blocks()), tiles_of(grid)
    assert (painted(grid.shape, boxes) == 1).all()
    assert (painted(grid.shape, [tile.core for tile in tiles]) == 1).all()
    assert len(boxes) == grid.num_blocks[0] * grid.num_blocks[1]
    assert len(tiles) == len({(tile.row, tile.col) for tile in tiles}) == grid.num_cores[0] * grid.num_cores[1]


@given(grids())
def test_blocks_are_whole_cores(grid):
    """The cores of a block's tiles are exactly the block."""
    for box in grid.blocks():
        count_YX = painted(grid.shape, [tile.core for tile in grid.tiles(box)])
        assert (count_YX[box.slices] == 1).all()
        assert count_YX.sum() == box.area
        assert box == grid.block_box(box.y0 // grid.block, box.x0 // grid.block)


@given(grids())
def test_tiles_lie_on_the_stride(grid):
    """Origins and sides of every outer are multiples of the stride, and the outer holds the core with a halo all around."""
    for tile in tiles_of(grid):
        assert all(at % grid.stride == 0 for at in (*(tile.outer.y0, tile.outer.x0), *tile.outer.shape))
        assert tile.outer.intersection(tile.core.grow(grid.halo)) == tile.core.grow(grid.halo)
        assert all(side <= grid.core + 2 * grid.halo for side in tile.outer.shape)
        # Beyond core and halo an edge tile holds less than one stride.
        assert all(outer - core - 2 * grid.halo < grid.stride for outer, core in zip(tile.outer.shape, tile.core.shape, strict=True))


@settings(deadline=None)
@given(grids(full=True))
def test_full_tiles_are_all_of_one_size(grid):
    """For a model of one size, edge tiles are as large as all others; cores, owners and origins are those of clipped tiles."""
    clipped = Grid(grid.shape, grid.core, grid.halo, grid.block, grid.stride)
    for tile, other in zip(tiles_of(grid), tiles_of(clipped), strict=True):
        assert tile.outer.shape == (grid.core + 2 * grid.halo,) * 2
        assert (tile.row, tile.col, tile.core) == (other.row, other.col, other.core)
        assert (tile.outer.y0, tile.outer.x0) == (other.outer.y0, other.outer.x0)
        assert tile.outer.intersection(other.outer) == other.outer


@given(grids())
def test_a_tile_does_not_depend_on_its_block(grid):
    """The same core and halo give the same tiles, however they are gathered into blocks."""
    other = Grid(grid.shape, grid.core, grid.halo, grid.core, grid.stride)
    assert set(tiles_of(grid)) == set(tiles_of(other))


@pytest.mark.parametrize(
    ("core", "halo", "block", "stride", "shape"),
    [(0, 0, 8, 1, (5, 5)), (8, -1, 8, 1, (5, 5)), (8, 0, 12, 1, (5, 5)), (9, 0, 9, 2, (5, 5)), (8, 3, 8, 2, (5, 5)), (8, 0, 8, 1, (0, 5))],
)
def test_a_cut_that_breaks_the_promises_is_refused(core, halo, block, stride, shape):
    """Sides must be positive, core and halo multiples of the stride, blocks whole cores."""
    with pytest.raises(ValueError, match="must be"):
        Grid(shape, core, halo, block, stride)
