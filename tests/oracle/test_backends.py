"""Whole runs with compiled backends: the cut does not show, runners agree, and masks do not depend on who asks for scores."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.backends import Backend
from pipeline.errors import InputError
from pipeline.geometry import ceil_to
from pipeline.plugins import build, find
from tests.conftest import NORMALIZE, blobs, save_tiff

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


def test_a_pixel_of_infinity_is_quarantined(tmp_path, engine, networks, backend):
    """A block whose scores would not be finite is quarantined, and the others are predicted."""
    pixels = blobs(SHAPE, seed=1).astype(np.float32)
    pixels[3, 3] = np.inf
    save_tiff(tmp_path / "a.tif", pixels)
    done = engine(model=networks["same"], tiling=TILING, compute={"backend": backend})
    assert done.code == 3
    assert [one["block"] for one in done.report["failures"]]
    assert "infinite" in done.report["failures"][0]["cause"]
    assert (done.mask()[:104, :104] == 255).all()
    assert (done.mask()[104:, 104:] < 3).all()


def test_ray_agrees_with_serial(tmp_path, engine, networks, backend):
    """Two actors give the masks and the report of one process, with images of several types and sizes."""
    pytest.importorskip("ray")
    save_tiff(tmp_path / "img" / "a.tif", blobs(SHAPE, seed=1))
    save_tiff(tmp_path / "img" / "b.tif", blobs((90, 70), seed=2, dtype=np.uint16))
    common = {"images": ["img/*.tif"], "model": networks["same"], "normalize": "zscore", "tiling": TILING}
    serial = engine(output="serial", compute={"backend": backend}, **common)
    actors = engine(output="ray", compute={"backend": backend, "runner": "ray", "actors": 2}, **common)
    for name in ("a", "b"):
        assert len(np.unique(serial.mask(name))) > 1
        assert np.array_equal(serial.mask(name), actors.mask(name))
    assert serial.report == actors.report


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
