"""The normalisation `contrast`: the same numbers however an image is cut, padded, amplified or shifted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.geometry import Box
from pipeline.raster import ArrayRaster
from pipeline.statistics import ContrastFitter, Fitters, NormalizationFitter, decode_summary, encode_summary
from pipeline.statistics.contrast import FLAT, HIGH, LARGEST, LOW, POWER, REACH

FITTER = ContrastFitter()


def nuclei(shape=(120, 150), seed=0, background=12, noise=1.5):
    """Blurred bright discs on a dark background with noise, uint8 (1, Y, X)."""
    random = np.random.default_rng(seed)
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    pixels_YX = np.zeros(shape)
    for y, x, radius, light in random.uniform([0, 0, 5, 60], [*shape, 11, 190], (shape[0] * shape[1] // 900, 4)):
        pixels_YX[(rows - y) ** 2 + (cols - x) ** 2 < radius**2] = light
    pixels_YX = ndimage.gaussian_filter(pixels_YX, 1.2) + background + random.normal(0, noise, shape)
    return np.clip(np.rint(pixels_YX), 0, 255).astype(np.uint8)[None]


def observed(pixels_CYX, box, valid_YX=None, fitter=FITTER):
    """The summary of one block of an image in memory, which is reflected at its edges as a run reflects it."""
    halo, shape = fitter.halo, pixels_CYX.shape[1:]
    rows, cols = (np.pad(np.arange(side), halo, mode="reflect") for side in shape)
    grown = slice(box.y0, box.y1 + 2 * halo), slice(box.x0, box.x1 + 2 * halo)
    index = np.ix_(rows[grown[0]], cols[grown[1]])
    return fitter.observe(pixels_CYX[:, *index], None if valid_YX is None else valid_YX[index], box, 0)


def fitted(pixels_CYX, valid_YX=None):
    return FITTER.fit(observed(pixels_CYX, Box(0, 0, *pixels_CYX.shape[1:]), valid_YX))


def ends(pixels_CYX, valid_YX=None):
    """What becomes 0 and 1 of the first channel."""
    found = fitted(pixels_CYX, valid_YX)
    return np.array([found["mean"][0], found["mean"][0] + found["std"][0]])


def slow_ends(pixels_YX):
    """The definition, pixel by pixel; without flat squares."""
    window = 2 * REACH + 1
    values_YX = pixels_YX.astype(float)
    contrast_YX = ndimage.maximum_filter(values_YX, window, mode="mirror") - ndimage.minimum_filter(values_YX, window, mode="mirror")
    order = np.argsort(values_YX.ravel(), kind="stable")
    below = np.cumsum(contrast_YX.ravel()[order] ** POWER)
    return [values_YX.ravel()[order][np.searchsorted(below, share / 100 * below[-1])] for share in (LOW, HIGH)]


def test_numbers_are_those_of_the_definition():
    """Weighted percentiles of all values, each weighing a power of the range around it."""
    pixels_CYX = nuclei()
    assert ends(pixels_CYX).tolist() == slow_ends(pixels_CYX[0])


@pytest.mark.parametrize("value", [-np.finfo(np.float64).max, np.finfo(np.float64).max, 1e200])
def test_values_beyond_float32_are_its_largest(value):
    """Numbers of float64 such as a nodata value that is not declared overflow nothing: they count as the largest of float32."""
    pixels_CYX = nuclei().astype(np.float64)
    pixels_CYX[0, 3::17, 5::13] = value
    assert ends(pixels_CYX).tolist() == ends(pixels_CYX.clip(-LARGEST, LARGEST)).tolist()
    assert np.isfinite(ends(pixels_CYX)).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 119), st.integers(1, 149), st.sampled_from(["uint8", "uint16", "float32"]), st.booleans())
def test_any_cut_is_the_whole(y, x, dtype, masked):
    """Blocks of any size, in any order and through the ledger, sum to the summary of the whole image."""
    pixels_CYX = np.concatenate([nuclei(seed=1), 255 - nuclei(seed=2)]).astype(dtype) * np.dtype(dtype).type(3)
    pixels_CYX[:, 30:70, 20:60] = 5
    valid_YX = np.ones((120, 150), bool)
    valid_YX[50:90, 100:] = not masked
    pixels_CYX[:, ~valid_YX] = 0
    boxes = [Box(y, x, 120, 150), Box(0, 0, y, x), Box(y, 0, 120, x), Box(0, x, y, 150)]
    fitters, total = Fitters({"normalize": FITTER}), None
    for box in boxes:
        part = {f"normalize.{name}": array for name, array in observed(pixels_CYX, box, valid_YX).items()}
        part = decode_summary(encode_summary(part))
        total = part if total is None else fitters.merge(total, part)
    whole = observed(pixels_CYX, Box(0, 0, 120, 150), valid_YX)
    assert {name.removeprefix("normalize."): array.tolist() for name, array in total.items()} == {
        name: array.tolist() for name, array in whole.items()
    }
    assert fitters.conclude(total)["normalize"] == FITTER.fit(whole)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[st.integers(FLAT, 90)] * 4), st.sampled_from([0, 255]), st.sampled_from(["uint8", "uint16", "float32"]), st.integers(0, 99)
)
def test_constant_padding_changes_nothing(widths, value, dtype, seed):
    """Black or white around an image changes no number, not even at its edge."""
    pixels_CYX = nuclei((80, 90), seed).astype(dtype)
    padded_CYX = np.pad(pixels_CYX, ((0, 0), widths[:2], widths[2:]), constant_values=value)
    assert fitted(padded_CYX) == fitted(pixels_CYX)


@pytest.mark.parametrize("grow", [2, 10, 20])
def test_a_noisy_background_changes_little(grow):
    """Nine times as much empty background as image moves the ends by less than a tenth; percentiles move by half."""
    pixels_CYX = nuclei()
    random = np.random.default_rng(3)
    around_YX = np.clip(np.rint(12 + random.normal(0, 1.5, (120 * grow, 150))), 0, 255).astype(np.uint8)
    padded_CYX = np.concatenate([pixels_CYX[0], around_YX])[None]
    low, high = ends(pixels_CYX)
    assert np.abs(ends(padded_CYX) - (low, high)).max() < 0.1 * (high - low)
    percentile = NormalizationFitter("percentile")
    numbers = [percentile.fit(percentile.observe(one, None, Box(0, 0, *one.shape[1:]), 0)) for one in (pixels_CYX, padded_CYX)]
    if grow == 20:
        assert abs(numbers[0]["std"][0] - numbers[1]["std"][0]) > 0.2 * numbers[0]["std"][0]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([2, 3, 257, 1000, 2**15]), st.integers(0, 1000), st.integers(0, 99))
def test_gain_and_offset_of_integers_are_followed(gain, offset, seed):
    """Larger steps and a pedestal change the numbers as they change the pixels: the normalised image stays, but for rounding of weights."""
    pixels_CYX = nuclei((60, 70), seed)
    kind = np.uint16 if 255 * gain + offset < 2**16 else np.float64
    found = (ends((pixels_CYX.astype(kind) * kind(gain) + kind(offset)).astype(kind)) - offset) / gain
    within = 1 if kind == np.uint16 else 2 + 0.01 * (255 + offset / gain)
    assert np.abs(found - ends(pixels_CYX)).max() <= within


@pytest.mark.parametrize(
    ("dtype", "gain"), [("float32", 1 / 255), ("float64", 1 / 255), ("float32", 1e-6), ("int32", 70000), ("float32", 1e9)]
)
def test_other_types_agree(dtype, gain):
    """The same picture in floats or wide integers has the same numbers, within the bins."""
    pixels_CYX = nuclei()
    np.testing.assert_allclose(ends((pixels_CYX * np.float64(gain)).astype(dtype)) / gain, ends(pixels_CYX), rtol=0.02)


def test_pixels_without_data_count_nowhere():
    """Holes with NaN or extreme values leave the numbers of what is around them, and no edge at the hole."""
    pixels_CYX = nuclei().astype(np.float32)
    valid_YX = np.ones(pixels_CYX.shape[1:], bool)
    valid_YX[:, 100:] = False
    expected = fitted(pixels_CYX[..., :100])
    for value in (np.nan, 1e9, 0):
        pixels_CYX[:, ~valid_YX] = value
        assert fitted(pixels_CYX, valid_YX) == expected


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "float32"])
def test_nothing_is_divided_by_zero(dtype):
    """A constant channel and an image without a valid pixel get std 1; an image of flat areas alone gets its least and greatest value."""
    one = np.ones((1, 40, 40), dtype)
    assert fitted(one) == {"mean": [pytest.approx(1, rel=0.01)], "std": [1.0]}  # within a bin, for floats
    assert fitted(one, np.zeros((40, 40), bool)) == {"mean": [0.0], "std": [1.0]}
    one[:, :, :20] = 0
    assert fitted(one) == {"mean": [pytest.approx(0, abs=1e-9)], "std": [pytest.approx(1, rel=0.01)]}
    assert fitted(one[:, :3, 19:22]) == fitted(one)


def test_a_raster_of_a_run_is_reflected_alike():
    """The reflection that a run reads is the one that these tests build."""
    from pipeline.engine import read_zero_filled

    pixels_CYX, box = nuclei((9, 150)), Box(0, 0, 9, 150)
    grown_CYX, _ = read_zero_filled(ArrayRaster(pixels_CYX), box.grow(FITTER.halo), 0)
    summary, expected = FITTER.observe(grown_CYX, None, box, 0), observed(pixels_CYX, box)
    assert {name: array.tolist() for name, array in summary.items()} == {name: array.tolist() for name, array in expected.items()}
