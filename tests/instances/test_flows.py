"""Flows end in the middle of the objects that they came from."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline.instances import Region
from pipeline.instances.flows import Flows, _follow
from tests.instances.cells import dense_cells, disks, overlaps, region_of


def followed_by_hand(flows_DYX, mask_YX, steps):
    """Where each pixel ends after single steps along bilinearly interpolated flows, (N, 2), as Cellpose does it."""
    flows_DYX = flows_DYX * mask_YX
    places_DN = np.array(np.nonzero(mask_YX), float)
    for _ in range(steps):
        places_DN += [ndimage.map_coordinates(flow_YX, places_DN, order=1, mode="nearest") for flow_YX in flows_DYX]
    return places_DN.T


def test_long_ways_end_where_single_steps_end():
    """Paths composed of short ones end within two pixels of where 200 single steps end."""
    region = region_of(dense_cells())
    noise = np.random.default_rng(0).normal(0, 0.2, region.maps["flows"].shape).astype(np.float32)
    flows_DYX, mask_YX = region.maps["flows"] + noise, region.mask_YX > 0
    ends_N2 = np.stack(np.unravel_index(_follow(flows_DYX, mask_YX, 200)[mask_YX], mask_YX.shape), axis=1)
    gaps = np.hypot(*(ends_N2 - followed_by_hand(flows_DYX, mask_YX, 200)).T)
    assert (gaps < 2).mean() > 0.98
    assert np.median(gaps) < 0.8


def test_noisy_flows_find_the_cells():
    """Cells are found from flows with noise; stray ends make no object of more than a few pixels."""
    truth_YX = dense_cells()
    region = region_of(truth_YX)
    noise = np.random.default_rng(1).normal(0, 0.3, region.maps["flows"].shape).astype(np.float32)
    found = Flows().label(Region(region.mask_YX, (1,), maps={**region.maps, "flows": region.maps["flows"] + noise}))
    assert overlaps(found.labels_YX, truth_YX).min() > 0.85
    assert (np.bincount(found.labels_YX.ravel())[1:] >= 15).sum() == truth_YX.max()


def test_holes_of_objects_are_filled():
    """A hole in an object is filled if asked; a hole between two objects is not."""
    truth_YX = disks((60, 90), (30, 28, 18), (30, 60, 18))
    region = region_of(truth_YX)
    probability_1YX = region.maps["cell_probability"].copy()
    probability_1YX[0, 29:32, 27:30] = 0
    holed = Region(region.mask_YX, (1,), maps={**region.maps, "cell_probability": probability_1YX})
    assert not Flows().label(holed).labels_YX[30, 28]
    filled_YX = Flows(fill_holes=3).label(holed).labels_YX
    assert np.array_equal(filled_YX > 0, truth_YX > 0)
    assert np.array_equal(Flows(fill_holes=2).label(holed).labels_YX > 0, probability_1YX[0] > 0)


def test_only_probable_pixels_of_wanted_classes_are_objects():
    """A pixel below the threshold, or of another class, belongs to no object."""
    truth_YX = disks((40, 80), (20, 20, 12), (20, 55, 12))
    region = region_of(truth_YX, [1, 2])
    maps = {**region.maps, "cell_probability": region.maps["cell_probability"] * 0.6}
    assert not Flows(threshold=0.7).label(Region(region.mask_YX, (1,), maps=maps)).labels_YX.any()
    assert np.array_equal(Flows().label(Region(region.mask_YX, (1,), maps=maps)).labels_YX > 0, truth_YX == 1)
