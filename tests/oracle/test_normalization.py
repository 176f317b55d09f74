"""Normalisation against numpy over the whole image."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.statistics import (
    HIGH_PERCENTILE,
    LOW_PERCENTILE,
    NormalizationFitter,
    mean_and_std,
    normalization_fitter,
    resolve_normalization,
)


def image(dtype):
    """Three channels (3, 60, 80) of different spread and place."""
    values = np.random.default_rng(0).gamma(2, 1, (3, 60, 80)) * np.array([5, 10, 20]).reshape(3, 1, 1) + 30
    return values.astype(dtype)


def fitted(kind, pixels_CYX, valid_YX=None):
    one = NormalizationFitter(kind)
    return one.fit(one.observe(pixels_CYX, valid_YX, Box(0, 0, *pixels_CYX.shape[1:]), 0))


@pytest.mark.parametrize(("dtype", "within"), [("uint8", 1e-9), ("uint16", 1e-9), ("int16", 1e-9), ("float32", 0.01), ("uint32", 0.01)])
def test_numbers_are_those_of_the_whole_image(dtype, within):
    """Z-score and percentiles are exact for small integers, and within 1 % for other types."""
    pixels_CYX = image(dtype)
    low, high = np.percentile(pixels_CYX.astype(float), [LOW_PERCENTILE, HIGH_PERCENTILE], axis=(1, 2), method="inverted_cdf")
    found = fitted("percentile", pixels_CYX)
    np.testing.assert_allclose(found["mean"], low, rtol=within)
    np.testing.assert_allclose(np.add(found["mean"], found["std"]), high, rtol=within)
    found = fitted("zscore", pixels_CYX)
    np.testing.assert_allclose(found["mean"], pixels_CYX.mean((1, 2)), rtol=within)
    np.testing.assert_allclose(found["std"], pixels_CYX.std((1, 2)), rtol=within)


@pytest.mark.parametrize("kind", ["percentile", "zscore"])
def test_blocks_add_up(kind):
    """Blocks in any order fit what the whole image fits; pixels without data and NaN count nowhere."""
    pixels_CYX = image("float32")
    whole = fitted(kind, pixels_CYX[:, 10:])
    valid_YX = np.ones((60, 80), bool)
    valid_YX[:10] = False
    pixels_CYX[:, :9], pixels_CYX[:, 9] = 1e9, np.nan
    one = NormalizationFitter(kind)
    boxes = [Box(30, 0, 60, 80), Box(0, 50, 30, 80), Box(0, 0, 30, 50)]
    first, *rest = (one.observe(pixels_CYX[:, *box.slices], valid_YX[box.slices], box, 0) for box in boxes)
    for other in rest:
        first = one.merge(first, other)
    assert one.fit(first) == whole


@pytest.mark.parametrize("kind", ["percentile", "zscore"])
def test_nothing_is_divided_by_zero(kind):
    """A constant channel, and an image without a valid pixel, get std 1."""
    assert fitted(kind, np.full((1, 4, 4), 9, np.uint8)) == {"mean": [9.0], "std": [1.0]}
    assert fitted(kind, np.zeros((2, 4, 4), np.uint8), np.zeros((4, 4), bool)) == {"mean": [0.0, 0.0], "std": [1.0, 1.0]}


def test_constants_are_per_tile_and_channel():
    """One number serves all channels; a fit serves its own tile; a wrong count is refused."""
    fits = [{"normalize": {"mean": [1.0], "std": [2.0]}}, {"normalize": {"mean": [3.0, 4.0], "std": [5.0, 6.0]}}]
    mean, std = mean_and_std(None, fits, 2)
    assert (mean.tolist(), std.tolist()) == ([[1, 1], [3, 4]], [[2, 2], [5, 6]])
    assert mean_and_std({"mean": [7.0], "std": [8.0]}, fits, 2)[0].tolist() == [[7, 7], [7, 7]]
    assert mean_and_std(None, [{}, {}], 2) is None
    with pytest.raises(InputError, match="normalize.mean: found 2 numbers; expected one, or one for each of the image's 3"):
        mean_and_std(None, fits[1:], 3)


def test_the_yaml_wins_over_the_model():
    """What the YAML asks for counts, else what the model asks for; null is raw values."""
    network = build("models", {"name": "unet", "channels": 3})
    assert resolve_normalization(None, network) is None
    assert normalization_fitter(resolve_normalization("zscore", network)) == NormalizationFitter("zscore")
    assert normalization_fitter(resolve_normalization({"mean": [1.0], "std": [2.0]}, network)) is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("zcore", "expected null, .*zscore"),
        ({"mean": [1.0]}, "normalize.std is missing"),
        ({"mean": [1.0, 2.0], "std": [1.0]}, "normalize.mean: found 2 numbers; expected one, or one for each of the model's 3"),
        ({"mean": [1.0], "std": [0.0]}, "normalize.std: .*above 0"),
        ({"mean": [1.0], "std": [1.0], "sd": [1.0]}, "unknown key 'sd'"),
    ],
)
def test_wrong_numbers_are_refused(asked, message):
    """Missing, too many, zero and unknown: each is named."""
    with pytest.raises(InputError, match=message):
        resolve_normalization(asked, build("models", {"name": "unet", "channels": 3}))


def test_a_model_of_raw_values_takes_no_normalize():
    """Asking to normalise for a model that works on raw values is an error, not ignored."""
    with pytest.raises(InputError, match="expected null, as the model works on raw values. Remove the key."):
        resolve_normalization("zscore", build("models", {"name": "histogram"}))
