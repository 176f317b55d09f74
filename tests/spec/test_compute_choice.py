"""Where tiles are predicted: the GPUs that count are those of the machines on which actors run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.inputs import build_catalogue
from pipeline.scheduling.runners.ray import authenticate
from pipeline.tuning import choose_recipe
from tests.conftest import blobs, engine_yaml, save_tiff

authenticate(None)  # Ray reads how when it is imported, once for this process
head = pytest.importorskip("pipeline.scheduling.runners._head")
choice = pytest.importorskip("pipeline.tuning.compute_choice")


@pytest.fixture
def device(tmp_path, monkeypatch):
    """The device that is chosen for a network: ``device(here=..., there=..., **compute)`` with so many GPUs here and on the cluster."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def go(here, there, **compute):
        save_tiff(tmp_path / "a.tif", blobs((64, 64)))
        monkeypatch.setattr(choice, "num_gpus", lambda: here)
        monkeypatch.setattr(head, "look_at", lambda address: asked.append(address) or SimpleNamespace(num_gpus=there))
        catalogue = build_catalogue(load_config(engine_yaml(tmp_path, compute={"runner": "auto", **compute})))
        return choose_recipe(catalogue).recipe.device

    asked = []
    go.asked = asked
    return go


@pytest.mark.parametrize(("here", "there"), [(0, 2), (4, 0)])
def test_the_cluster_decides_where_there_is_one(device, monkeypatch, here, there):
    """A head without GPUs uses those of its nodes, and a laptop with one expects none on a cluster without; asked without joining."""
    assert device(here, there, address="head:6379") == ("cuda" if there else "cpu")
    assert set(device.asked) == {"head:6379"}
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")
    assert device(here, there, runner="ray") == ("cuda" if there else "cpu")
    assert device.asked[-1] == "other:6379"


def test_nobody_is_asked_without_need(device, monkeypatch):
    """Neither for a run on this machine, nor where the YAML names the device."""
    assert device(1, 0) == "cuda"
    assert device(0, 1, runner="serial") == "cpu"
    assert device(0, 1, address="head:6379", device="cpu") == "cpu"
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")
    assert device(0, 1) == "cpu", "a small run is serial"
    assert device.asked == []


def test_a_cluster_that_a_serial_run_would_not_use_is_refused(device):
    """An address that has no effect is not passed over."""
    with pytest.raises(InputError, match=r"compute\.address: found head:6379, with runner: serial; expected .*address: null"):
        device(0, 1, runner="serial", address="head:6379")


def test_a_cluster_that_does_not_answer_is_told_before_a_recipe_is_chosen(tmp_path, monkeypatch):
    """A recipe for CPUs would be the wrong one, and would stay with the folder."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    save_tiff(tmp_path / "a.tif", blobs((64, 64)))
    catalogue = build_catalogue(load_config(engine_yaml(tmp_path, compute={"runner": "ray", "address": "127.0.0.1:1"})))
    with pytest.raises(InputError, match=r"compute\.address: found 127\.0\.0\.1:1, where no Ray answers"):
        choose_recipe(catalogue)
    assert not (tmp_path / "out").exists()
