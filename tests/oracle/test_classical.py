"""Classical methods: any cut gives one mask, and it is that of the whole image."""

from __future__ import annotations

import functools
import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal
from skimage.data import camera
from skimage.filters import threshold_li, threshold_local, threshold_otsu, threshold_triangle

from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.models.classical.alpha_expansion import Energy, minimise
from pipeline.models.classical.grey_values import GreyValues
from pipeline.models.classical.pixel_samples import pixel_hash
from pipeline.plugins import build
from pipeline.statistics import Histogram, decode_summary, encode_summary
from pipeline.statistics.pixel_counts import confusion_matrix
from tests.benchmarks import classical
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
    """The mask of each cut; several channels are no colours, so that no pixel is taken for glass."""
    save_tiff(folder / "a.tif", pixels, photometric="minisblack", planarconfig="contig" if pixels.ndim == 3 else None)
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
        {"classes": 3, "smooth": 1.5},
        {"texture": 2.0, "method": "li"},
        {"smooth": 1.0, "local": {"window": 25}},
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


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("options", [{"smooth": 2.0}, {"texture": 3.0}], ids=str)
def test_windows_before_the_threshold_are_those_of_scipy(options, dtype):
    """The histogram is that of scipy's smoothed value, or of the deviation in its window: Otsu's mask is scikit-image's but on 1 %."""
    pixels = camera().astype(dtype)
    ((name, sigma),) = options.items()
    seen, square = (
        gaussian_filter(values.astype(float), sigma, mode="mirror", truncate=3) for values in (pixels, pixels.astype(float) ** 2)
    )
    if name == "texture":
        seen = np.sqrt(np.maximum(square - seen**2, 0))
    expected = seen > threshold_otsu(seen)
    assert 0.05 < expected.mean() < 0.95
    assert (segmented(pixels[None], name="histogram", **options) != expected).mean() < 0.01
    assert (segmented(pixels[None], name="histogram") != expected).mean() > 0.015


def test_bands_of_a_block_are_counted_once():
    """A block of more rows than are looked at together is counted as a whole, and pixels without data never are."""
    valid_YX = np.random.default_rng(1).random((700, 40)) < 0.7
    pixels_CYX = np.random.default_rng(0).integers(0, 255, (2, 700, 40), np.uint8) * valid_YX
    seen = GreyValues(smooth=2.0)
    halo = seen.radius
    values_YX = seen.of(pixels_CYX)[0][halo:-halo, halo:-halo]
    fitter = build("models", {"name": "histogram", "smooth": 2.0}).fitter()
    ((name, counts),) = fitter.observe(pixels_CYX, valid_YX, Box(0, 0, *values_YX.shape), 0).items()
    assert name == "float32.1"
    assert np.array_equal(counts, Histogram("float32").counts(values_YX[valid_YX[halo:-halo, halo:-halo]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": 1.0, "texture": 2.0}, "model.smooth: found 1.0; expected 0 where texture takes the grey value's place."),
        ({"method": "li", "classes": 3}, "model.classes: found 3; expected 2, as method: li has one threshold. Use method: otsu for more."),
        ({"local": {"window": 5}, "classes": 4}, "model.classes: found 4; expected 2, as local has one threshold."),
        ({"local": {"window": 5}, "method": "li"}, "model.method: found li; expected no other method where local gives the thresholds."),
        ({"local": {"window": 8}}, "model.local.window: found 8; expected an odd number of pixels, such as 9"),
        ({"method": "ostu"}, "Did you mean 'otsu'?"),
    ],
)
def test_impossible_thresholds_are_refused(options, message):
    """What the method cannot do is refused by its place, with what is allowed."""
    with pytest.raises(InputError) as refused:
        build("models", {"name": "histogram", **options}, "model")
    assert message in str(refused.value)


KMEANS = [
    {"classes": 3},
    {"classes": 2, "smooth": 1.5},
    {"classes": 3, "texture": [1.0, 2.5], "samples": 500},
    {"classes": 2, "outputs": [0, 1, 0, 1], "seed": 7},
]


@pytest.mark.parametrize("options", KMEANS, ids=str)
def test_no_cut_shows_in_kmeans(tmp_path, engine, options):
    """Colours, smoothed ones and textures give one mask for any core and block: that of the whole image."""
    pixels_CYX = blobs(SHAPE, seed=3, channels=3)
    spec = {"name": "kmeans", **options}
    whole = segmented(pixels_CYX, **spec)
    assert len(np.unique(whole)) == options["classes"]
    pixels_YXC = np.moveaxis(pixels_CYX, 0, -1)
    assert all(np.array_equal(mask, whole) for mask in masks(engine, tmp_path, pixels_YXC, spec, "auto"))


def test_every_pixel_is_of_its_nearest_centre():
    """Classes are the nearest fitted centres, from dark to bright, by scipy's distances."""
    pixels_CYX = blobs(SHAPE, seed=4, channels=3)
    fit = fit_of(build("models", {"name": "kmeans", "classes": 4}), pixels_CYX)["model"]
    centers_KF, scale_F = np.array(fit["centers"]), np.array(fit["scale"])
    assert (np.diff(centers_KF.mean(axis=1)) > 0).all()
    distances = cdist(pixels_CYX.reshape(3, -1).T * scale_F, centers_KF * scale_F)
    ordered = np.sort(distances, axis=1)
    sure = ordered[:, 1] - ordered[:, 0] > 1e-4
    assert sure.mean() > 0.99
    mask = segmented(pixels_CYX, name="kmeans", classes=4).ravel()
    assert np.array_equal(mask[sure], distances.argmin(axis=1)[sure])


def test_centres_are_those_of_all_pixels():
    """Fitted to a sample of a quarter of the pixels, centres are within 3 % of the range of those fitted to every pixel."""
    pixels_CYX = blobs(SHAPE, seed=5, channels=2)
    few, every = (fit_of(build("models", {"name": "kmeans", "samples": n}), pixels_CYX)["model"]["centers"] for n in (8192, 10**6))
    assert np.abs(np.subtract(few, every)).max() < 0.03 * 255
    assert few != every


@pytest.mark.parametrize("texture", [(), (2.0,)])
def test_the_sample_does_not_depend_on_the_cut(texture):
    """Blocks of any cut, merged in any order and through the ledger's text, keep the same pixels; without data never."""
    pixels_CYX = np.random.default_rng(1).normal(size=(2, 90, 70)).astype(np.float32)
    valid_YX = np.random.default_rng(2).random((90, 70)) < 0.7
    valid_YX[10:30, 20:50] = False
    fitter = build("models", {"name": "kmeans", "texture": texture, "samples": 300}).fitter()
    halo = fitter.halo
    assert (halo > 0) == bool(texture)
    pads = [(halo, halo), (halo, halo)]
    padded_CYX, padded_YX = np.pad(pixels_CYX, [(0, 0), *pads], mode="reflect"), np.pad(valid_YX, pads, mode="reflect")

    def observed(box):
        rows, cols = slice(box.y0, box.y1 + 2 * halo), slice(box.x0, box.x1 + 2 * halo)
        return decode_summary(encode_summary(fitter.observe(padded_CYX[:, rows, cols], padded_YX[rows, cols], box, 0)))

    whole = observed(Box(0, 0, 90, 70))
    first = np.sort(pixel_hash(0, 0, Box(0, 0, 90, 70))[valid_YX])[:300]
    assert np.array_equal(whole["keys"], first)
    for step in (13, 40):
        boxes = [Box(y, x, y + step, x + step).clip((90, 70)) for y in range(0, 90, step) for x in range(0, 70, step)]
        for order in (boxes, boxes[::-1]):
            merged = functools.reduce(fitter.merge, map(observed, order))
            assert all(np.array_equal(merged[name], whole[name]) for name in whole)
    assert fitter.fit(merged) == fitter.fit(whole)


def test_the_sample_is_spread_evenly():
    """Every quarter of an image, and every plane, is sampled as often as another, within chance; another seed takes others."""
    keys = np.stack([pixel_hash(seed, plane, Box(0, 0, 256, 256)) for seed, plane in ((0, 0), (0, 1), (0, 5), (1, 0))])
    chosen = keys < np.quantile(keys, 0.1)
    assert len(np.unique(keys)) == keys.size
    shares = chosen.reshape(4, 2, 128, 2, 128).mean(axis=(2, 4))
    assert np.abs(shares - 0.1).max() < 0.01
    assert (chosen[0] & chosen[3]).mean() == pytest.approx(0.01, abs=0.003)


def test_planes_of_a_stack_share_their_centres(tmp_path, engine):
    """The planes of a stack are sampled together, and each is segmented with the same centres."""
    planes = np.stack([blobs((90, 70), seed=seed) for seed in (1, 2, 3)])
    save_tiff(tmp_path / "a.tif", planes, metadata={"axes": "ZYX"}, ome=True)
    cuts = [{"core": 32, "block": 64}, {"core": 90, "block": 90}]
    one, other = (engine(model={"name": "kmeans"}, normalize=None, tiling=cut, output=f"out{cut['core']}").mask() for cut in cuts)
    assert one.shape == planes.shape
    assert np.array_equal(one, other)


@pytest.mark.parametrize("spec", [{"name": "kmeans", "texture": [1.0]}, {"name": "histogram", "smooth": 1.0}], ids=str)
def test_nodata_gets_no_prediction(tmp_path, engine, spec):
    """NaN is left out of the mask, of the sample and of the histogram, for any cut."""
    pixels = blobs(SHAPE, seed=6, dtype=np.float32)
    pixels[20:60, 30:90] = np.nan
    first, *others = masks(engine, tmp_path, pixels, spec, "auto")
    assert np.array_equal(first == 255, np.isnan(pixels))
    assert set(np.unique(first)) == {0, 1, 255}
    assert all(np.array_equal(mask, first) for mask in others)


def test_few_colours_are_few_classes():
    """An image of fewer colours than clusters uses the lower classes; one of a single colour is class 0."""
    pixels = np.where(np.arange(600).reshape(20, 30) < 200, 3, 90).astype(np.uint8)
    assert np.array_equal(segmented(pixels[None], name="kmeans", classes=4), pixels == 90)
    assert not segmented(np.full((3, 20, 30), 7, np.uint16), name="kmeans", classes=3).any()


@pytest.mark.parametrize(
    ("spec", "messages"),
    [
        ({"name": "kmeans", "texture": [1.0, 0.0]}, ["model.texture.1: found 0.0; expected a number above 0"]),
        (
            {"name": "watershed", "outputs": [0, 2, -1]},
            ["model.outputs.1: found 2; expected a class id, 0..1", "model.outputs.2: found -1; expected a class id, 0..1"],
        ),
        ({"name": "kmeans", "classes": 300}, ["model.classes: found 300; expected a whole number of at least 2 and at most 255"]),
        ({"name": "graphcut", "outputs": [0] * 17}, ["model.outputs: found 17 parts; expected at most 16."]),
        (
            {"name": "histogram", "classes": 6},
            ["model.classes: found 6; expected at most 5. Several parts may share a class: see outputs."],
        ),
        ({"name": "histogram", "method": "li", "outputs": [0, 1, 1]}, ["model.outputs: found 3 parts; expected 2, as method: li has one"]),
    ],
    ids=str,
)
def test_impossible_parts_are_refused(spec, messages):
    """Every wrong entry is named with its place and with what is allowed."""
    with pytest.raises(InputError) as refused:
        build("models", spec, "model")
    assert all(message in str(refused.value) for message in messages)
    assert len(refused.value.problems) == len(messages)


@pytest.mark.parametrize("name", ["histogram", "kmeans", "watershed"])
def test_parts_may_share_a_class(name):
    """With ``outputs`` the mask is that of the parts, each under the class it was given."""
    pixels_CYX = camera()[None, 100:250, 100:250]
    parts = segmented(pixels_CYX, name=name, classes=4)
    assert len(np.unique(parts)) == 4
    shared = segmented(pixels_CYX, name=name, classes=2, outputs=[1, 0, 0, 1])
    assert np.array_equal(shared, np.array([1, 0, 0, 1])[parts])


def test_parts_of_a_class_have_one_density():
    """A class of several parts is their mixture: its cost is scipy's, and no border is paid between its parts."""
    pixels_CYX = blobs(SHAPE, seed=4, channels=2)
    model = build("models", {"name": "graphcut", "classes": 2, "outputs": [0, 1, 0, 1]})
    fit = fit_of(model, pixels_CYX)["model"]
    values = pixels_CYX.reshape(2, -1).T
    densities = np.zeros((2, len(values)))
    for k, mean, root, share in zip(model.outputs, fit["means"], fit["roots"], fit["shares"], strict=True):
        covariance = np.linalg.inv(np.transpose(root) @ np.array(root))
        densities[k] += share * multivariate_normal(mean, covariance).pdf(values)
    unary_KN = model._energy(pixels_CYX, fit).unary_KYX.reshape(2, -1)
    sure = (densities > 1e-200).all(axis=0)
    nats = np.minimum(-np.log(densities[:, sure] / densities[:, sure].max(axis=0)), 64)
    assert sure.mean() > 0.5
    assert np.abs(unary_KN[:, sure] - 256 * nats).max() <= 1
    assert sum(fit["shares"]) == pytest.approx(1)


def test_steps_are_those_between_neighbours():
    """What makes an edge is the root mean square step between neighbours in rows and columns, within the error of the sample."""
    pixels_CYX = blobs(SHAPE, seed=4, channels=2)
    found = fit_of(build("models", {"name": "graphcut", "samples": 10**6}), pixels_CYX)["model"]["steps"]
    for step, pixels_YX in zip(found, pixels_CYX.astype(float), strict=True):
        squares = [np.diff(pixels_YX, axis=axis) ** 2 for axis in (0, 1)]
        assert step == pytest.approx(np.sqrt(np.mean([one.mean() for one in squares])), rel=0.02)


@pytest.mark.parametrize(("name", "classes"), [("watershed", 2), ("watershed", 3), ("graphcut", 2), ("graphcut", 3)])
def test_cuts_hardly_show_where_no_halo_is_exact(tmp_path, engine, name, classes):
    """With the default halo of 64, at most 1 pixel in 1,000 differs from one pass over the image padded by twice that."""
    pixels = camera()[60:200, 60:240]
    spec = {"name": name, "classes": classes}
    model = build("models", spec)
    assert (model.field, model.tile["halo"]) == (None, 64)
    with model.open(Recipe()) as predict:
        padded = np.pad(pixels, 128, mode="reflect")[None, None]
        whole = predict(padded, [fit_of(model, pixels[None])])[0, 128:-128, 128:-128]
    assert len(np.unique(whole)) == classes
    assert all((mask != whole).mean() <= 1e-3 for mask in masks(engine, tmp_path, pixels, spec, "auto"))


def test_markers_keep_their_class_and_edges_decide():
    """Pixels that are sure stay what they are; on a crooked ramp the watershed lies at its steepest place, not at the threshold."""
    profile = np.concatenate([np.full(30, 20.0), np.linspace(20, 50, 21), np.full(5, 170.0), np.linspace(170, 200, 21), np.full(30, 200.0)])
    profile[51:56] = [52, 56, 140, 144, 148]
    pixels = np.tile(profile, (40, 1)).astype(np.uint8)
    model = build("models", {"name": "watershed", "smooth": 0.0, "sure": 0.9})
    fit = fit_of(model, pixels[None])["model"]
    mask = segmented(pixels[None], name="watershed", smooth=0.0, sure=0.9)
    (edge,) = set(mask.argmax(axis=1))
    assert edge == int(np.diff(profile).argmax()) + 1
    low, high = (cut + 0.9 * (mean - cut) for cut, mean in zip(fit["thresholds"] * 2, fit["means"], strict=True))
    assert not mask[pixels <= low].any()
    assert mask[pixels >= high].all()


@pytest.mark.parametrize("texture", [0.0, 2.0])
def test_markers_alone_are_the_histogram(texture):
    """Where every pixel is sure the watershed has nothing to decide: the mask is Otsu's, of grey values or of texture."""
    pixels, keys = camera()[None], {"texture": texture}
    found = segmented(pixels, name="watershed", smooth=0.0, sure=0.0, **keys)
    assert np.array_equal(found, segmented(pixels, name="histogram", **keys))
    assert 0.05 < found.mean() < 0.95


@pytest.mark.parametrize("classes", [2, 3])
def test_minimum_of_the_energy(classes):
    """No labelling of small random grids costs less than the cut of two classes; of three, none costs less than half, by trying all."""
    rng = np.random.default_rng(classes)
    shape = (3, 4) if classes == 2 else (3, 3)
    every = [np.array(one, np.uint8).reshape(shape) for one in itertools.product(range(classes), repeat=shape[0] * shape[1])]
    for strength in (3, 10, 30):
        unary_KYX = rng.integers(0, 40, (classes, *shape))
        sides = [(0, 1), (1, 0), (1, 1), (1, 1)]
        energy = Energy(unary_KYX, tuple(rng.integers(0, strength, (shape[0] - y, shape[1] - x)) for y, x in sides))
        found = energy.of(minimise(energy, 5))
        least = min(energy.of(labels) for labels in every)
        assert least <= found <= (least if classes == 2 else 2 * least)


def noisy_shapes(classes):
    """Stripes and discs of known classes under noise, and their truth."""
    rows, cols = np.mgrid[:160, :200]
    truth = cols * classes // 200
    for y, x, radius in [(40, 50, 25), (100, 60, 30), (60, 140, 35), (125, 150, 20)]:
        disc = np.hypot(rows - y, cols - x) < radius
        truth[disc] = (truth[disc] + 1) % classes
    noise = np.random.default_rng(0).normal(0, 30 / (classes - 1), truth.shape)
    return np.clip(60 + truth * 150 / classes + noise, 0, 255).astype(np.uint8), truth.astype(np.uint8)


def mean_iou(mask, truth):
    counts = confusion_matrix(truth, mask, classes=int(truth.max()) + 1)
    return np.mean(counts.diagonal() / (counts.sum(0) + counts.sum(1) - counts.diagonal()))


@pytest.mark.parametrize("classes", [2, 3])
def test_smoothness_lowers_energy_and_beats_colour_alone(classes):
    """On noisy discs the cut costs less than the best class of each pixel alone, and has a mean IoU at least 0.05 higher."""
    pixels, truth = noisy_shapes(classes)
    model = build("models", {"name": "graphcut", "classes": classes})
    energy = model._energy(pixels[None], fit_of(model, pixels[None])["model"])
    alone, cut = energy.unary_KYX.argmin(axis=0), minimise(energy, model.sweeps)
    assert energy.of(cut) < energy.of(alone)
    assert mean_iou(cut, truth) > mean_iou(alone, truth) + 0.05
    assert np.array_equal(segmented(pixels[None], name="graphcut", classes=classes, smoothness=0.0), alone)


def test_a_constant_image_is_class_0():
    """One value is one class, without an error, also for a class that has no pixel."""
    for name in ("watershed", "graphcut"):
        assert not segmented(np.full((2, 20, 30), 7, np.uint16), name=name, classes=3).any()


def test_documented_models_are_built():
    """Every line that workflows/README.md shows of a classical model is one."""
    shown = (Path(__file__).parents[2] / "workflows" / "README.md").read_text().split("```")[1]  # the first listing
    lines = re.findall(r"^model: .*$", shown, re.MULTILINE)
    assert {build("models", yaml.safe_load(line)["model"]).stride for line in lines} == {1}
    assert len(lines) >= 6


@pytest.mark.skipif("GIGASEG_TEST_DATA" not in os.environ, reason="GIGASEG_TEST_DATA, the folder of real images, is not set")
@pytest.mark.parametrize("name", ["nuclei", "banepa"])
def test_methods_beat_the_commonest_class(name):
    """On real images of two classes the mean IoU is above that of the commonest class; on nuclei borders help colour."""
    data = classical.load(Path(os.environ["GIGASEG_TEST_DATA"]), name, small=True)
    methods = ["Otsu", "k-means", "watershed", "graph cut", "graph cut, colour alone"]
    found = dict(classical.scores(data, yaml.safe_load(classical.MAPS.read_text())[name], methods))
    assert min(found.values()) > data.baseline() + 0.02, found
    if name == "nuclei":
        assert found["graph cut"] > found["graph cut, colour alone"]
