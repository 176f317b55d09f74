"""No data is no data, however a file declares it: in masks, counts, statistics, truth, training and copies."""

from __future__ import annotations

import json
import sys
import types
from contextlib import contextmanager
from functools import reduce

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.config import Recipe
from pipeline.engine import Job, Resources, phase
from pipeline.inputs import TRUTH_READER, Image
from pipeline.inputs.headers import _truth_header
from pipeline.plugins import build
from pipeline.raster import ArrayRaster, Header
from pipeline.readers import Reader
from pipeline.readers._layout import make_header, resolve_layout
from pipeline.records import Block
from pipeline.statistics import Fitters, NormalizationFitter, decode_summary
from pipeline.tiling import Grid
from pipeline.training.crops import Crops, ImageCache
from tests.conftest import blobs, report_at, save_tiff
from tests.training.scene import OFF, planned, train_yaml

SHAPE = (90, 70)
LEAST = np.finfo(np.float32).min
HALO = 24

# How a file says that a pixel holds no data: type of the pixels, what stands there, nodata as the file writes it, whether a mask says it.
KINDS = {
    "mask": ("uint8", 200, None, True),
    "mask_of_floats": ("float32", 1e30, None, True),
    "nodata": ("uint8", 7, "7", False),
    "nodata_of_16_bits": ("uint16", 65535, "65535", False),
    "nodata_of_64_bits": ("int64", -(2**60) - 1, str(-(2**60) - 1), False),
    "nodata_text": ("float32", LEAST, "-3.402823e+38", False),
    "nan": ("float32", np.nan, None, False),
    "infinity": ("float32", np.inf, None, False),
    "minus_infinity": ("float32", -np.inf, None, False),
    "nodata_and_mask": ("uint8", 7, "7", True),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _reader(monkeypatch):
    """A reader of .npz files with pixels_CYX, where they are declared, and nodata as text; truth is read with it where it is one."""

    class Declared(Reader):
        """Reads what a test wrote."""

        @contextmanager
        def open(self, path):
            if not path.endswith(".npz"):
                with build("readers", {**self.model_dump(), "name": "auto"}).open(path) as raster:
                    yield raster
                return
            with np.load(path) as file:
                pixels_CYX, declared_YX, nodata = file["pixels"], file["declared"], str(file["nodata"])
            has_mask = not declared_YX.all()
            layout = resolve_layout(self, "cyx", pixels_CYX.shape, path)
            header = make_header(self, layout, pixels_CYX.dtype, nodata=nodata or None, has_mask=has_mask)
            yield ArrayRaster(pixels_CYX, header, declared_YX if has_mask else None)

    module = types.ModuleType("declared.reader")
    module.__all__, module.Declared = ["Declared"], Declared
    Declared.__module__ = "declared.reader"
    monkeypatch.setitem(sys.modules, "declared.reader", module)
    monkeypatch.setitem(TRUTH_READER, "name", "declared.reader")
    _truth_header.cache_clear()
    yield
    _truth_header.cache_clear()


READER = {"name": "declared.reader"}


def holes(shape=SHAPE, seed=0):
    """A collar, a block and scattered pixels."""
    found_YX = np.random.default_rng(seed).random(shape) < 0.02
    found_YX[:6] = found_YX[30:50, 20:33] = True
    return found_YX


def declare(path, pixels_CYX, holes_YX, kind, junk=None):
    """Write an image whose holes are declared in one way; ``junk``: stands there instead of the usual value."""
    dtype, usual, nodata, has_mask = KINDS[kind]
    pixels_CYX = np.atleast_3d(pixels_CYX.T).T.astype(dtype)
    assert nodata is None or not (pixels_CYX == usual).any(), "what stands for no data must not be a value as well"
    pixels_CYX[:, holes_YX] = np.array(usual if junk is None else junk).astype(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, pixels=pixels_CYX, declared=~holes_YX if has_mask else True, nodata=nodata or "")
    return path


def scene(seed=1, channels=None):
    """Values 8..255 that every type of KINDS holds."""
    return np.maximum(blobs(SHAPE, seed=seed, channels=channels), 8)


def models(networks):
    """What a run may predict with, and how: name to the keys of its YAML."""
    network = {"model": networks["same"], "tiling": {"core": 32, "halo": HALO, "block": 64}}
    small = {"normalize": None, "tiling": {"core": 32, "halo": HALO, "block": 64}}
    return {
        "network": network,
        "percentile": {**network, "normalize": "percentile", "writers": [{"name": "ome_zarr", "probs": True}]},
        "zscore": {**network, "normalize": "zscore"},
        "gaussian": {**network, "tiling": {**network["tiling"], "stitch": "gaussian"}, "writers": [{"name": "ome_zarr", "probs": True}]},
        "tta": {**network, "model": {**networks["same"], "tta": "flips"}},
        "ensemble": {**network, "model": {"name": "ensemble", "members": [networks["same"], networks["valid"]]}},
        "kmeans": {**small, "model": {"name": "kmeans", "classes": 3, "texture": [2.0]}},
        "histogram": {**small, "model": {"name": "histogram", "classes": 3, "smooth": 1.0}},
        "local": {**small, "model": {"name": "histogram", "local": {"window": 9}}},
        "graphcut": {**small, "model": {"name": "graphcut"}, "tiling": {"core": 64, "halo": 64, "block": 64}},
        "watershed": {**small, "model": {"name": "watershed"}, "tiling": {"core": 64, "halo": 64, "block": 64}},
    }


MODELS = ("network", "percentile", "zscore", "gaussian", "tta", "ensemble", "kmeans", "histogram", "local", "graphcut", "watershed")


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_hole_is_predicted_alike(name, tmp_path, engine, networks):
    """What stands where there is no data, and what says so, change no pixel of a mask; holes have no prediction and no probability."""
    pixels_YX, holes_YX = scene(), holes()
    truth_YX = pixels_YX // 128
    save_tiff(tmp_path / "truth.tif", truth_YX)
    images = []
    for kind, (dtype, *_) in KINDS.items():
        if name == "graphcut" and kind not in ("mask", "nodata", "nan"):
            continue  # it takes seconds
        images.append(declare(tmp_path / f"{kind}.npz", pixels_YX, holes_YX, kind))
        masked = "mask_of_floats" if dtype == "float32" else "mask"
        if dtype in ("uint8", "float32"):
            images.append(declare(tmp_path / f"{kind}_other.npz", pixels_YX, holes_YX, masked, junk=60))
    (tmp_path / "list.csv").write_text("image,truth\n" + "".join(f"{path},truth.tif\n" for path in images))
    done = engine(images=["list.csv"], reader=READER, **models(networks)[name])
    assert done.code == 0
    for path in images:
        mask_YX = done.mask(path.name)
        assert np.array_equal(mask_YX == 255, holes_YX)
        assert len(np.unique(mask_YX[~holes_YX])) > 1, "one class everywhere proves nothing"
        if path.stem.endswith("_other"):
            assert np.array_equal(mask_YX, done.mask(path.name.replace("_other", "")))
    counts = {one["name"]: one for one in done.report["per_image"]}
    for path in images:
        one, mask_YX = counts[path.name], done.mask(path.name)
        assert one["no_prediction"] == holes_YX.sum()
        assert one["pixels"] == one["no_prediction"] + sum(of["predicted"] for of in one["classes"])
        assert [of["truth"] for of in one["classes"]] == [int((truth_YX[~holes_YX] == k).sum()) for k in range(len(one["classes"]))]
    if "writers" in models(networks)[name]:
        import zarr

        for path in images:
            probs_KYX = zarr.open_array(done.folder / "probs" / f"{path.name}.ome.zarr" / "0", mode="r")[...]
            assert np.array_equal(probs_KYX.any(axis=0), ~holes_YX)


@pytest.mark.parametrize("name", MODELS)
def test_holes_do_not_show_the_cut(name, tmp_path, engine, networks):
    """With scattered holes a mask made of blocks is the mask of one block; blended ones at one core, as they depend on it."""
    declare(tmp_path / "a.npz", scene(), holes(), "nan")
    keys = {**models(networks)[name], "images": ["a.npz"], "reader": READER}
    tiling = keys["tiling"]
    whole = {**tiling, "block": 256} if tiling.get("stitch") else {**tiling, "core": 256, "block": 256}
    cut, one = engine(**keys), engine(**{**keys, "tiling": whole}, output="one")
    assert np.array_equal(cut.mask("a.npz"), one.mask("a.npz"))
    assert cut.report["no_prediction"] == holes().sum()


@pytest.mark.parametrize("spoilt", ["nan", "infinity", "minus_infinity"])
def test_one_pixel_without_data_changes_what_depends_on_it_alone(spoilt, tmp_path, engine, networks):
    """One NaN or infinity costs its pixel; beyond the network's field, and everywhere with a pixelwise model, the mask is as without it."""
    pixels_YX, hole_YX = scene().astype(np.float32), np.zeros(SHAPE, bool)
    hole_YX[40, 30] = True
    declare(tmp_path / "plain.npz", pixels_YX, np.zeros(SHAPE, bool), spoilt)
    declare(tmp_path / "spoilt.npz", pixels_YX, hole_YX, spoilt)
    far_YX = np.maximum(*np.ogrid[-40 : SHAPE[0] - 40, -30 : SHAPE[1] - 30]) > HALO
    far_YX |= np.maximum(*(-grid for grid in np.ogrid[-40 : SHAPE[0] - 40, -30 : SHAPE[1] - 30])) > HALO
    for name, model in {"network": networks["same"], "kmeans": {"name": "kmeans"}, "histogram": {"name": "histogram"}}.items():
        normalize = {"mean": [128.0], "std": [64.0]} if name == "network" else None
        tiling = {"halo": HALO if name == "network" else 0}
        keys = {"images": ["plain.npz", "spoilt.npz"], "reader": READER, "model": model, "normalize": normalize, "tiling": tiling}
        done = engine(**keys, output=name)
        differs_YX = done.mask("plain.npz") != done.mask("spoilt.npz")
        assert done.mask("spoilt.npz")[40, 30] == 255
        assert not differs_YX[far_YX if name == "network" else ~hole_YX].any()


def fitted(path, kind, channels, fitter):
    """What a fitter concludes of an image that is cut into blocks, as the fit phase reads them."""
    fitters = Fitters({"it": fitter})
    image = Image(0, "a", str(path), Header(SHAPE, channels, KINDS[kind][0]), READER)
    resources = Resources(Job(path.parent, Recipe(), fitters=fitters), None)
    fit, summaries = phase("fit"), []
    for box in Grid(SHAPE, 32, 0, 32).blocks():
        block = Block("fit", image, 0, 0, 0, box)
        summaries.append(decode_summary(fit.work(resources, block, fit.load(resources, block, None), None)))
    resources.close()
    return fitters.conclude(reduce(fitters.merge, summaries))["it"]


@each_kind
@pytest.mark.parametrize("method", ["zscore", "percentile"])
def test_statistics_are_of_valid_pixels(kind, method, tmp_path):
    """Percentiles and z-scores of an image, cut into blocks, are numpy's over its valid pixels; floats within a bin."""
    pixels_CYX, holes_YX = scene(channels=2), holes()
    found = fitted(declare(tmp_path / "a.npz", pixels_CYX, holes_YX, kind), kind, 2, NormalizationFitter(method))
    values_CN = pixels_CYX[:, ~holes_YX].astype(float)
    within = 1e-9 if KINDS[kind][0].startswith("uint") else 0.01
    if method == "zscore":
        expected = values_CN.mean(1), values_CN.std(1)
    else:
        low, high = np.percentile(values_CN, [1.0, 99.8], axis=1, method="inverted_cdf")
        expected = low, high - low
    np.testing.assert_allclose((found["mean"], found["std"]), expected, rtol=within)


@each_kind
def test_models_are_fitted_to_valid_pixels(kind, tmp_path):
    """Thresholds, centres and the usual step between neighbours are those of another library, or of numpy, over valid pixels."""
    from skimage.filters import threshold_otsu
    from sklearn.cluster import KMeans

    pixels_YX, holes_YX = scene(), holes()
    path = declare(tmp_path / "a.npz", pixels_YX, holes_YX, kind)
    values_N = pixels_YX[~holes_YX].astype(float)

    def fit(**model):
        return fitted(path, kind, 1, build("models", model).fitter())

    within = 0.0 if KINDS[kind][0].startswith("uint") else 0.01
    np.testing.assert_allclose(fit(name="histogram")["thresholds"], [threshold_otsu(pixels_YX[~holes_YX])], rtol=within)
    centres = np.sort(KMeans(2, n_init=3, random_state=0).fit(values_N[:, None]).cluster_centers_.ravel())
    np.testing.assert_allclose(np.ravel(fit(name="kmeans", samples=10**5)["centers"]), centres, rtol=0.01)
    known = np.where(holes_YX, np.nan, pixels_YX.astype(float))
    steps_YX = (np.diff(known, axis=0, append=known[-2:-1]) ** 2 + np.diff(known, axis=1, append=known[:, -2:-1]) ** 2) / 2  # reflected
    found = fit(name="graphcut", samples=10**5)
    np.testing.assert_allclose(found["steps"], [np.sqrt(np.nanmean(steps_YX))], rtol=1e-6)
    np.testing.assert_allclose(np.average(np.ravel(found["means"]), weights=found["shares"]), values_N.mean(), rtol=0.01)


@each_kind
def test_truth_without_data_is_ignored(kind, tmp_path, engine, capsys):
    """In a run, in an evaluation, and counted again with other classes: pixels without truth are in no confusion and in no class."""
    pixels_YX, holes_YX = scene(), holes()
    truth_YX = (pixels_YX > 128).astype(np.uint8)
    save_tiff(tmp_path / "a.tif", pixels_YX)
    declare(tmp_path / "truth.npz", truth_YX, holes_YX, kind)
    keys = {"model": {"name": "histogram"}, "normalize": None, "tiling": {"halo": 0}, "truth": "truth.npz"}
    classes = [{"name": "dark", "values": [0]}, {"name": "bright", "values": [1]}]
    done = engine(**keys, classes=classes)
    assert done.code == 0
    has_nodata = KINDS[kind][2] is not None
    assert (f"truth pixels with the nodata value are ignored: {tmp_path / 'truth.npz'} (" in capsys.readouterr().err) == has_nodata
    mask_YX = done.mask()
    expected = [[int(((truth_YX == row) & (mask_YX == col))[~holes_YX].sum()) for col in range(2)] for row in range(2)]
    assert done.report["confusion"] == expected
    assert done.report["no_prediction"] == 0
    swapped = engine(**keys, classes=[{"name": "dark", "values": [1]}, {"name": "bright", "values": [0]}])
    assert swapped.report["confusion"] == expected[::-1]
    capsys.readouterr()
    pred, truth = str(tmp_path / "out" / "masks" / "a.ome.zarr"), str(tmp_path / "truth.npz")
    assert main(["evaluate", "--pred", pred, "--truth", truth, "-o", str(tmp_path / "scores")]) == 0
    assert report_at(tmp_path / "scores")["confusion"] == expected


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not KINDS[kind][0].startswith("float")])
def test_masks_without_data_have_no_prediction(kind, tmp_path):
    """Where a mask that is scored declares no data, nothing is predicted: such pixels are counted apart, and no error."""
    truth_YX, holes_YX = (scene() > 128).astype(np.uint8), holes()
    save_tiff(tmp_path / "truth.tif", truth_YX)
    path = declare(tmp_path / "pred.npz", truth_YX, holes_YX, kind)
    assert main(["evaluate", "--pred", str(path), "--truth", str(tmp_path / "truth.tif"), "-o", str(tmp_path / "scores")]) == 0
    report = report_at(tmp_path / "scores")
    assert (report["no_prediction"], report["mean_iou"]) == (holes_YX.sum(), 1.0)
    assert report["pixels"] == truth_YX.size == report["no_prediction"] + sum(one["predicted"] for one in report["classes"])


CLASSES = [{"name": "dark", "values": [0]}, {"name": "bright", "values": [1]}]


def training_files(tmp_path, kind, where):
    """Three images with truth: holes in the images or in the truth; returns the images, their truth and their holes."""
    scenes = [(scene(seed), holes(seed=seed)) for seed in range(3)]
    for at, (pixels_YX, holes_YX) in enumerate(scenes):
        none_YX = np.zeros(SHAPE, bool)
        declare(tmp_path / "images" / f"a{at}.npz", pixels_YX, holes_YX if where == "image" else none_YX, kind)
        declare(tmp_path / "truth" / f"a{at}.npz", pixels_YX > 128, holes_YX if where == "truth" else none_YX, kind)
    images = [f"images/a{at}.npz" for at in range(len(scenes))]
    keys = {"images": images, "truth": "truth/{stem}", "classes": CLASSES, "reader": READER, "val": {"names": ["a0.npz"]}}
    return scenes[1:], keys


@each_kind
@pytest.mark.parametrize("where", ["image", "truth"])
def test_a_scan_counts_what_has_data(kind, where, tmp_path):
    """Class areas leave out what image or truth leave out; numbers to normalise with are of the image's valid pixels."""
    scenes, keys = training_files(tmp_path, kind, where)
    plan = planned(tmp_path, **keys, normalize="dataset")
    bright = [(pixels_YX > 128)[~holes_YX] for pixels_YX, holes_YX in scenes]
    assert plan.statistics.areas.pixels == (sum(int((~one).sum()) for one in bright), sum(int(one.sum()) for one in bright))
    values = np.concatenate([pixels_YX[~holes_YX] if where == "image" else pixels_YX.ravel() for pixels_YX, holes_YX in scenes])
    within = 1e-6 if KINDS[kind][0].startswith("uint") else 0.01
    np.testing.assert_allclose(plan.normalize["mean"], [values.mean()], rtol=within)
    np.testing.assert_allclose(plan.normalize["std"], [values.std()], rtol=within)


@each_kind
@pytest.mark.parametrize("where", ["image", "truth"])
@pytest.mark.parametrize("budget", [2**28, 1])
def test_a_crop_is_ignored_where_it_has_no_data(kind, where, budget, tmp_path):
    """Crops hold 255 where image or truth hold no data, kept in memory or read by region, and raw 0 there, as a run predicts it."""
    scenes, keys = training_files(tmp_path, kind, where)
    plan = planned(tmp_path, **keys, normalize={"mean": [10.0], "std": [2.0]}, augment=OFF, crop=96)
    crops = Crops(plan, ImageCache(budget))
    for crop in (crops[index] for index in range(4)):
        pixels_YX, holes_YX = scenes[int(crop.where[1]) - 1]
        top, left = ((96 - side) // 2 for side in SHAPE)
        pads = [(top, 96 - SHAPE[0] - top), (left, 96 - SHAPE[1] - left)]
        seen_YX = np.where(holes_YX, 0, pixels_YX) if where == "image" else pixels_YX
        expected_YX = np.where(holes_YX, 255, pixels_YX > 128)
        np.testing.assert_array_equal(crop.target_YX, np.pad(expected_YX, pads, mode="reflect"))
        np.testing.assert_array_equal(crop.pixels_CYX[0], (np.pad(seen_YX, pads, mode="reflect").astype(np.float32) - 10) / 2)


@pytest.mark.parametrize("kind", ["mask", "nodata_text", "infinity"])
def test_a_training_goes_on_over_holes(kind, tmp_path):
    """A few steps over images with holes end with a bundle, and its own validation run leaves the holes out."""
    from workflows.train import train

    _, keys = training_files(tmp_path, kind, "image")
    path = train_yaml(tmp_path, **keys, steps=4, batch=2, crop=32, model={"name": "unet", "depth": 1, "base": 4})
    assert train(path) == 0
    report = json.loads((tmp_path / "out" / "val" / "report" / "report.json").read_text())
    assert report["no_prediction"] == holes(seed=0).sum()
    assert np.sum(report["confusion"]) == np.prod(SHAPE) - holes(seed=0).sum()


def nodata_at(path):
    """Nodata of a copy as xarray decodes it, and its pixels."""
    import xarray
    import zarr

    pixels = zarr.open_array(path / "0", mode="r")[...]
    return xarray.open_dataset(path, engine="zarr", consolidated=False, mask_and_scale=False)["0"].attrs.get("_FillValue"), pixels


@each_kind
def test_a_copy_keeps_what_has_no_data(kind, tmp_path, capsys):
    """A copy holds the pixels as they are and declares nodata; masks become nodata or NaN; integers without nodata are told."""
    from workflows.convert import convert

    dtype, usual, nodata, has_mask = KINDS[kind]
    pixels_YX, holes_YX = scene(), holes()
    declare(tmp_path / "a.npz", pixels_YX, holes_YX, kind)
    assert convert([str(tmp_path / "a.npz")], str(tmp_path / "out"), ["reader.name=declared.reader"]) == 0
    declared, copied_YX = nodata_at(tmp_path / "out" / "a.npz.ome.zarr")
    kept = usual if nodata or not has_mask else np.nan if dtype == "float32" else 0
    np.testing.assert_array_equal(copied_YX, np.where(holes_YX, np.array(kept).astype(dtype), pixels_YX.astype(dtype)))
    assert copied_YX.dtype == dtype
    assert (declared is None) == (nodata is None)
    assert declared is None or np.array(declared).astype(dtype) == np.array(usual).astype(dtype)
    told = "OME-Zarr has no mask: pixels without data become 0" in capsys.readouterr().err
    assert told == (has_mask and not nodata and dtype != "float32")
    if not told:
        with build("readers", {"name": "zarr"}).open(str(tmp_path / "out" / "a.npz.ome.zarr")) as raster:
            _, valid_YX = raster.read_valid(Grid(SHAPE, 256, 0, 256).block_box(0, 0))
            assert np.array_equal(valid_YX, ~holes_YX)


@pytest.mark.parametrize("kind", ["nodata_text", "nan", "infinity", "nodata_of_16_bits", "nodata_of_64_bits"])
def test_a_copy_is_drawn_by_what_has_data(kind, tmp_path):
    """Viewers are told to draw the range of valid values, not down to nodata of -3e38."""
    from workflows.convert import convert

    pixels_CYX, holes_YX = scene(channels=2), holes()
    declare(tmp_path / "a.npz", pixels_CYX, holes_YX, kind)
    assert convert([str(tmp_path / "a.npz")], str(tmp_path / "out"), ["reader.name=declared.reader"]) == 0
    channels = json.loads((tmp_path / "out" / "a.npz.ome.zarr" / "zarr.json").read_text())["attributes"]["ome"]["omero"]["channels"]
    shown = [(one["window"]["start"], one["window"]["end"]) for one in channels]
    assert shown == [(int(values[~holes_YX].min()), int(values[~holes_YX].max())) for values in pixels_CYX]


def test_a_copy_of_nothing_that_can_be_read_ends_with_what_failed(tmp_path, capsys):
    """Where no block of an image can be decoded the exit code is 3, its failures are named, and only copies that exist are listed."""
    import tifffile

    paths = [save_tiff(tmp_path / f"{name}.tif", blobs((3000, 300)), compression="zlib") for name in ("bad", "good")]
    with tifffile.TiffFile(paths[0]) as file:
        segments = list(zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True))
    content = bytearray(paths[0].read_bytes())
    for offset, count in segments:
        content[offset : offset + count] = bytes(count)
    paths[0].write_bytes(content)
    assert main(["convert", *map(str, paths), "-o", str(tmp_path / "out")]) == 3
    out = capsys.readouterr().out
    assert [line.partition(":")[0] for line in out.splitlines()] == ["failed", "failed", str(tmp_path / "out" / "good.ome.zarr")]
    assert not (tmp_path / "out" / "bad.ome.zarr").exists()


def test_an_image_without_any_data_is_done(tmp_path, engine, networks):
    """An image without a single valid pixel is no failure: nothing is predicted, whatever is normalised, sampled or blended."""
    everywhere_YX = np.ones(SHAPE, bool)
    declare(tmp_path / "a.npz", scene(), everywhere_YX, "nan")
    for name in ("percentile", "zscore", "gaussian", "kmeans", "histogram", "local", "watershed"):
        keys = models(networks)[name]
        done = engine(**keys, images=["a.npz"], reader=READER, output=name)
        assert done.code == 0
        assert (done.mask("a.npz") == 255).all()
        assert done.report["no_prediction"] == everywhere_YX.size
