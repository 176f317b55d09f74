"""Eight bits: calibrated once, the same for everybody, refused where it cannot be had."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from pipeline.errors import InputError
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
    monkeypatch.setattr("pipeline.calibrate.AGREEMENT", 0.5)


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
    monkeypatch.setattr("pipeline.calibrate.AGREEMENT", 1.01)
    with pytest.raises(InputError, match=r"int8, with which \d+\.\d+% of the pixels"):
        eight()
    assert not (tmp_path / "out").exists()
