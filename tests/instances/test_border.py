"""Touching objects are separated where the interior probability is low."""

from __future__ import annotations

import numpy as np

from pipeline.instances import Region
from pipeline.instances.border import Border
from pipeline.instances.watershed import Watershed
from tests.instances.cells import dense_cells, overlaps, region_of


def bar(interior_at_the_cut):
    """Two boxes side by side, whose shape does not tell where one ends."""
    mask_YX = np.zeros((24, 70), np.uint8)
    mask_YX[6:18, 5:65] = 1
    interior_YX = mask_YX.astype(np.float32)
    interior_YX[:, 34:36] = interior_at_the_cut
    return Region(mask_YX, (1,), maps={"interior": interior_YX[None]})


def test_a_border_cuts_what_the_shape_does_not():
    """A bar is two objects where the interior is interrupted, each with its half of the border."""
    assert len(Watershed().label(bar(0)).classes_N) == 1
    labels_YX = Border().label(bar(0)).labels_YX
    assert np.unique(labels_YX[6:18, 5:34]).tolist() == [1]
    assert np.unique(labels_YX[6:18, 36:65]).tolist() == [2]
    assert (labels_YX[6:18, 5:65] > 0).all()


def test_depth_says_how_much_of_a_border_is_needed():
    """A weak border separates objects only if ``depth`` is small."""
    assert len(Border(depth=0.1).label(bar(0.7)).classes_N) == 2
    assert len(Border(depth=0.5).label(bar(0.7)).classes_N) == 1


def test_maps_of_half_precision_and_beyond_the_range():
    """Maps as they are stored, float16, and values a little beyond 0 and 1 give the same objects."""
    truth_YX = dense_cells(side=120)
    region = region_of(truth_YX)
    stored = {"interior": (region.maps["interior"] * 1.02 - 0.01).astype(np.float16)}
    found = Border().label(Region(region.mask_YX, (1,), maps=stored))
    assert overlaps(found.labels_YX, truth_YX).min() > 0.9
