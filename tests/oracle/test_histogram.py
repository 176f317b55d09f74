"""Thresholds against brute force and scikit-image, and over images cut into blocks."""

from __future__ import annotations

import itertools
from importlib.metadata import distribution

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut, camera
from skimage.filters import threshold_multiotsu, threshold_otsu

from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.models.classical.thresholds import otsu_thresholds
from pipeline.plugins import build
from pipeline.statistics import Histogram, decode_summary, encode_summary


def fitted(pixels_CYX, valid_YX=None, **options):
    """A model of these options, and what it finds for one image."""
    model = build("models", {"name": "histogram", **options})
    fitter = model.fitter()
    return model, fitter.fit(fitter.observe(pixels_CYX, valid_YX, Box(0, 0, *pixels_CYX.shape[1:]), 0))


def segmented(pixels_CYX, **options):
    """Classes (Y, X) of one image."""
    model, fit = fitted(pixels_CYX, **options)
    with model.open(Recipe()) as predict:
        return predict(pixels_CYX[None], [{"model": fit}])[0]


def variance_between(counts, values, cuts):
    """What Otsu maximises, written down as the definition has it."""
    mean = np.average(values, weights=counts)
    parts = [part for part in np.split(np.arange(len(counts)), cuts) if counts[part].sum()]
    return sum(counts[part].sum() * (np.average(values[part], weights=counts[part]) - mean) ** 2 for part in parts)


@given(st.lists(st.integers(0, 50), min_size=6, max_size=14).filter(lambda counts: np.count_nonzero(counts) > 5), st.integers(2, 5))
@settings(deadline=None, max_examples=60)
def test_no_other_cut_is_better(counts, classes):
    """No choice of thresholds has a larger variance between classes, by trying all of them."""
    counts, values = np.array(counts), np.arange(float(len(counts)))
    found = otsu_thresholds(counts, values, values, classes)
    reached = variance_between(counts, values, found.astype(int) + 1)
    best = max(variance_between(counts, values, cuts) for cuts in itertools.combinations(range(1, len(counts)), classes - 1))
    assert reached == pytest.approx(best)


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_agrees_with_scikit_image(classes):
    """On a small 8-bit image the thresholds are scikit-image's."""
    expected = [threshold_otsu(camera())] if classes == 2 else threshold_multiotsu(camera(), classes)
    assert fitted(camera()[None], classes=classes)[1]["thresholds"] == list(expected)


def test_counts_of_a_gigapixel_stay_exact():
    """Ten thousand times the pixels give the same threshold; sums in float32 would not."""
    values = np.arange(65536.0)
    peaks = sum(weight * np.exp(-0.5 * ((values - centre) / 6000) ** 2) for weight, centre in ((0.7, 20000), (0.3, 40000)))
    counts = np.round(peaks * 30).astype(np.int64) + 1
    few, many = (otsu_thresholds(counts * factor, values, values, 2)[0] for factor in (1, 10_000))
    assert few == many


def test_mean_of_channels_is_exact():
    """The threshold of an RGB image is that of its mean, not of a rounded mean; a channel can be chosen instead."""
    pixels_CYX = astronaut().transpose(2, 0, 1)
    assert fitted(pixels_CYX)[1]["thresholds"] == [threshold_otsu(pixels_CYX.sum(0, dtype=np.int32)) / 3]
    assert fitted(pixels_CYX, channel=1)[1]["thresholds"] == [threshold_otsu(pixels_CYX[1])]
    above = pixels_CYX.sum(0, dtype=np.int64) > threshold_otsu(pixels_CYX.sum(0, dtype=np.int32))
    assert np.array_equal(segmented(pixels_CYX), above)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint16", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3])
def test_two_values_are_two_classes(dtype, channels):
    """An image of two values is cut between them, in any type, also where only one of three classes is left empty."""
    low, high = (0, 1) if dtype == "bool" else (3, 90)
    plane = np.where(np.arange(48).reshape(6, 8) < 20, low, high).astype(dtype)
    pixels_CYX = np.repeat(plane[None], channels, axis=0)
    for classes in (2, 3):
        assert np.array_equal(segmented(pixels_CYX, classes=classes), plane == high)


def test_close_floats_are_told_apart():
    """Fractions that share no bin are cut exactly between bins, negative ones too."""
    plane = np.where(np.arange(48).reshape(6, 8) < 20, -0.9, 0.1).astype(np.float32)
    assert np.array_equal(segmented(plane[None]), plane > 0)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_constant_image_is_class_0(classes):
    """One value is one class, without an error."""
    assert not segmented(np.full((1, 4, 5), 7, np.uint16), classes=classes).any()


def test_blocks_add_up_to_the_image():
    """Summaries of blocks, packed and unpacked, in any order, fit what the whole image fits; invalid pixels and NaN count nowhere."""
    pixels_CYX = np.random.default_rng(0).normal(size=(1, 40, 60)).astype(np.float32)
    valid_YX = np.ones((40, 60), bool)
    valid_YX[:5] = False
    fitter = build("models", {"name": "histogram", "classes": 3}).fitter()
    whole = fitter.fit(fitter.observe(pixels_CYX[:, 5:], None, Box(5, 0, 40, 60), 0))
    spoilt = pixels_CYX.copy()
    spoilt[:, :3], spoilt[:, 3:5] = np.nan, 1e6
    boxes = [Box(0, 0, 17, 60), Box(17, 0, 40, 33), Box(17, 33, 40, 60)]
    parts = [decode_summary(encode_summary(fitter.observe(spoilt[:, *box.slices], valid_YX[box.slices], box, 0))) for box in boxes]
    assert fitter.fit(fitter.merge(fitter.merge(parts[2], parts[0]), parts[1])) == whole


def test_sixteen_bit_multi_otsu_is_binned():
    """More than 4096 different values are gathered first; the thresholds are those of all values within a bin's width."""
    rng = np.random.default_rng(0)
    pixels = np.concatenate([rng.normal(centre, 900, 3000) for centre in (9000, 30000, 52000)]).clip(0, 65535).astype(np.uint16)
    found = fitted(pixels.reshape(1, 90, 100), classes=3)[1]["thresholds"]
    exact = threshold_multiotsu((pixels // 64).reshape(90, 100), 3) * 64.0
    assert np.abs(np.array(found) - exact).max() < 1500
    assert [int((pixels <= cut).sum()) for cut in found] == [3000, 6000]


def test_channel_out_of_range_is_refused():
    """A channel that the image does not have is the user's error, with the range."""
    with pytest.raises(InputError, match=r"model.channel: found 3; expected 0..1"):
        fitted(np.zeros((2, 4, 4), np.uint8), channel=3)


def test_tops_bound_their_bins():
    """A bin's top is its largest value: of that bin, and the next float of the next."""
    bins = Histogram("float32")
    for value in np.array([-7.3, -1e-30, 0.0, 0.25, 3e8], np.float32):
        top = np.float32(bins.tops()[bins.bins(value[None])[0]])
        assert top >= value
        assert bins.bins(top[None]) == bins.bins(value[None])
        assert bins.bins(np.nextafter(top, np.float32(np.inf))[None]) == bins.bins(value[None]) + 1


def test_nuclei():
    """On a fluorescence image of nuclei the mask overlaps the reference with an IoU of 0.72."""
    files = distribution("stardist") if _has_stardist() else pytest.skip("the sample images come with the package stardist")
    image, truth = (tifffile.imread(files.locate_file(f"stardist/data/images/{name}2d.tif")) for name in ("img", "mask"))
    mask, truth = segmented(image[None]).astype(bool), truth > 0
    assert (mask & truth).sum() / (mask | truth).sum() == pytest.approx(0.72, abs=0.005)


def _has_stardist():
    try:
        return bool(distribution("stardist"))
    except ModuleNotFoundError:
        return False
