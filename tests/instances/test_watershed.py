"""Touching objects are separated, and objects far from the border of a region do not depend on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction

from pipeline.instances import Region
from pipeline.instances._basins import climb
from pipeline.instances.components import Components
from pipeline.instances.watershed import Watershed
from tests.instances.cells import disks, overlaps, region_of

heights = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=10), elements=st.integers(0, 4))


def climbed_by_hand(heights_YX):
    """The peak above each pixel, by walking from every pixel by itself."""
    height, width = heights_YX.shape

    def key(place):
        return heights_YX[place], -place[0], -place[1]

    def peak(place):
        row, col = place
        around = [(y, x) for y in (row - 1, row, row + 1) for x in (col - 1, col, col + 1) if 0 <= y < height and 0 <= x < width]
        best = max(around, key=key)
        return place if best == place else peak(best)

    return {place: peak(place) for place in np.ndindex(height, width) if heights_YX[place]}


@given(heights)
def test_each_pixel_belongs_to_the_peak_above_it(heights_YX):
    """Basins are those of a walk to the highest neighbour, the first of equals, until no neighbour is higher."""
    found, expected = climb(heights_YX, heights_YX > 0), climbed_by_hand(heights_YX)
    peaks = sorted(set(expected.values()))
    assert [tuple(peak) for peak in found.peaks_N2.tolist()] == peaks
    numbers_YX = np.zeros(heights_YX.shape, int)
    for place, peak in expected.items():
        numbers_YX[place] = peaks.index(peak) + 1
    assert np.array_equal(found.basins_YX, numbers_YX)


@given(heights, st.integers(0, 4))
def test_shallow_basins_are_merged_as_by_reconstruction(heights_YX, depth):
    """Each peak that stands out by more than a depth keeps an object, and no other does: the h-maxima that scikit-image finds."""
    mask_YX = heights_YX > 0
    objects_YX = climb(heights_YX, mask_YX).merged(lambda peak, between, _: peak - between <= depth)
    levels_YX = np.pad(np.where(mask_YX, heights_YX, -10.0), 1, constant_values=-10)  # outside is lower than a peak by more than any depth
    is_maximum_YX = local_maxima(reconstruction(levels_YX - depth - 0.5, levels_YX))[1:-1, 1:-1] & mask_YX
    maxima_YX, count = ndimage.label(is_maximum_YX, np.ones((3, 3)))
    assert len(np.unique(objects_YX[mask_YX])) == count
    assert len(np.unique(objects_YX[maxima_YX > 0])) == count


def test_touching_disks_are_cut_apart():
    """Two disks that overlap are one component and two objects of the watershed, cut where they meet."""
    truth_YX = disks((60, 90), (30, 28, 18), (30, 60, 18))
    region = region_of(truth_YX)
    assert len(Components().label(region).classes_N) == 1
    found = Watershed().label(region)
    assert len(found.classes_N) == 2
    assert overlaps(found.labels_YX, truth_YX).min() > 0.95


def test_one_disk_stays_one():
    """A disk, an ellipse and a square of any size are one object each."""
    rows_YX, cols_YX = np.mgrid[-40:41, -40:41]
    for size in range(1, 40):
        for mask_YX in (np.hypot(rows_YX, cols_YX) <= size, np.hypot(rows_YX, 2 * cols_YX) <= size, abs(rows_YX) + size // 9 <= size):
            found = Watershed().label(Region((mask_YX & (abs(cols_YX) <= size)).astype(np.uint8), (1,)))
            assert found.classes_N.tolist() == [1]


def test_near_peaks_are_one_object():
    """With a least distance above that of two centres, touching disks are one object."""
    region = region_of(disks((60, 90), (30, 28, 18), (30, 60, 18)))
    assert len(Watershed(min_distance=31).label(region).classes_N) == 2
    assert len(Watershed(min_distance=33).label(region).classes_N) == 1


def test_the_probability_cuts_where_the_mask_does_not():
    """A bar is one object by its shape, and two if the probability is low in its middle."""
    mask_YX = np.zeros((20, 60), np.uint8)
    mask_YX[5:15, 5:55] = 1
    sure_YX = np.where(mask_YX, 240, 0).astype(np.uint8)
    sure_YX[:, 28:32] //= 2
    region = Region(mask_YX, (1,), np.stack([255 - sure_YX, sure_YX]))
    assert len(Watershed().label(region).classes_N) == 1
    by_probability = Watershed(height="probability")
    assert by_probability.uses_probs
    assert not Watershed().uses_probs
    found = by_probability.label(region)
    assert found.classes_N.tolist() == [1, 1]
    assert np.unique(found.labels_YX[:, :28]).tolist() == [0, 1]
    assert np.unique(found.labels_YX[:, 32:]).tolist() == [0, 2]


@pytest.mark.parametrize("classes", [(1, 2), (2, 1)])
def test_an_object_has_one_class(classes):
    """Where objects of two classes touch, each pixel stays with its class."""
    region = region_of(disks((60, 90), (30, 28, 18), (30, 60, 18)), classes)
    found = Watershed().label(region)
    assert found.classes_N.tolist() == [1, 2]
    assert np.array_equal(np.concatenate([[0], found.classes_N])[found.labels_YX], region.mask_YX)
