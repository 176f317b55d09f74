"""A network from a file is computed in fewer bits only where a trial has compared them, in a runtime that keeps the file's own casts."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import yaml

from pipeline.config import load_config
from pipeline.inputs import build_catalogue
from pipeline.plugins import build
from pipeline.tuning import backend_trial as trial
from pipeline.tuning import choose_recipe
from tests.conftest import blobs, engine_yaml, save_tiff

torch = pytest.importorskip("torch")
pytest.importorskip("openvino")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that returns the catalogue of a run with a TorchScript file, on a processor that seems to compute in bfloat16."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(trial, "WORTHWHILE", 0)
    for module in ("backend_trial", "compute_choice"):
        monkeypatch.setattr(f"pipeline.tuning.{module}.bf16_supported", lambda: True)
    network = torch.nn.Conv2d(1, 2, 3, padding=1)
    torch.nn.init.zeros_(network.weight)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated
        network.weight[1, 0, 1, 1] = 1.0
        network.bias.copy_(torch.tensor([0.0, -100.5]))
        torch.jit.trace(network.eval(), torch.zeros(1, 1, 64, 64)).save(str(tmp_path / "cells.pt"))
    save_tiff(tmp_path / "a.tif", blobs((300, 260)))

    def catalogue(card=None, **compute):
        (tmp_path / "cells.pt.yaml").write_text(yaml.safe_dump({"stride": 1, "field": 1, **(card or {})}))
        model = {"name": "torchscript", "path": str(tmp_path / "cells.pt"), "trust": True}
        compute = {"precision": "auto", "threads": 1, "device": "cpu", **compute}
        return build_catalogue(load_config(engine_yaml(tmp_path, model=model, normalize=None, compute=compute)))

    return catalogue


def tried(choice):
    return [(one.backend, one.precision) for one in choice.tried]


def test_fewer_bits_are_tried_and_remembered(run):
    """Only OpenVINO is tried in bfloat16, and taken where it agrees; later runs know it, also those too short for a trial."""
    choice = trial.try_backends(run())
    assert (choice.backend, choice.precision, tried(choice)) == ("openvino", "bf16", [("openvino", "bf16")])
    recipe = choose_recipe(run(), lambda: False, backend=choice).recipe
    assert (recipe.backend, recipe.precision) == ("openvino", "bf16")
    again = trial.try_backends(run())
    assert again.cached
    assert (again.backend, again.precision) == ("openvino", "bf16")


def test_without_a_trial_a_file_keeps_float32(run):
    """Nothing that was not compared computes a file in fewer bits."""
    assert choose_recipe(run(), lambda: False).recipe.precision == "fp32"


def test_fewer_bits_that_disagree_are_refused(run, monkeypatch):
    """Where bfloat16 changes masks, every backend is tried in float32; eager torch never converts the weights of a file."""
    honest = trial._try

    def lossy(catalogue, recipe, tiles, expected):
        found = honest(catalogue, recipe, tiles, expected)
        return replace(found, seconds=None, refused="98 % agree") if recipe.precision == "bf16" else found

    monkeypatch.setattr(trial, "_try", lossy)
    choice = trial.try_backends(run())
    assert choice.precision == "fp32"
    assert tried(choice)[0] == ("openvino", "bf16")
    assert {precision for _, precision in tried(choice)[1:]} == {"fp32"}
    assert ("torch", "fp32") in tried(choice)


@pytest.mark.parametrize(
    ("card", "compute", "precisions"),
    [({"bf16": False}, {}, {"fp32"}), ({}, {"precision": "fp32"}, {"fp32"}), ({}, {"precision": "bf16"}, {"bf16"})],
    ids=["card", "float32 asked", "bfloat16 asked"],
)
def test_what_is_asked_is_the_only_one(run, card, compute, precisions):
    """`bf16: false` beside the file keeps float32; a precision of the YAML is tried alone, in every backend that has it."""
    choice = trial.try_backends(run(card, **compute))
    assert {precision for _, precision in tried(choice)} == precisions
    assert "torch" in {backend for backend, _ in tried(choice)}


def test_a_processor_without_bfloat16_tries_float32_alone(run, monkeypatch):
    """There OpenVINO would compute in float32 and be called bf16."""
    monkeypatch.setattr(trial, "bf16_supported", lambda: False)
    assert {precision for _, precision in tried(trial.try_backends(run()))} == {"fp32"}


def test_who_may_be_tried(run):
    """Files may; networks that are built by name need no trial, and other models have no bits to save."""
    assert run().model.tries_bf16
    assert not run({"bf16": False}).model.tries_bf16
    unet = build("models", {"name": "unet", "depth": 1, "base": 2})
    assert (unet.allows_bf16, unet.tries_bf16) == (True, False)
    assert not build("models", {"name": "identity", "classes": 2}).tries_bf16
