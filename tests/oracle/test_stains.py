"""Stain normalisation: the numbers of the published method, the same colours from differently stained slides, and no cut that shows."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.statistics import NormalizationFitter, StainFitter, recolor
from pipeline.statistics.stains import CONCENTRATIONS, MEAN, STAINS, STD, TO_LAB, TO_LMS
from tests.conftest import UNET

WHOLE = Box(0, 0, 1, 1)
NUCLEI = {"name": "bundle", "path": "nuclei"}


def slide(shape=(160, 200), stains=STAINS, strength=1.0, seed=0):
    """A picture of two stains on glass, RGB (3, Y, X): smooth amounts of each, mixed by Beer and Lambert's law."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    amounts = np.stack([gaussian_filter(rng.standard_normal(shape), 3) for _ in range(2)])
    amounts = strength * np.clip(amounts / amounts.std(axis=(1, 2), keepdims=True) + 0.8, 0, None) * np.array([0.7, 0.5])[:, None, None]
    light = 240 * np.exp(-np.einsum("cs,syx->cyx", stains, amounts))
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def fitted(pixels_CYX, kind, normalize=None):
    fitter = StainFitter(kind, normalize)
    return fitter.fit(fitter.observe(pixels_CYX, None, WHOLE, 0))


def on_all_pixels(pixels_CYX):
    """Macenko's method without a histogram: densities, plane, angles, least squares, percentiles, mixed anew."""
    density_NC = -np.log((pixels_CYX.reshape(3, -1).T + 1.0) / 240)
    stained_NC = density_NC[(density_NC >= 0.15).all(axis=1)]
    plane = np.linalg.svd(stained_NC - stained_NC.mean(axis=0), full_matrices=False)[2][:2].T
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
    at = stained_NC @ plane
    low, high = (plane @ [np.cos(end), np.sin(end)] for end in np.percentile(np.arctan2(at[:, 1], at[:, 0]), [1, 99]))
    stains = np.stack([low, high] if low[0] > high[0] else [high, low], axis=1)
    amounts = np.linalg.lstsq(stains, density_NC.T, rcond=None)[0]
    amounts *= (CONCENTRATIONS / np.percentile(amounts, 99, axis=1))[:, None]
    return np.clip(240 * np.exp(-STAINS @ amounts), 0, 255).astype(np.uint8).reshape(pixels_CYX.shape)


OTHER = np.array([[0.44, 0.27], [0.77, 0.75], [0.46, 0.60]])
OTHER = OTHER / np.linalg.norm(OTHER, axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_macenko_gives_the_numbers_of_the_published_method(seed):
    """The method as it is published, on all pixels at once, gives the same colours within half the width of a bin."""
    pixels = slide(stains=OTHER, strength=1.3, seed=seed)
    expected = on_all_pixels(pixels)
    difference = np.abs(recolor(pixels, fitted(pixels, "macenko")).astype(int) - expected)
    assert difference.mean() < 4
    assert np.percentile(difference, 99) <= 10


def test_real_tissue_hardly_shows_the_bins():
    """On a picture of H&E the colours are half a grey value from those of the method on all pixels."""
    from importlib.metadata import distribution

    file = distribution("stardist").locate_file("stardist/data/images/histo.jpg")
    with Image.open(str(file)) as picture:
        pixels = np.asarray(picture.convert("RGB")).transpose(2, 0, 1).copy()
    difference = np.abs(recolor(pixels, fitted(pixels, "macenko")).astype(int) - on_all_pixels(pixels))
    assert difference.mean() < 0.6


def test_two_stainings_of_one_tissue_become_alike():
    """The same tissue in stronger and redder stains has the same colours afterwards; before, they differed many times more."""
    one, two = slide(), slide(stains=OTHER, strength=1.4)
    before = np.abs(one.astype(int) - two).mean()
    after = np.abs(recolor(one, fitted(one, "macenko")).astype(int) - recolor(two, fitted(two, "macenko"))).mean()
    assert before > 20
    assert after < before / 6


def test_reinhard_gives_the_mean_and_spread_of_the_reference():
    """Afterwards the colours have the reference's mean and standard deviation, as the paper says."""
    pixels = slide(stains=OTHER, strength=0.8)
    shown = recolor(pixels, fitted(pixels, "reinhard"))
    lab = np.log((shown.reshape(3, -1).T + 1.0) @ TO_LMS.T) @ TO_LAB.T
    np.testing.assert_allclose(lab.mean(axis=0), MEAN, atol=0.05)
    np.testing.assert_allclose(lab.std(axis=0), STD, rtol=0.1, atol=0.01)


@pytest.mark.parametrize("kind", ["macenko", "reinhard"])
def test_summaries_add(kind):
    """However an image is cut, and whatever is left out as invalid, the sum is that of its valid pixels."""
    pixels = slide()
    valid = np.ones(pixels.shape[1:], bool)
    valid[:50] = False
    fitter = StainFitter(kind, "percentile")
    parts = [fitter.observe(pixels[:, y : y + 37], valid[y : y + 37], WHOLE, 0) for y in range(0, 160, 37)]
    total = parts[0]
    for part in parts[1:]:
        total = fitter.merge(total, part)
    assert fitter.fit(total) == fitted(np.ascontiguousarray(pixels[:, 50:]), kind, "percentile")


@pytest.mark.parametrize("normalize", ["percentile", "zscore"])
def test_a_network_is_fed_the_statistics_of_what_it_sees(normalize):
    """The mean and std beside the stains are those of the recoloured pixels, within a bin."""
    pixels = slide(stains=OTHER)
    fit = fitted(pixels, "macenko", normalize)
    plain = NormalizationFitter(normalize)
    expected = plain.fit(plain.observe(recolor(pixels, fit), None, WHOLE, 0))
    np.testing.assert_allclose(fit["normalize"]["mean"], expected["mean"], atol=3)
    np.testing.assert_allclose(fit["normalize"]["std"], expected["std"], rtol=0.05)


def test_glass_has_no_stain():
    """Where nothing is stained, colours stay as they are."""
    glass = np.full((3, 60, 60), 243, np.uint8)
    fit = fitted(glass, "macenko", "percentile")
    assert "matrix" not in fit
    assert recolor(glass, fit) is glass
    assert set(fit["normalize"]) == {"mean", "std"}


def test_the_cut_does_not_show_in_a_run(engine, tmp_path):
    """Masks of recoloured slides are the same for any blocks; another staining of the tissue changes them less than without."""
    shares = {}
    for stain in (None, "macenko"):
        masks = {}
        for name, options in {"a": {}, "b": {"stains": OTHER, "strength": 1.4}}.items():
            Image.fromarray(slide(**options).transpose(1, 2, 0)).save(tmp_path / f"{name}.png")
            keys = {"images": [f"{name}.png"], "model": NUCLEI, "normalize": "percentile", "stain": stain, "resolution": {"scale": 1.0}}
            masks[name] = engine(**keys, tiling={"block": 64}, output=f"{name}-{stain}").mask(name)
            np.testing.assert_array_equal(engine(**keys, tiling={"block": 256}, output=f"{name}-{stain}-whole").mask(name), masks[name])
        shares[stain] = (masks["a"] == masks["b"]).mean()
    assert shares["macenko"] > shares[None]
    Image.fromarray(slide()[0]).save(tmp_path / "grey.png")
    with pytest.raises(InputError, match=r"stain: found macenko with normalize: contrast; expected null"):
        engine(images=["a.png"], model={**UNET, "channels": 3}, stain="macenko", normalize="contrast", output="contrast")
    with pytest.raises(InputError, match=r"stain: found macenko, and .*grey.png; expected 8-bit RGB"):
        engine(images=["grey.png"], model=UNET, stain="macenko", output="grey")
