"""Components are those of the whole image for any filling, smoothing and cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.instances import Region
from pipeline.instances._foreground import fill_holes, open_by_disk
from pipeline.instances.components import Components
from pipeline.plugins import build

masks = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=st.integers(0, 3))
STRUCTURES = {4: ndimage.generate_binary_structure(2, 1), 8: ndimage.generate_binary_structure(2, 2)}


def have_same_objects(one_YX, other_YX):
    """Whether two label images are equal up to the numbers of the objects."""
    pairs = np.unique(np.stack([one_YX.ravel(), other_YX.ravel()]), axis=1)
    return np.array_equal(one_YX > 0, other_YX > 0) and len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@given(masks, st.sampled_from([4, 8]))
def test_components_are_those_of_scipy(mask_YX, connectivity):
    """Each class has the components that scipy finds, and no object has two classes."""
    found = Components(connectivity=connectivity).label(Region(mask_YX, (1, 3)))
    for class_id in (1, 3):
        expected_YX, count = ndimage.label(mask_YX == class_id, STRUCTURES[connectivity])
        of_class_YX = np.where(mask_YX == class_id, found.labels_YX, 0)
        assert np.array_equal(np.unique(of_class_YX[of_class_YX > 0]), np.flatnonzero(found.classes_N == class_id) + 1)
        assert (found.classes_N == class_id).sum() == count
        assert have_same_objects(of_class_YX, expected_YX)
    assert not found.labels_YX[(mask_YX != 1) & (mask_YX != 3)].any()


def holes_by_hand(ids_YX, size):
    """Each hole that is small and has one id on all sides, by looking at every group."""
    filled_YX = ids_YX.copy()
    groups_YX, count = ndimage.label(ids_YX == 0)
    for group in range(1, count + 1):
        hole_YX = groups_YX == group
        rows, cols = np.nonzero(hole_YX)
        ring_YX = ndimage.binary_dilation(np.pad(hole_YX, 1)) & ~np.pad(hole_YX, 1)
        around = set(np.pad(ids_YX, 1)[ring_YX].tolist())
        if max(np.ptp(rows), np.ptp(cols)) < size and len(around) == 1 and around != {0}:
            filled_YX[hole_YX] = around.pop()
    return filled_YX


@given(masks, st.integers(0, 4))
def test_small_holes_get_the_id_around_them(mask_YX, size):
    """A hole is filled if it is small, lies inside the array, and touches one id by its sides."""
    ids_YX = mask_YX.astype(np.int32)
    before_YX = ids_YX.copy()
    assert np.array_equal(fill_holes(ids_YX, size), holes_by_hand(ids_YX, size))
    assert np.array_equal(ids_YX, before_YX)


@given(masks, st.integers(1, 3))
def test_thin_parts_are_left_out(mask_YX, radius):
    """Smoothing is the opening by a disk; outside the array is background."""
    disk_YX = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    expected_YX = ndimage.binary_opening(np.pad(mask_YX > 0, 2 * radius), disk_YX)[2 * radius : -2 * radius, 2 * radius : -2 * radius]
    assert np.array_equal(open_by_disk(mask_YX > 0, radius), expected_YX)


@settings(max_examples=60)
@given(
    arrays(np.uint8, (20, 23), elements=st.sampled_from([0, 1, 1, 1, 2])),
    st.sampled_from([(0, 0), (3, 0), (0, 1), (2, 1)]),
    st.sampled_from([4, 8]),
    st.integers(2, 11),
)
def test_any_cut_gives_the_components_of_the_whole(mask_YX, options, connectivity, core):
    """Labels of blocks that share a pixel, joined, are the components of the whole image, holes and thin parts included."""
    fill, smooth = options
    halo = 1 + fill + 2 * smooth
    method = Components(connectivity=connectivity, fill_holes=fill, smooth=smooth, halo=halo)
    height, width = mask_YX.shape
    parts, owned_YX, total = [], np.zeros(mask_YX.shape, int), 0
    for y, x in ((y, x) for y in range(0, height, core) for x in range(0, width, core)):
        box = Box(max(y - halo, 0), max(x - halo, 0), min(y + core + halo, height), min(x + core + halo, width))
        labels_YX = method.label(Region(mask_YX[box.slices], (1, 2))).labels_YX
        part_YX = np.zeros(mask_YX.shape, int)
        part_YX[box.slices] = np.where(labels_YX, labels_YX + total, 0)
        owned_YX[y : y + core, x : x + core] = part_YX[y : y + core, x : x + core]
        parts.append(part_YX)
        total += labels_YX.max()
    links = np.zeros((total + 1, total + 1), bool)
    for part_YX in parts:
        shared_YX = (part_YX > 0) & (owned_YX > 0)
        links[part_YX[shared_YX], owned_YX[shared_YX]] = True
    joined = connected_components(links, directed=False)[1] + 1
    joined_YX = np.where(owned_YX, joined[owned_YX], 0)
    assert have_same_objects(joined_YX, method.label(Region(mask_YX, (1, 2))).labels_YX)


@pytest.mark.parametrize("name", ["components", "border", "watershed"])
def test_a_halo_that_is_too_small_is_refused(name):
    """The halo must hold what filling and smoothing look at; the message says how much."""
    with pytest.raises(InputError, match=r"instances\.halo: found 5; expected at least 8\. Set halo to 8"):
        build("instances", {"name": name, "fill_holes": 3, "smooth": 2, "halo": 5}, "instances")
    assert build("instances", {"name": name, "fill_holes": 3, "smooth": 2, "halo": 8}, "instances").halo == 8
