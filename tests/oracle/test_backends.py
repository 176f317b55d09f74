"""Whole runs with compiled backends: the cut does not show, runners agree, and masks do not depend on who asks for scores."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pipeline.backends import Backend
from pipeline.errors import InputError
from pipeline.geometry import ceil_to
from pipeline.plugins import build, find
from tests.conftest import NORMALIZE, Done, blobs, engine_yaml, save_tiff
from workflows.run import run

torch = pytest.importorskip("torch")

COMPILED = ["openvino", "onnxruntime"]
SHAPE = (150, 211)
FIELD = 24  # of the networks here, as a multiple of their stride
TILING = {"core": 52, "halo": FIELD, "block": 104}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=COMPILED)
def backend(request):
    plugin: type[Backend] = find("backends", request.param)
    if missing := plugin.missing():
        pytest.skip(f"not installed: {missing}")
    return request.param


def one_pass(spec, pixels_CYX):
    """Logits of the bare network over the whole image, reflect-padded by the field and to its stride."""
    network = build("models", spec)
    stride, module = network.stride, network.load().eval()
    height, width = pixels_CYX.shape[1:]
    padded = np.pad(pixels_CYX, [(0, 0), *[(FIELD, ceil_to(side, stride) - side + FIELD) for side in (height, width)]], mode="reflect")
    x = (torch.from_numpy(padded.astype(np.float32))[None] - NORMALIZE["mean"][0]) / NORMALIZE["std"][0]
    with torch.no_grad():
        logits_KYX = module(x)[0].numpy()
    lost = (padded.shape[1] - logits_KYX.shape[1]) // 2
    return logits_KYX[:, FIELD - lost : FIELD - lost + height, FIELD - lost : FIELD - lost + width]


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_tiled_is_whole(tmp_path, engine, networks, backend, padding):
    """With a halo of at least the field, the mask is that of one pass of the bare network."""
    pixels = blobs(SHAPE, seed=1)
    save_tiff(tmp_path / "a.tif", pixels)
    done = engine(model=networks[padding], tiling=TILING, compute={"backend": backend})
    logits_KYX = one_pass(networks[padding], pixels[None])
    ordered = np.sort(logits_KYX, axis=0)
    clear_YX = ordered[-1] - ordered[-2] > 1e-4
    assert done.run_json["recipe"]["backend"] == backend
    assert clear_YX.mean() > 0.99
    assert len(np.unique(done.mask())) == 3
    assert (done.mask() == logits_KYX.argmax(0))[clear_YX].all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_who_asks_for_scores_changes_no_mask(tmp_path, engine, networks, backend, precision):
    """The mask is the same with truth, which needs scores for its cross-entropy, and without; so is the overlap agreement."""
    if precision not in find("backends", backend).precisions:
        pytest.skip(f"{backend} has no {precision}")
    save_tiff(tmp_path / "a.tif", blobs(SHAPE, seed=1))
    save_tiff(tmp_path / "t.tif", blobs(SHAPE, seed=2) // 86)
    common = {"model": networks["same"], "tiling": TILING, "compute": {"backend": backend, "precision": precision}}
    plain = engine(output="plain", **common)
    judged = engine(output="judged", truth="t.tif", **common)
    blended = engine(output="blended", **{**common, "tiling": {**TILING, "stitch": "linear"}})
    assert plain.report["cross_entropy"] is None
    assert judged.report["cross_entropy"] is not None
    assert np.array_equal(plain.mask(), judged.mask())
    assert plain.report["overlap_agreement"] == judged.report["overlap_agreement"]
    # The control: blending does change some.
    assert not np.array_equal(plain.mask(), blended.mask())


@pytest.mark.parametrize(("stitch", "tta"), [("crop", "none"), ("linear", "none"), ("crop", "flips")])
def test_large_tiles_have_a_graph_of_their_size(tmp_path, engine, networks, monkeypatch, stitch, tta):
    """One at a time, which needs less memory, and the mask is the same, however tiles are stitched and often asked for."""
    openvino = pytest.importorskip("pipeline.backends.openvino")
    if openvino.Openvino.missing():
        pytest.skip("not installed: openvino")
    save_tiff(tmp_path / "a.tif", blobs(SHAPE, seed=1))
    model = {**networks["same"], "tta": tta}
    common = {"model": model, "tiling": {**TILING, "stitch": stitch}, "compute": {"backend": "openvino"}}
    expected = engine(output="any", **common)
    sizes, compiled = [], openvino._Requests._compiled

    def watched(self, model):
        sizes.append(str(model.inputs[0].partial_shape))
        assert self.large == ((), None) or "?" in sizes[-1]
        assert model.is_dynamic() == ("?" in sizes[-1])  # memory is planned only where no size is open
        return compiled(self, model)

    monkeypatch.setattr(openvino._Requests, "_compiled", watched)
    monkeypatch.setattr(openvino, "LARGE", 90 * 90)
    done = engine(output="large", **common)
    assert np.array_equal(done.mask(), expected.mask())
    assert sum("?" not in size for size in sizes) >= 2


@pytest.mark.parametrize("has", [False, True])
def test_bfloat16_that_there_is_not_is_told(tmp_path, engine, networks, monkeypatch, has):
    """OpenVINO computes in float32 where the processor has no bfloat16: run.json says that the recipe was not kept."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("not installed: openvino")
    monkeypatch.setattr("pipeline.backends.openvino.bf16_supported", lambda *_: has)
    save_tiff(tmp_path / "a.tif", blobs(SHAPE, seed=1))
    done = engine(model=networks["same"], tiling=TILING, compute={"backend": "openvino", "precision": "bf16"})
    assert done.run_json["recipe_kept"] is has
    assert ("this processor has no bfloat16: OpenVINO computed in float32" in done.run_json["recipe_changes"]) is not has


SIGNALS = """
import json, signal, sys
import numpy as np
from pipeline.plugins import build
from pipeline.config import Recipe
opened = [build("models", json.loads(sys.argv[1])).open(Recipe(backend="openvino"), None) for _ in range(2)]
for one in opened:
    one.__enter__()(np.zeros((1, 1, 64, 64), np.uint8), [{}])
while opened:
    opened.pop(0).__exit__(None, None, None)
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
signal.raise_signal(signal.SIGINT)
"""


def test_a_signal_is_heard_after_networks_have_gone(networks, backend):
    """Ctrl-C finds its handler, whatever stacks a backend has made for signals and let go of: first made, first gone."""
    if backend != "openvino":
        pytest.skip("no other makes such stacks")
    assert subprocess.run([sys.executable, "-c", SIGNALS, json.dumps(networks["same"])], timeout=60, check=False).returncode == 130


def test_a_pixel_that_overflows_is_quarantined(tmp_path, engine, networks, backend):
    """A block whose scores would not be finite is quarantined, and the others are predicted."""
    pixels = blobs(SHAPE, seed=1).astype(np.float32)
    pixels[3, 3] = np.finfo(np.float32).max
    save_tiff(tmp_path / "a.tif", pixels)
    normalize = {"mean": [128.0], "std": [1.0]}
    done = engine(model=networks["same"], normalize=normalize, tiling=TILING, compute={"backend": backend})
    assert done.code == 3
    assert [one["block"] for one in done.report["failures"]]
    assert "infinite" in done.report["failures"][0]["cause"]
    assert (done.mask()[:104, :104] == 255).all()
    assert (done.mask()[104:, 104:] < 3).all()


def test_test_time_augmentation_runs_on_it(tmp_path, engine, networks, backend):
    """Orientations are averaged as with eager torch."""
    save_tiff(tmp_path / "a.tif", blobs(SHAPE, seed=1))
    model = {**networks["same"], "tta": "flips"}
    fast = engine(output="fast", model=model, tiling=TILING, compute={"backend": backend})
    eager = engine(output="eager", model=model, tiling=TILING, compute={"backend": "torch"})
    assert (fast.mask() == eager.mask()).mean() > 0.9999


def test_what_is_not_installed_is_refused(tmp_path, engine, monkeypatch, backend):
    """A backend that is asked for and not installed is refused with the command that installs it, before anything is written."""
    save_tiff(tmp_path / "a.tif", blobs(SHAPE))
    monkeypatch.setattr("pipeline.backends.find_spec", lambda _: None)
    with pytest.raises(InputError, match=f"compute.backend: found '{backend}'.*pip install"):
        engine(compute={"backend": backend})
    assert not (tmp_path / "out").exists()


DATA = os.environ.get("GIGASEG_TEST_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="GIGASEG_TEST_DATA, the folder of real images, is not set")
PICTURES = {"nuclei": ("microscopy/nuclei-dsb2018", "images", "labels"), "aerial-landcover": ("aerial/dubai-mbrsc", "images", "masks")}
LANDCOVER = [{"name": name, "values": [at]} for at, name in enumerate(("water", "land", "road", "building", "vegetation"), 1)]
CLASSES = {"nuclei": [{"name": "background", "values": [0]}, {"name": "nucleus", "values": "other"}], "aerial-landcover": LANDCOVER}


def pictures(folder, name, count):
    """A YAML's keys for a shipped bundle over a few real images with their truth."""
    place, images, truth = PICTURES[name]
    found = sorted(path for path in (Path(DATA) / place / images).iterdir() if path.suffix in {".png", ".jpg", ".tif"})[:: 90 // count][
        :count
    ]
    assert len(found) > 1
    return {
        "images": [str(path) for path in found],
        "truth": f"{DATA}/{place}/{truth}/{{stem}}.png",
        "classes": CLASSES[name],
        "ignore": 0 if name == "aerial-landcover" else None,
        "model": {"name": "bundle", "path": name},
        "normalize": None,
        "tiling": None,
        "folder": folder,
    }


def ious(done):
    """IoU by class."""
    return {one["name"]: one["iou"] for one in done.report["classes"]}


NUM_PICTURES = {"nuclei": 6, "aerial-landcover": 2}


@pytest.fixture(scope="module")
def eager_ious(tmp_path_factory):
    """What eager float32 gives each class of a shipped bundle, by name; found once, whatever it is compared with."""

    @cache
    def find_ious(name):
        keys = pictures(tmp_path_factory.mktemp(name), name, NUM_PICTURES[name])
        assert run(engine_yaml(output="eager", compute={"backend": "torch"}, **keys)) == 0
        return ious(Done(0, keys["folder"] / "eager"))

    return find_ious


@needs_data
@pytest.mark.parametrize("name", list(NUM_PICTURES))
def test_backends_score_alike(tmp_path, engine, eager_ious, backend, name):
    """On real images each class of a shipped bundle has the IoU that eager float32 gives it, within 0.001."""
    done = engine(output="fast", compute={"backend": backend}, **pictures(tmp_path, name, NUM_PICTURES[name]))
    assert ious(done) == {key: pytest.approx(iou, abs=0.001) for key, iou in eager_ious(name).items()}
    assert min(eager_ious(name).values()) > 0.1


@needs_data
def test_eight_bits_change_little_and_say_so(tmp_path, engine, capsys):
    """Eight bits change the IoU of real nuclei by less than 0.02; run.json and a line say what they change, of tiles not seen before."""
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    keys = pictures(tmp_path, "nuclei", 9)
    eager = engine(output="eager", compute={"backend": "torch"}, **keys)
    done = engine(output="int8", compute={"precision": "int8"}, **keys)
    assert ious(done) == {key: pytest.approx(iou, abs=0.02) for key, iou in ious(eager).items()}
    said = done.run_json["calibration"]
    recipe = done.run_json["recipe"]
    assert (recipe["backend"], recipe["precision"], recipe["calibrated"]) == ("openvino", "int8", said["sha256"])
    assert 0.98 <= said["agreement"] < 1
    assert said["held_out"] > 0
    assert set(said["iou"]) == {"background", "nucleus"}
    assert f"{said['agreement']:.2%} of the pixels agree with eager float32" in capsys.readouterr().err
