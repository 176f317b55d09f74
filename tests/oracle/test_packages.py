"""Zoo packages: pre-processing over the whole image, their own reference tensors, refusals that name the key."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import yaml

from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.models.model_zoo.preprocessing import mean_and_std, sum_moments
from pipeline.models.networks.stride_and_field import Probe, probe_key, remember_probe
from pipeline.plugins import build
from pipeline.tiling import NumpyOps
from tests.conftest import blobs, save_tiff
from tests.oracle.network_files import SIZE, TINY, zoo, zoo_scene

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize(
    "options", [{}, {"trust": True}, {"weights": "torchscript", "trust": True}], ids=["onnx", "torchscript", "asked for"]
)
def test_a_zoo_package_reproduces_its_reference(options):
    """The package's own input, prepared as it says, gives its published output within 1e-4; the check itself passes."""
    model = build("models", {"name": "bioimageio", "path": str(zoo()), **options})
    assert (model.num_classes, model.num_channels, model.fixed_size) == (2, 1, 512)
    assert type(model.network).__name__ == ("TorchScript" if options else "Onnx")
    assert [one["name"] for one in model.class_list] == ["background", "probability"]
    assert pickle.loads(pickle.dumps(model)) == model
    model.check()
    image, expected = (np.load(zoo() / name) for name in ("test_input.npy", "test_output.npy"))
    fitter = model.fitter()
    fit = fitter.fit(fitter.observe(image[0], None, Box(0, 0, 512, 512), 0))
    with model.open(Recipe()) as predict:
        logits = predict(image, [{"model": fit}])
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, 1:])), expected, rtol=0, atol=1e-4)


def test_a_zoo_package_runs_with_statistics_of_the_whole_image(tmp_path, engine):
    """Mean and deviation come from all of a float image, exactly, whatever the blocks; the mask is that of one pass."""
    normalize, logits = zoo_scene(tmp_path)
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        for path in zoo().iterdir():
            archive.write(path, path.name)
    model = {"name": "bioimageio", "path": str(tmp_path / "package.zip")}
    read = build("models", model)
    remember_probe(read.unmeasured_key, Probe(8, 54))
    done = engine(model=model, normalize=None, tiling={"core": 400, "halo": 56, "block": 400})
    assert done.code == 0
    sure = np.abs(logits) > 1e-3  # the package's own 1e-6 in the divisor
    assert (done.mask() == (logits > 0))[sure].all()
    with pytest.raises(InputError, match=r"normalize.*null"):
        engine(model=model, tiling={"core": 400, "halo": 56, "block": 400}, output="other", normalize=normalize)


def package(folder, change=None, new=True, network="any.onnx", files=None, **keys):
    """A package of the tiny network, of either format, with ``preprocessing`` and whatever else ``keys`` say."""
    folder.mkdir()
    module, found = files
    shutil.copy(found[network], folder / network)
    raw = np.random.default_rng(0).integers(0, 255, (1, 2, SIZE, SIZE)).astype(np.float32)
    steps = keys.pop("preprocessing", [])
    np.save(folder / "in.npy", raw)
    with torch.no_grad():
        np.save(folder / "out.npy", module(torch.from_numpy(keys.pop("prepared", raw))).softmax(1).numpy())
    weights = {keys.pop("format", "onnx"): {"source": network, **keys.pop("entry", {})}}
    if new:
        space = [{"type": "space", "id": name, "size": {"min": 16, "step": 4}} for name in "yx"]
        result = [{"type": "space", "id": name, "size": {"tensor_id": "raw", "axis_id": name}, "halo": 8} for name in "yx"]
        data = {
            "format_version": "0.5.4",
            "type": "model",
            "inputs": [
                {
                    "id": "raw",
                    "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["r", "g"]}, *space],
                    "test_tensor": {"source": "in.npy"},
                    "preprocessing": [{"id": name, "kwargs": kwargs} for name, kwargs in steps],
                }
            ],
            "outputs": [
                {
                    "id": "out",
                    "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["a", "b", "c"]}, *result],
                    "test_tensor": {"source": "out.npy"},
                    "postprocessing": [{"id": "softmax", "kwargs": {"axis": "channel"}}],
                }
            ],
            "weights": weights,
        }
    else:
        data = {
            "format_version": "0.4.10",
            "type": "model",
            "inputs": [
                {
                    "name": "raw",
                    "axes": "bcyx",
                    "shape": {"min": [1, 2, 16, 16], "step": [0, 0, 4, 4]},
                    "preprocessing": [{"name": name, "kwargs": kwargs} for name, kwargs in steps],
                }
            ],
            "outputs": [
                {
                    "name": "out",
                    "axes": "bcyx",
                    "shape": {"reference_tensor": "raw", "scale": [1, 1, 1, 1], "offset": [0, 0, 0, 0]},
                    "halo": [0, 0, 8, 8],
                    "postprocessing": [{"name": "softmax"}],
                }
            ],
            "test_inputs": ["in.npy"],
            "test_outputs": ["out.npy"],
            "weights": weights,
        }
    if change:
        change(data)
    (folder / "rdf.yaml").write_text(yaml.safe_dump(data))
    return {"name": "bioimageio", "path": str(folder)}


CHANNELS = (0, 2, 3)  # axes of statistics by channel leave out 1
STEPS = {
    "zscore": (
        lambda new: [("zero_mean_unit_variance", {"axes": ["y", "x"] if new else "xy", **({} if new else {"mode": "per_sample"})})],
        lambda x: (x - x.mean(CHANNELS, keepdims=True)) / (x.std(CHANNELS, keepdims=True) + 1e-6),
    ),
    "pooled": (
        lambda new: [("zero_mean_unit_variance", {"axes": ["channel", "y", "x"] if new else "cxy", "eps": 1e-3})],
        lambda x: (x - x.mean()) / (x.std() + 1e-3),
    ),
    "fixed": (
        lambda new: [
            ("fixed_zero_mean_unit_variance", {"mean": [100.0, 90.0], "std": [50.0, 60.0], "axis": "channel"})
            if new
            else ("zero_mean_unit_variance", {"mode": "fixed", "mean": [100.0, 90.0], "std": [50.0, 60.0], "axes": "xy"})
        ],
        lambda x: (x - np.array([100, 90.0]).reshape(1, 2, 1, 1)) / (np.array([50, 60.0]).reshape(1, 2, 1, 1) + 1e-6),
    ),
    "range": (
        lambda new: [
            ("scale_range", {"axes": ["y", "x"] if new else "xy", "min_percentile": 3.0, "max_percentile": 97.5}),
            ("clip", {"min": 0.0, "max": 1.0}),
        ],
        lambda x: np.clip(
            (x - np.percentile(x, 3, CHANNELS, keepdims=True))
            / (np.percentile(x, 97.5, CHANNELS, keepdims=True) - np.percentile(x, 3, CHANNELS, keepdims=True) + 1e-6),
            0,
            1,
        ),
    ),
    "chain": (
        lambda new: [
            ("clip", {"min": 20.0, "max": 200.0}),
            ("scale_linear", {"gain": 0.5, "offset": -3.0}),
            ("zero_mean_unit_variance", {"axes": ["y", "x"] if new else "xy"}),
            ("sigmoid", {}),
        ],
        lambda x: (
            1
            / (
                1
                + np.exp(
                    -(
                        (np.clip(x, 20, 200) * 0.5 - 3 - (np.clip(x, 20, 200) * 0.5 - 3).mean(CHANNELS, keepdims=True))
                        / ((np.clip(x, 20, 200) * 0.5 - 3).std(CHANNELS, keepdims=True) + 1e-6)
                    )
                )
            )
        ),
    ),
    "binarize": (lambda new: [("binarize", {"threshold": 128.0})], lambda x: (x > 128).astype(float)),
}


@pytest.mark.parametrize("new", [True, False], ids=["0.5", "0.4"])
@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_steps_are_exact_over_the_whole_image(tmp_path, files, new, kind, dtype):
    """Each kind of pre-processing, in both formats, is numpy's over the whole image, though blocks are summed in any order."""
    steps, reference = STEPS[kind]
    model = build("models", package(tmp_path / "p", files=files, new=new, preprocessing=steps(new)))
    assert (model.stride, model.num_classes, model.tile) == (4, 3, {"halo": 8})
    pixels = np.random.default_rng(1).integers(0, 255, (2, 50, 70)).astype(dtype)
    fitter, fit = model.fitter(), {}
    if fitter is not None:
        parts = [fitter.observe(pixels[:, rows], None, Box(0, 0, 1, 1), 0) for rows in (slice(20), slice(20, 50))]
        fit = {"model": json.loads(json.dumps(fitter.fit(fitter.merge(parts[1], parts[0]))))}
    expected = reference(pixels[None].astype(np.float64))[0]
    found = model.package.preprocessing.apply(pixels, fit.get("model"))
    if dtype == np.float32 and kind in ("range", "chain"):
        assert np.abs(found - expected).max() < 0.02  # binned: documented as within 1 % of the value
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_mean_and_deviation_of_floats_are_exact():
    """Sums over any blocks give the mean and the deviation of all values, from tiny to huge, as float64 numpy would."""
    rng = np.random.default_rng(0)
    for values in (rng.normal(3000, 1e-2, 70_000), rng.normal(0, 1e30, 1000), np.array([1e-40, -1e-42, 0.0]), rng.exponential(1, 5)):
        values = values.astype(np.float32)
        mean, std = mean_and_std(sum_moments(values[3:]) + sum_moments(values[:3]))
        assert mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-12, abs=1e-60)
        assert std == pytest.approx(values.astype(np.float64).std(), rel=1e-9)
    assert mean_and_std(sum_moments(np.zeros(0))) == (0.0, 1.0)


def test_a_package_that_fails_its_own_test_is_refused(tmp_path, engine, files):
    """A run of a package begins with its own tensors; another output is refused with the difference, and nothing is written."""
    spec = package(tmp_path / "p", files=files)
    save_tiff(tmp_path / "a.tif", blobs((40, 50), channels=2), photometric="minisblack")
    keys = {"normalize": None, "reader": {"name": "auto", "axes": "cyx"}, "model": spec}
    remember_probe(probe_key(tmp_path / "p" / "any.onnx"), Probe(4, 22))
    assert engine(**keys, output="good").code == 0
    np.save(tmp_path / "p" / "out.npy", np.load(tmp_path / "p" / "out.npy") * 0.9)
    with pytest.raises(InputError, match=r"rdf.yaml: found a test output that differs by up to 0\.\d+.*expected [\d.e-]+"):
        engine(**keys, output="bad")
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format_version="0.3.2"), "format_version: found '0.3.2'; expected 0.4 or 0.5"),
        (lambda data: data["inputs"].append(data["inputs"][0]), "2 inputs and 1 outputs"),
        (lambda data: data["inputs"][0]["axes"].insert(2, {"type": "space", "id": "z", "size": 8}), "axes: found bczyx.*Volumes"),
        (lambda data: data["inputs"][0].update(preprocessing=[{"id": "custom"}]), "preprocessing custom"),
        (
            lambda data: data["inputs"][0].update(preprocessing=[{"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel"]}}]),
            "statistics of the whole image",
        ),
        (lambda data: data["outputs"][0].update(postprocessing=[{"id": "scale_range"}]), "postprocessing scale_range"),
        (lambda data: data.update(weights={"keras_hdf5": {"source": "w.h5"}}), "weights: found keras_hdf5"),
        (lambda data: data.update(weights={"onnx": {"source": "https://example.org/w.onnx"}}), "as files of the package"),
        (lambda data: data.pop("outputs"), "a key that is missing or wrong"),
        (lambda data: data["inputs"][0]["axes"][3].update(size=32) or data["inputs"][0]["axes"][2].update(size=64), "as high as wide"),
        (lambda data: data.update(weights={"torchscript": {"source": "any.onnx"}}), "model.trust: found false"),
    ],
)
def test_packages_that_cannot_be_run_say_why(tmp_path, files, change, message):
    """What a description asks for and is not done here is refused where the package is named, with its key."""
    with pytest.raises(InputError, match=message):
        build("models", package(tmp_path / "p", files=files, change=change), "model")


def test_a_package_is_checked_for_damage(tmp_path, files):
    """Weights whose hash is another than the description's, folders without one and broken zips are refused."""
    spec = package(tmp_path / "p", files=files, entry={"sha256": hashlib.sha256(b"other").hexdigest()})
    with pytest.raises(InputError, match="changed or truncated"):
        build("models", spec).check()
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    for name, message in (("empty", "without rdf.yaml"), ("broken.zip", "no readable zip")):
        with pytest.raises(InputError, match=message):
            build("models", {"name": "bioimageio", "path": str(tmp_path / name)})
    assert build("models", {"name": "bioimageio", "path": str(tmp_path / "absent")}).files() == (tmp_path / "absent",)


def test_nothing_goes_around_the_preparation(tmp_path, files):
    """Whatever short cuts a backend's predictor offers, they are of pixels as the network takes them, and are not passed on."""
    model = build("models", package(tmp_path / "p", files=files, preprocessing=[("scale_linear", {"gain": 0.01, "offset": -1.0})]))
    pixels_BCYX = np.load(tmp_path / "p" / "in.npy")
    with model.open(Recipe()) as predict:
        predict(pixels_BCYX, [{}])
        assert not predict.has_own_classes
        assert np.array_equal(predict.classes(pixels_BCYX, [{}]), predict(pixels_BCYX, [{}]))
        assert isinstance(predict.ops, NumpyOps)
        assert predict.notes == []


def test_a_package_may_bring_its_architecture(tmp_path, files):
    """A state dict with Python code runs only with trust, and then reproduces the test output."""
    torch.save(files[0].state_dict(), tmp_path / "weights.bin")
    code = "from pipeline.plugins import build\ndef make(**options):\n    return build('models', {'name': 'unet', **options}).load()\n"
    kwargs = {key: value for key, value in TINY.items() if key != "name"}
    entry = {"architecture": {"source": "net.py", "callable": "make", "kwargs": kwargs}}
    found = files[0], {"weights.bin": tmp_path / "weights.bin"}
    spec = package(tmp_path / "p", files=found, network="weights.bin", format="pytorch_state_dict", entry=entry)
    (tmp_path / "p" / "net.py").write_text(code)
    with pytest.raises(InputError, match="can run any code"):
        build("models", spec)
    build("models", {**spec, "trust": True}).check()


def test_probabilities_and_single_channels_become_logits(tmp_path, files):
    """A package whose network returns probabilities gives their logarithms; one channel of several can be the foreground."""
    spec = package(tmp_path / "p", files=files)
    plain, picked = build("models", spec), build("models", {**spec, "channel": 2})
    assert [one["name"] for one in picked.class_list] == ["background", "c"]
    tile = np.random.default_rng(0).integers(0, 255, (1, 2, 32, 32), np.uint8)
    with plain.open(Recipe()) as every, picked.open(Recipe()) as one:
        logits, two = every(tile, [{}]), one(tile, [{}])
    assert two.shape[1] == 2
    np.testing.assert_array_equal(two[:, 1], logits[:, 2])
    with build("models", {**spec, "scores": "probabilities"}).open(Recipe()) as predict:
        np.testing.assert_allclose(np.exp(predict(tile, [{}])), np.clip(logits, 1e-7, 1 - 1e-7), rtol=1e-5)
