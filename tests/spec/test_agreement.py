"""Overlap agreement: every pixel that two neighbouring tiles of a block predict is compared once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tiling.agreement import Agreement
from pipeline.tiling.array_ops import NumpyOps
from pipeline.tiling.grid import Grid


def brute_force(grid, box, seen, classes, valid):
    """Compare valid pixels one by one: over the halo on both sides of each border, along the cores that it divides."""
    tiles = {(tile.row, tile.col): tile for tile in grid.tiles(box)}
    equal = pixels = 0
    for (row, col), tile in tiles.items():
        for other in ((row, col + 1), (row + 1, col)):
            if other not in tiles:
                continue
            beside = other[0] == row
            for y in range(box.y0, box.y1):
                for x in range(box.x0, box.x1):
                    inside = (tile.core.y0 <= y < tile.core.y1) if beside else (tile.core.x0 <= x < tile.core.x1)
                    reach = tile.core.y0 - seen[row, col].y0
                    near = abs(x + 0.5 - tile.core.x1) < reach if beside else abs(y + 0.5 - tile.core.y1) < reach
                    if inside and near and valid[y - box.y0, x - box.x0]:
                        one, two = (classes[key][y - seen[key].y0, x - seen[key].x0] for key in ((row, col), other))
                        pixels += 1
                        equal += one == two
    return equal, pixels


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    core=st.integers(3, 12),
    halo=st.integers(0, 3),
    margin=st.integers(0, 3),
    cores=st.integers(1, 3),
    seed=st.integers(0, 99),
    holes=st.booleans(),
)
def test_agreement_is_that_of_every_shared_pixel(shape, core, halo, margin, cores, seed, holes):
    """Whatever the cut, valid padding included; pixels without data are not compared."""
    margin = min(margin, halo)
    grid = Grid(shape, core, halo, core * cores)
    box = next(grid.blocks())
    rng = np.random.default_rng(seed)
    valid = rng.random(box.shape) < (0.7 if holes else 1)
    agreement, seen, classes = Agreement(box, NumpyOps(), valid if holes else None), {}, {}
    for tile in grid.tiles(box):
        key = tile.row, tile.col
        seen[key] = tile.outer.grow(-margin)
        classes[key] = rng.integers(0, 2, seen[key].shape)
        shared = seen[key].intersection(box)
        agreement.add(tile, seen[key], shared, classes[key][shared.relative_to(seen[key]).slices].astype(np.uint8))
    assert (agreement.equal, agreement.pixels) == brute_force(grid, box, seen, classes, valid)
