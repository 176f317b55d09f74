"""Nuclei are cut where the maps of places fall, as the published decoding cuts them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label as connected
from skimage.morphology import opening, remove_small_objects
from skimage.segmentation import watershed

from pipeline.errors import InputError
from pipeline.instances import Region
from pipeline.instances.hover import Hover, _sobel
from pipeline.plugins import build
from tests.instances.cells import dense_cells, disks, overlaps, region_of

ELLIPSE = np.array([[0, 0, 1, 0, 0], [1] * 5, [1] * 5, [1] * 5, [0, 0, 1, 0, 0]])  # OpenCV's ellipse of 5 pixels


def as_published(region, kernel):
    """The decoding of HoVer-Net's authors (`__proc_np_hv`), step by step, with scikit-image in OpenCV's place."""

    def scaled(values_YX):
        return (values_YX - values_YX.min()) / np.ptp(values_YX)

    inside_YX = remove_small_objects(region.maps["nuclear_pixels"][0] >= 0.5, max_size=9)
    smooth, derive = _sobel(kernel)
    edges = []
    for map_YX, axis in zip(region.maps["horizontal_vertical"], (1, 0), strict=True):
        falling_YX = ndimage.correlate1d(ndimage.correlate1d(scaled(map_YX), smooth, 1 - axis, mode="mirror"), derive, axis, mode="mirror")
        edges.append(1 - scaled(falling_YX))
    edges_YX = np.maximum(np.maximum(*edges) - (1 - inside_YX), 0)
    heights_YX = ndimage.gaussian_filter((1 - edges_YX) * inside_YX, 0.8, truncate=1.25)
    markers_YX = np.maximum(inside_YX.astype(int) - (edges_YX >= 0.4), 0)
    markers_YX = opening(ndimage.binary_fill_holes(markers_YX), ELLIPSE)
    markers_YX = connected(remove_small_objects(markers_YX > 0, max_size=9), connectivity=1)
    return watershed(-heights_YX, markers_YX, mask=inside_YX)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [0, 0.1])
def test_nuclei_are_those_of_the_published_decoding(seed, noise):
    """Touching nuclei of usual sizes are the same ones, nearly pixel by pixel."""
    region = region_of(dense_cells(seed=seed))
    random = np.random.default_rng(seed)
    places_2YX = region.maps["horizontal_vertical"]
    places_2YX += random.normal(0, noise, places_2YX.shape).astype(np.float32)
    expected_YX = as_published(region, 11)
    found = Hover(kernel=11, min_area=10).label(region)
    assert len(found.classes_N) == expected_YX.max()
    assert overlaps(found.labels_YX, expected_YX).min() > 0.9


def test_other_content_changes_no_nucleus():
    """Two touching nuclei are cut alike beside nothing and beside a steep edge, to which the published decoding scales its own."""
    pair_YX = disks((80, 160), (40, 30, 16), (40, 58, 16))
    beside_YX = np.maximum(pair_YX, 3 * (disks((80, 160), (40, 120, 4)) > 0))
    alone, both = (Hover(kernel=11).label(region_of(truth_YX)).labels_YX for truth_YX in (pair_YX, beside_YX))
    assert np.array_equal(alone[:, :90], both[:, :90])
    assert overlaps(alone, pair_YX).min() > 0.9


def test_a_small_nucleus_is_found():
    """A nucleus too small for a marker is one object; the published decoding has none there."""
    truth_YX = disks((60, 90), (30, 25, 14), (30, 70, 3))
    region = region_of(truth_YX)
    assert np.array_equal(Hover(kernel=11).label(region).labels_YX > 0, truth_YX > 0)
    assert not as_published(region, 11)[30, 70]


def test_only_probable_pixels_of_wanted_classes_are_nuclei():
    """Pixels at the threshold or below belong to no nucleus, and a nucleus of another class is left out."""
    truth_YX = disks((40, 80), (20, 20, 12), (20, 55, 12))
    region = region_of(truth_YX, [1, 2])
    weak = Region(region.mask_YX, (1,), maps={**region.maps, "nuclear_pixels": region.maps["nuclear_pixels"] * 0.6})
    assert not Hover(threshold=0.7, kernel=11).label(weak).labels_YX.any()
    assert np.array_equal(Hover(kernel=11).label(weak).labels_YX > 0, truth_YX == 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kernel": 8}, "kernel: found 8; expected an odd number"), ({"halo": 20}, "halo: found 20; expected at least 36")],
)
def test_an_operator_that_cannot_be_applied_is_refused(options, message):
    """An even side has no middle, and a halo must hold what edges depend on."""
    with pytest.raises(InputError, match=message):
        build("instances", {"name": "hover", **options})
