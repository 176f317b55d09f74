"""What every method promises: it is pure, numbers objects without gaps, and finds the same object wherever a region begins."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipeline.geometry import Box
from pipeline.instances import Labels, Region
from tests.instances.cells import METHODS, SPLITTERS, cut, dense_cells, disks, overlaps, region_of

each = pytest.mark.parametrize("name", METHODS)
splitters = pytest.mark.parametrize("name", SPLITTERS)


@pytest.fixture(scope="module")
def dense():
    """Cells that touch each other, and the region that a perfect model gives, with some noise."""
    truth_YX = dense_cells()
    region = region_of(truth_YX)
    random = np.random.default_rng(0)
    for name in ("interior", "object_probability", "distances", "flows", "horizontal_vertical"):
        values_DYX = region.maps[name]
        values_DYX += random.normal(0, 0.05, values_DYX.shape).astype(np.float32) * (values_DYX != 0)
    return truth_YX, region


def assert_is_sound(found, region):
    """Labels are numbered without gaps, each with a wanted class."""
    assert found.labels_YX.dtype == found.classes_N.dtype == np.int32
    assert found.labels_YX.shape == region.mask_YX.shape
    assert np.array_equal(np.unique(found.labels_YX[found.labels_YX > 0]), np.arange(1, len(found.classes_N) + 1))
    assert set(found.classes_N.tolist()) <= set(region.classes)


@splitters
def test_touching_cells_are_found(name, dense):
    """Cells that touch are found one by one, nearly pixel by pixel."""
    truth_YX, region = dense
    found = METHODS[name].label(region)
    assert_is_sound(found, region)
    assert len(Labels.by_majority(ndimage.label(truth_YX, np.ones((3, 3)))[0], region).classes_N) < truth_YX.max() * 0.8
    ious = overlaps(found.labels_YX, truth_YX)
    assert (ious > 0.9).all()


@each
def test_a_method_is_pure(name, dense):
    """The same region gives the same labels, and is left as it was."""
    _, region = dense
    before = {"mask": region.mask_YX.copy()} | {key: values.copy() for key, values in region.maps.items()}
    first, second = METHODS[name].label(region), METHODS[name].label(region)
    assert np.array_equal(first.labels_YX, second.labels_YX)
    assert np.array_equal(first.classes_N, second.classes_N)
    assert np.array_equal(region.mask_YX, before.pop("mask"))
    assert all(np.array_equal(region.maps[key], values) for key, values in before.items())


@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (1, 0, 17, 3), (13, 22, 0, 0), (30, 7, 9, 26)])
@each
def test_an_object_is_the_same_in_each_region_that_sees_it(name, margins, dense):
    """Objects that lie far from what a smaller region cuts off have the same pixels there as in the whole."""
    _, region = dense
    top, left, below, right = margins
    box = Box(top, left, 170 - below, 170 - right)
    part_YX = METHODS[name].label(cut(region, box)).labels_YX
    whole_YX = METHODS[name].label(region).labels_YX[box.slices]
    # A component is judged by the pixels that it touches, the other objects by a cell's diameter around them.
    margin = 1 if name == "components" else 26
    compared = 0
    for number in np.unique(part_YX[part_YX > 0]):
        one_YX = part_YX == number
        rows, cols = np.nonzero(one_YX)
        if min(rows.min(), cols.min(), box.shape[0] - 1 - rows.max(), box.shape[1] - 1 - cols.max()) >= margin:
            assert np.array_equal(one_YX, whole_YX == whole_YX[one_YX][0])
            compared += 1
    assert compared > (0 if name == "components" else 3)


@each
def test_nothing_gives_no_object(name):
    """A region without a pixel of a wanted class has no object, and so has a region of one pixel."""
    for shape in ((40, 50), (1, 1), (1, 30)):
        found = METHODS[name].label(region_of(np.zeros(shape, int)))
        assert not found.labels_YX.any()
        assert found.classes_N.shape == (0,)


@each
def test_a_whole_region_is_one_object(name):
    """If everything is one object, it has every pixel of the region."""
    region = region_of(np.ones((41, 47), int))
    found = METHODS[name].label(region)
    assert found.classes_N.tolist() == [1]
    assert (found.labels_YX == 1).mean() > (0.9 if name == "radial" else 0.999)


@each
def test_objects_of_one_pixel_are_objects(name):
    """Single pixels, also in the corner, are found; how large objects must be is decided later."""
    truth_YX = np.zeros((30, 40), int)
    truth_YX[[0, 10, 20], [0, 15, 30]] = [1, 2, 3]
    found = METHODS[name].label(region_of(truth_YX))
    assert np.array_equal(found.labels_YX > 0, truth_YX > 0)
    assert len(found.classes_N) == 3


@each
def test_classes_are_told_apart(name):
    """Each object has its class; objects of classes that are not wanted are left out."""
    truth_YX = disks((80, 120), (20, 20, 12), (20, 60, 12), (60, 30, 12), (60, 90, 12))
    region = region_of(truth_YX, [1, 2, 3, 2])
    region = Region(region.mask_YX, (1, 2), region.probs_KYX, region.maps)
    found = METHODS[name].label(region)
    assert_is_sound(found, region)
    classes_YX = np.concatenate([[0], found.classes_N])[found.labels_YX]
    assert [classes_YX[place] for place in ((20, 20), (20, 60), (60, 30), (60, 90))] == [1, 2, 0, 2]


@pytest.mark.parametrize("name", ["border", "radial", "flows", "hover"])
def test_the_most_frequent_class_wins(name):
    """An object of several classes has that of most of its pixels, and the lowest where two have as many."""
    truth_YX = disks((50, 50), (25, 25, 15))
    region = region_of(truth_YX)
    for columns, expected in ((20, 2), (31, 1)):
        mask_YX = np.where(truth_YX > 0, np.where(np.arange(50) < columns, 1, 2), 0).astype(np.uint8)
        found = METHODS[name].label(Region(mask_YX, (2, 1), region.probs_KYX, region.maps))
        assert found.classes_N.tolist() == [expected]
    halves = Labels.by_majority(np.array([[1, 1, 0]]), Region(np.array([[2, 1, 0]], np.uint8), (2, 1)))
    assert halves.classes_N.tolist() == [1]
