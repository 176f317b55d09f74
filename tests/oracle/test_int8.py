"""Eight bits: calibrated once, the same for everybody, refused where it cannot be had."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import CALIBRATED_FOLDER, Recipe, config_from_mapping
from pipeline.errors import InputError
from pipeline.inputs import build_catalogue
from pipeline.tuning import int8_calibration as module
from pipeline.tuning.int8_calibration import calibrate_int8
from pipeline.tuning.recipe_choice import choose_recipe
from pipeline.tuning.sample_tiles import Comparison, SampleTile, predict_tiles, spread_locations
from tests.conftest import blobs, save_tiff

torch = pytest.importorskip("torch")
pytest.importorskip("openvino")

SHAPE = (600, 540)
TILING = {"core": 256, "halo": 24, "block": 256}


@pytest.fixture
def eight(engine, networks, tmp_path):
    """Run a decided network in eight bits."""
    save_tiff(tmp_path / "a.tif", blobs(SHAPE, seed=1))
    save_tiff(tmp_path / "t.tif", blobs(SHAPE, seed=2) // 86)

    def go(output="out", *, compute=None, **keys):
        keys = {"model": networks["same"], "tiling": TILING, **keys}
        return engine(output=output, compute={"precision": "int8", **(compute or {})}, **keys)

    return go


def test_what_is_not_installed_is_refused(eight, monkeypatch, tmp_path):
    """Without NNCF or OpenVINO, int8 is refused with the command that installs them, and nothing is written."""
    monkeypatch.setattr("pipeline.backends.openvino.find_spec", lambda _: None)
    with pytest.raises(InputError, match="compute.precision: found 'int8'.*pip install openvino nncf"):
        eight()
    assert not (tmp_path / "out").exists()


def test_who_cannot_is_refused(eight, tmp_path):
    """A backend without eight bits, and a model that is no single network, are refused before anything is written."""
    with pytest.raises(InputError, match="int8 with backend torch"):
        eight(compute={"backend": "torch"})
    member = {"name": "unet", "channels": 1, "classes": 3, "depth": 2, "base": 4}
    with pytest.raises(InputError, match="Only a single torch network"):
        eight(model={"name": "ensemble", "members": [member, member]})
    assert not (tmp_path / "out").exists()


@pytest.fixture
def tolerant(monkeypatch):
    """Random networks are seldom sure of a class; what is tested here is something else."""
    pytest.importorskip("nncf")
    monkeypatch.setattr("pipeline.tuning.int8_calibration.LEAST_AGREEMENT", 0.5)
    monkeypatch.setattr("pipeline.tuning.int8_calibration.MOST_LOST", 0.5)


def test_everybody_has_the_same_network(eight, tolerant, tmp_path):
    """Who asks for scores changes no mask, nor do more actors; a run that goes on reads the network that it began with."""
    pytest.importorskip("ray")
    done = eight()
    name = done.run_json["recipe"]["calibrated"]
    for output, keys in (("judged", {"truth": "t.tif"}), ("actors", {"compute": {"runner": "ray", "actors": 2}})):
        shutil.copytree(tmp_path / "out", tmp_path / output)
        shutil.rmtree(tmp_path / output / "masks")
        again = eight(output, **keys)
        assert again.run_json["recipe"]["calibrated"] == name
        assert np.array_equal(done.mask(), again.mask())
    assert len(np.unique(done.mask())) == 3


def test_a_changed_network_is_refused(eight, tolerant, tmp_path):
    """A calibrated network that is gone or changed ends the run with the way out, and no other takes its place."""
    name = eight().run_json["recipe"]["calibrated"]
    shutil.rmtree(tmp_path / "out" / "masks")
    weights = tmp_path / "out" / "calibrated" / name / "1.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"network that is changed.*--fresh"):
        eight()


def test_what_changes_too_much_is_refused(eight, monkeypatch, tmp_path):
    """Eight bits that change more classes than they may are refused with the share that agrees, and nothing is written."""
    pytest.importorskip("nncf")
    monkeypatch.setattr("pipeline.tuning.int8_calibration.LEAST_AGREEMENT", 1.01)
    with pytest.raises(InputError, match=r"int8, with which \d+\.\d+% of the pixels"):
        eight()
    assert not (tmp_path / "out").exists()


GLASS = 6  # grey level of a slide where nothing lies on it
SLIDE = 2048  # its side, pixels: 64 tiles


@pytest.fixture
def slide(monkeypatch, tmp_path):
    """Survey a slide of glass for the shipped `nuclei` in int8, with specimen on two tiles that a blind choice of as many misses."""
    pytest.importorskip("nncf")
    monkeypatch.setattr(module, "NUM_TILES", 9)
    monkeypatch.setattr(module, "NUM_HELD_OUT", 3)
    monkeypatch.setattr(module, "LOCATIONS_PER_TILE", 6)
    rng = np.random.default_rng(0)
    pixels = rng.normal(GLASS, 1.5, (SLIDE, SLIDE)).clip(0, 255).astype(np.uint8)
    spec = {"model": {"name": "bundle", "path": "nuclei"}, "normalize": {"mean": [float(GLASS)], "std": [60.0]}}
    spec |= {"images": ["slide.tif"], "compute": {"precision": "int8", "threads": 1}, "output": "out"}

    def go(*, has_specimen):
        save_tiff(tmp_path / "slide.tif", pixels)
        found = build_catalogue(config_from_mapping(spec, tmp_path, "x", []))
        blind = {(location.box.y0, location.box.x0) for location in spread_locations(found.images, 12, 256)}
        free = [(y, x) for y in range(0, SLIDE, 256) for x in range(0, SLIDE, 256) if (y, x) not in blind][:2]
        for y, x in free if has_specimen else ():
            pixels[y : y + 256, x : x + 256] += nuclei(rng)
        save_tiff(tmp_path / "slide.tif", pixels)
        return build_catalogue(config_from_mapping(spec, tmp_path, "x", [])), [
            pixels[None, None, y : y + 256, x : x + 256] for y, x in free
        ]

    return go


def nuclei(rng):
    """Bright discs of many sizes on nothing."""
    out, (rows, cols) = np.zeros((256, 256), np.uint8), np.mgrid[:256, :256]
    for y, x, radius in zip(rng.integers(0, 256, 35), rng.integers(0, 256, 35), rng.integers(8, 18, 35), strict=True):
        out[(rows - y) ** 2 + (cols - x) ** 2 < radius**2] = rng.integers(60, 200)
    return out


def test_it_is_calibrated_on_the_specimen(slide, tmp_path):
    """On a slide that is all glass but for two tiles, eight bits are calibrated and judged with these, and agree on them."""
    found, specimen = slide(has_specimen=True)
    recipe, worth = calibrate_int8(found, choose_recipe(found).recipe, tmp_path / "out")
    assert worth.iou["nucleus"] is not None
    tiles = [SampleTile(pixels_BCYX, {}) for pixels_BCYX in specimen]
    eight, expected = (
        predict_tiles(found, one, tiles)[0]
        for one in (replace(recipe, calibration_folder=str(tmp_path / "out" / CALIBRATED_FOLDER)), Recipe(threads=1))
    )
    compared = Comparison.of(eight, [logits for logits, *_ in expected])
    assert compared.agreement > 0.99
    assert (compared.lost_K <= 0.01 * compared.sure_K).all()


def test_glass_alone_is_refused(slide, tmp_path):
    """Where eager float32 finds one class, eight bits are refused, as nothing is known of what they do to the others."""
    found, _ = slide(has_specimen=False)
    with pytest.raises(InputError, match=r"finds a single class.*at least two classes"):
        calibrate_int8(found, choose_recipe(found).recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("share", "is_refused"), [(0.02, True), (0.005, False)])
def test_a_class_that_is_lost_is_refused(eight, monkeypatch, share, is_refused):
    """Eight bits that take 2 % of its pixels from a class that they were sure of are refused by its name, though 99 % of all agree."""
    pytest.importorskip("nncf")

    def planted(found, recipe, tiles, num_rounds=0):
        answers, seconds = predict_tiles(
            found, replace(recipe, precision="fp32", backend="torch", calibrated="", calibration_folder=""), tiles, num_rounds
        )
        if recipe.precision == "int8":
            for given in answers:
                margins = given[0][0, 2] - given[0][0, :2].max(axis=0)
                surest = np.argsort(margins, axis=None)[-round(share * np.count_nonzero(margins > 0)) :]
                given[0].reshape(3, -1)[2, surest] = -100
        return answers, seconds

    monkeypatch.setattr(module, "predict_tiles", planted)
    if is_refused:
        with pytest.raises(InputError, match=r"int8, with which \d\.\d+% of the pixels that are sure of class 2 in eager float32 change"):
            eight()
    else:
        assert eight().run_json["recipe"]["calibrated"]
