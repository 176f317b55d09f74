"""Star-convex polygons: points inside, choice among overlapping ones, drawing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.draw import polygon as draw_polygon
from skimage.measure import points_in_poly

from pipeline.errors import InputError
from pipeline.instances import Region
from pipeline.instances.radial import Radial, _Polygons
from pipeline.plugins import build
from tests.instances.cells import RAYS, dense_cells, overlaps, region_of


def corners_of(center, distances_R):
    """Row and column of the corners, by StarDist's convention."""
    angles = np.arange(len(distances_R)) * 2 * np.pi / len(distances_R)
    return np.asarray(center) + np.stack([np.sin(angles), np.cos(angles)], axis=1) * np.asarray(distances_R)[:, None]


def pair(random, far):
    """Two polygons of random size, near each other."""
    centers_N2 = np.array([(80, 80), (80 + random.integers(-far, far + 1), 80 + random.integers(-far, far + 1))])
    sizes_N1 = random.uniform(6, 25, (2, 1))
    return _Polygons(centers_N2, (sizes_N1 * random.uniform(0.7, 1.3, (2, RAYS))).astype(np.float32))


@given(st.integers(0, 10_000), st.integers(3, 40))
def test_inside_is_what_the_corners_enclose(seed, num_rays):
    """Points lie inside a polygon as scikit-image says, for any number of rays from 3."""
    random = np.random.default_rng(seed)
    distances_NR = random.uniform(2, 30, (1, num_rays)).astype(np.float32)
    points_P2 = random.uniform(-32, 32, (200, 2)).astype(np.float32)
    found = _Polygons(np.zeros((1, 2), int), distances_NR).contain(np.array([0]), points_P2[None])[0]
    expected = points_in_poly(points_P2, corners_of((0, 0), distances_NR[0]))
    assert (found == expected).mean() > 0.99


@pytest.mark.parametrize("seed", range(40))
def test_overlap_is_the_share_of_the_smaller_polygon(seed):
    """The overlap of two polygons is about that of their drawn pixels, the smaller one being the whole."""
    polygons = pair(np.random.default_rng(seed), far=25)
    drawn = []
    for center, distances_R in zip(polygons.centers_N2, polygons.distances_NR, strict=True):
        one_YX = np.zeros((160, 160), bool)
        one_YX[draw_polygon(*corners_of(center, distances_R).T, one_YX.shape)] = True
        drawn.append(one_YX)
    expected = (drawn[0] & drawn[1]).sum() / min(one_YX.sum() for one_YX in drawn)
    assert abs(polygons.overlaps(0, np.array([1]))[0] - expected) < 0.09
    assert abs(polygons.overlaps(1, np.array([0]))[0] - expected) < 0.09


def proposals(*cells, shape=(60, 80)):
    """A region with few proposals: row, column, probability and radius of each."""
    probability_YX, distances_RYX = np.zeros(shape, np.float32), np.zeros((RAYS, *shape), np.float32)
    for row, col, probability, radius in cells:
        probability_YX[row, col], distances_RYX[:, row, col] = probability, radius
    maps = {"object_probability": probability_YX[None], "distances": distances_RYX}
    return Region(np.ones(shape, np.uint8), (1,), maps=maps)


def test_the_most_probable_polygon_is_kept():
    """Of polygons that overlap much, the most probable one is kept; those that overlap little are kept both, the best one on top."""
    labels_YX = Radial().label(proposals((30, 30, 0.8, 10), (30, 34, 0.9, 10), (30, 50, 0.6, 9))).labels_YX
    assert labels_YX.max() == 2
    assert labels_YX[30, 21] == 0
    assert labels_YX[30, 25] == labels_YX[30, 43] == 1
    assert labels_YX[30, 55] == 2
    assert abs((labels_YX == 1).sum() - 16 * np.sin(np.pi / 16) * 100) < 6  # the area of a polygon of 32 corners and radius 10


def test_of_equal_proposals_the_first_is_kept():
    """Where proposals are equally probable, the first in row-major order is kept."""
    labels_YX = Radial().label(proposals((31, 30, 0.9, 10), (30, 33, 0.9, 10))).labels_YX
    assert labels_YX[30, 43] == 1
    assert labels_YX[31, 20] == 0


def test_a_small_object_inside_a_large_one_is_the_same():
    """A polygon that lies in a larger one is left out if it is less probable, and the larger one if it is."""
    for probability, size in ((0.6, 900), (0.95, 40)):
        labels_YX = Radial().label(proposals((30, 40, 0.9, 18), (34, 44, probability, 3))).labels_YX
        assert labels_YX.max() == 1
        assert abs((labels_YX > 0).sum() - size) < 150


def test_a_coarse_grid_finds_the_same_cells():
    """Every second row and column is enough for cells of twenty pixels; a halo that would move the grid is refused."""
    truth_YX = dense_cells()
    found = Radial(grid=2).label(region_of(truth_YX))
    assert overlaps(found.labels_YX, truth_YX).min() > 0.85
    with pytest.raises(InputError, match=r"instances\.halo: found 33; expected a multiple of grid, which is 2"):
        build("instances", {"name": "radial", "grid": 2, "halo": 33}, "instances")


def test_impossible_distances_do_no_harm():
    """Distances that are NaN, infinite or negative make small or large polygons, and no error."""
    region = proposals((30, 40, 0.9, np.nan), (10, 10, 0.8, -5), (50, 70, 0.7, np.inf))
    labels_YX = Radial(halo=16).label(region).labels_YX
    assert labels_YX[30, 40] == 1
    assert labels_YX[10, 10] == 2
    assert (labels_YX == 3).any()
    assert (labels_YX < 3).sum() > labels_YX.size / 2
