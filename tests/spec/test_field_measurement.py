"""A run measures of a network what it needs, says so, and never takes a halo that may be too small in silence."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import yaml

from pipeline.config import load_config
from pipeline.inputs import build_catalogue
from pipeline.models.networks import canvases, stride_and_field
from pipeline.plugins import build
from pipeline.tuning import choose_recipe, field_measurement, measure_stride_and_field
from pipeline.tuning.field_measurement import will_measure
from tests.conftest import engine_yaml, save_tiff
from workflows.models import measured
from workflows.plan import plan_config

DEPTH_2 = {"name": "unet", "depth": 2, "base": 2, "norm": "none", "channels": 1, "classes": 2}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that returns the catalogue of a run with a TorchScript file, in a fresh cache; keywords are model options."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(field_measurement, "num_gpus", lambda: 0)
    network = build("models", DEPTH_2).load()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated
        torch.jit.trace(network, torch.zeros(1, 1, 64, 64), check_trace=False).save(str(tmp_path / "cells.pt"))
    save_tiff(tmp_path / "a.tif", np.zeros((200, 200), np.uint8))

    def catalogue(halo="auto", card=None, **options):
        if card:
            (tmp_path / "cells.pt.yaml").write_text(yaml.safe_dump(card))
        model = {"name": "torchscript", "path": str(tmp_path / "cells.pt"), "trust": True, "classes": 2, **options}
        return build_catalogue(load_config(engine_yaml(tmp_path, model=model, normalize=None, tiling={"halo": halo})))

    return catalogue


def about_halo(catalogue):
    return [note for note in choose_recipe(catalogue, lambda: False).notes if note.startswith("tiling.halo")]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, ["stride", "field"]),
        ({"halo": 24}, ["stride"]),
        ({"card": {"tile": {"halo": 24}}}, ["stride"]),
        ({"stride": 4}, ["field"]),
        ({"field": 22}, ["stride"]),
        ({"size": 112}, ["stride"]),  # the core of the test's YAML, 64, leaves a halo of 24
        ({"halo": 24, "stride": 4}, []),
        ({"card": {"tile": {"halo": 24}}, "stride": 4}, []),
        ({"stride": 4, "field": 22}, []),
        ({"card": {"stride": 4, "field": 22}}, []),
    ],
    ids=str,
)
def test_a_run_measures_what_it_needs(run, options, what, capsys):
    """What is given, in the YAML or beside the file, is not measured; a halo stands for the field."""
    catalogue, exact = run(**options), build("models", DEPTH_2)
    assert will_measure(catalogue) == what
    measure_stride_and_field(catalogue)
    said = capsys.readouterr().err
    if what:
        later = "later runs know them" if len(what) > 1 else "later runs know it"
        assert said == f"measuring {' and '.join(what)} of cells.pt (once; {later})\n"
    else:
        assert not said
    assert will_measure(catalogue) == []
    assert catalogue.model.stride % exact.stride == 0
    if "field" in what:
        assert (catalogue.model.stride, catalogue.model.field) == (exact.stride, exact.field)
    measure_stride_and_field(catalogue)
    assert not capsys.readouterr().err


def test_a_stride_is_completed_by_a_later_run(run):
    """A run with a halo finds the stride; one without finds the field alone, and both know what it found."""
    measure_stride_and_field(run(halo=24))
    later = run()
    assert (later.model.stride, later.model.field, will_measure(later)) == (4, None, ["field"])
    measure_stride_and_field(later)
    assert (later.model.field, run(halo=24).model.unmeasured_key) == (build("models", DEPTH_2).field, None)


def test_a_plan_measures_nothing(run, monkeypatch):
    """A plan reads no pixels and loads no network: it says what the run will measure."""

    def loaded(*_):
        raise AssertionError

    for halo, what in (("auto", "stride and field of the model are measured"), (24, "stride of the model is measured")):
        catalogue = run(halo=halo)
        monkeypatch.setattr(type(catalogue.model), "load", loaded)
        notes = plan_config(catalogue.config)["notes"]
        assert any(note.startswith(f"{what} when the run begins") for note in notes)


def test_a_field_that_takes_too_long_is_told(run, monkeypatch, capsys):
    """Out of time the usual halo is taken, with a note that says what to do; later runs of the same size do not try again."""
    monkeypatch.setattr(canvases, "LEAST_S", -1)
    catalogue = run()
    measure_stride_and_field(catalogue)
    assert not catalogue.model.has_field
    (note,) = about_halo(catalogue)
    assert "the mask may differ near tile borders" in note
    assert "`gigaseg models --probe` measures it once" in note
    capsys.readouterr()
    measure_stride_and_field(catalogue)
    assert not capsys.readouterr().err
    exact = build("models", DEPTH_2)
    assert measured(catalogue.model) == {"stride": exact.stride, "field": exact.field}
    assert (catalogue.model.stride, catalogue.model.field, about_halo(catalogue)) == (exact.stride, exact.field, [])


def test_a_given_halo_that_may_be_too_small_is_told(run):
    """Nobody measured whether the halo is wide enough; where the field is given it is compared."""
    catalogue = run(halo=4)
    measure_stride_and_field(catalogue)
    (note,) = about_halo(catalogue)
    assert "the mask may differ near tile borders: the model's field is not known" in note
    (note,) = about_halo(run(halo=4, stride=4, field=22))
    assert "4 is less than the field of 22" in note
    assert about_halo(run(halo=24, stride=4, field=22)) == []


def test_a_cache_that_cannot_be_written_costs_later_runs_time(run, tmp_path, monkeypatch):
    """This run knows what it measured."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(stride_and_field, "_UNKEPT", {})
    catalogue = run()
    measure_stride_and_field(catalogue)
    exact = build("models", DEPTH_2)
    assert (catalogue.model.stride, catalogue.model.field) == (exact.stride, exact.field)


def test_smaller_cells_than_those_measured_see_farther(run):
    """A field that was measured for cells of 64 pixels is too small for cells of 4 by 60 at most."""
    catalogue = run(stride=4)
    stride_and_field.remember_probe(catalogue.model.unmeasured_key, stride_and_field.Probe(64, 10))
    assert (catalogue.model.stride, catalogue.model.field) == (4, 70)
