"""Classical methods: any cut gives one mask, and it is that of the whole image."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.data import camera
from skimage.filters import threshold_li, threshold_local, threshold_triangle

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.recipe import Recipe
from tests.conftest import blobs, save_tiff

SHAPE = (150, 211)
CUTS = [(64, 64), (64, 128), (37, 111), (256, 256)]  # core, block


def fit_of(model, pixels_CYX):
    """What the fit phase finds for an image seen as one block."""
    fitter = model.fitter()
    if fitter is None:
        return {}
    halo = fitter.halo
    padded = np.pad(pixels_CYX, [(0, 0), (halo, halo), (halo, halo)], mode="reflect")
    return {"model": fitter.fit(fitter.observe(padded, None, Box(0, 0, *pixels_CYX.shape[1:]), 0))}


def segmented(pixels_CYX, **spec):
    """Classes (Y, X) of a whole image in one pass."""
    model = build("models", spec)
    with model.open(Recipe()) as predict:
        return predict(pixels_CYX[None], [fit_of(model, pixels_CYX)])[0]


def masks(engine, folder, pixels, spec, halo):
    """The mask of each cut."""
    save_tiff(folder / "a.tif", pixels, planarconfig="contig" if pixels.ndim == 3 else None)
    for core, block in CUTS:
        tiling = {"core": core, "halo": halo, "block": block}
        done = engine(model=spec, normalize=None, tiling=tiling, output=f"{spec['name']}-{core}-{block}")
        assert done.code == 0
        yield done.mask()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(("method", "reference"), [("li", threshold_li), ("triangle", threshold_triangle)])
def test_thresholds_are_those_of_scikit_image(method, reference, dtype):
    """Of integer images: the same triangle; Li within 0.01 grey levels (its library adds float32), and the same mask."""
    for pixels in (camera(), 255 - camera(), blobs(SHAPE)):
        pixels = pixels.astype(dtype) * (1 if dtype == "uint8" else 19)
        expected = reference(pixels)
        found = fit_of(build("models", {"name": "histogram", "method": method}), pixels[None])["model"]["thresholds"]
        assert found == pytest.approx([expected], abs=0 if method == "triangle" else 0.01)
        assert np.array_equal(segmented(pixels[None], name="histogram", method=method), pixels > expected)


@pytest.mark.parametrize(("method", "reference"), [("li", threshold_li), ("triangle", threshold_triangle)])
def test_thresholds_of_floats_are_near_those_of_scikit_image(method, reference):
    """Of smooth float images: within three of 256 equal bins of the range."""
    pixels = ((camera() + np.random.default_rng(0).random(camera().shape)) / 255 - 0.3).astype(np.float32)
    found = fit_of(build("models", {"name": "histogram", "method": method}), pixels[None])["model"]["thresholds"]
    assert found == pytest.approx([reference(pixels)], abs=3 * float(np.ptp(pixels)) / 256)


@pytest.mark.parametrize("method", ["li", "triangle"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "float32"])
def test_two_values_are_two_classes(method, dtype):
    """An image of two values is cut between them, unless the tail is one step long; one of a single value is class 0."""
    if (method, dtype) == ("triangle", "bool"):
        pytest.skip("a tail of one step has no foot to be cut at, as in scikit-image")
    low, high = (0, 1) if dtype == "bool" else (3, 90)
    plane = np.where(np.arange(48).reshape(6, 8) < 30, low, high).astype(dtype)
    assert np.array_equal(segmented(plane[None], name="histogram", method=method), plane == high)
    assert not segmented(np.full_like(plane, high)[None], name="histogram", method=method).any()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("local", [{"window": 15, "offset": 3.0}, {"window": 31, "method": "gaussian", "offset": -2.5}], ids=str)
def test_local_thresholds_are_those_of_scikit_image(local, dtype):
    """The mask of the windows is the library's, where the pixel is not within rounding of the threshold."""
    pixels = camera()[:200, :300].astype(dtype)
    level = threshold_local(pixels.astype(float), local["window"], local.get("method", "mean"), local["offset"], mode="mirror")
    sure = abs(pixels - level) > 1e-9
    mask = segmented(pixels[None], name="histogram", local=local)
    assert sure.mean() > 0.99
    assert 0.1 < mask.mean() < 0.9
    assert np.array_equal(mask[sure], (pixels > level)[sure])


@pytest.mark.parametrize(
    "options",
    [
        {"classes": 3},
        {"method": "li"},
        {"method": "triangle"},
        {"local": {"window": 25, "offset": 1.0}},
        {"local": {"window": 19, "method": "gaussian"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_no_cut_shows_in_thresholds(tmp_path, engine, options, dtype):
    """Thresholds, global and local, give one mask for any core and block: that of the whole image."""
    pixels = blobs(SHAPE, seed=3, dtype=dtype)
    spec = {"name": "histogram", **options}
    whole = segmented(pixels[None], **spec)
    assert len(np.unique(whole)) == options.get("classes", 2)
    assert all(np.array_equal(mask, whole) for mask in masks(engine, tmp_path, pixels, spec, "auto"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "li", "classes": 3}, "model.classes: found 3; allowed: 2, as method: li has one threshold. Use method: otsu for more."),
        ({"local": {"window": 5}, "classes": 4}, "model.classes: found 4; allowed: 2, as local has one threshold."),
        ({"local": {"window": 5}, "method": "li"}, "model.method: found li; allowed: no other method where local gives the thresholds."),
        ({"local": {"window": 8}}, "model.local.window: found 8; allowed: an odd number of pixels, such as 9"),
        ({"method": "ostu"}, "Did you mean 'otsu'?"),
    ],
)
def test_impossible_thresholds_are_refused(options, message):
    """What the method cannot do is refused by its place, with what is allowed."""
    with pytest.raises(InputError) as refused:
        build("models", {"name": "histogram", **options}, "model")
    assert message in str(refused.value)
