"""The backend of a short run: by the table of measurements, checked once for each network, the same in plan and run."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from pipeline.config import Recipe, config_from_mapping
from pipeline.inputs import build_catalogue
from pipeline.models import TorchModel
from pipeline.models.bundle_files import find_bundle, list_bundles, read_spec
from pipeline.tuning import backend_choice as choice
from pipeline.tuning.backend_table import BackendRow, BackendTable, processor_class
from tests.conftest import blobs, engine_yaml, save_tiff

torch = pytest.importorskip("torch")
pytest.importorskip("openvino")

SHAPE = (96, 80)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Set what the table says of light networks here: ``measured(torch=.., openvino=..)`` in seconds a megapixel; an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    save_tiff(tmp_path / "a.tif", blobs(SHAPE))

    def go(prepare_s=0.0, kind="light", **seconds):
        rows = tuple(
            BackendRow(processor_class(), "net", kind, name, precision, prepare_s if name == "openvino" else 0.0, {1: rate})
            for name, rate in seconds.items()
            for precision in ("fp32", "bf16")
        )
        table = BackendTable(rows, start_s=0.0, import_s=1.0, ray_s=5.0, other_s=0.0, efficiency=0.9)
        monkeypatch.setattr(choice, "read_table", lambda: table)
        monkeypatch.setattr("pipeline.tuning.compute_choice.read_table", lambda: table)

    return go


@pytest.fixture
def planned(tmp_path, capsys):
    """The backend and the notes that plan tells, as JSON."""
    from workflows.plan import plan

    def go(**keys):
        capsys.readouterr()
        plan(engine_yaml(tmp_path, **keys), as_json=True)
        content = json.loads(capsys.readouterr().out)
        return content["recipe"]["backend"], content["notes"]

    return go


def note_of(notes):
    """The one note about the backend."""
    (note,) = (note for note in notes if note.startswith("compute.backend"))
    return note


@pytest.mark.parametrize("fastest", ["openvino", "torch"])
def test_a_short_run_has_the_backend_of_the_fewest_seconds(measured, engine, planned, networks, fastest):
    """Plan and run say which, why, and the same; the masks are those of the other backend; no trial is recorded."""
    measured(prepare_s=1.0 if fastest == "torch" else 0.0, **{"torch": 2.0, "openvino": 2.0, fastest: 1.0})
    backend, notes = planned(model=networks["same"], output="auto")
    done = engine(model=networks["same"], output="auto")
    assert backend == done.run_json["recipe"]["backend"] == fastest
    assert note_of(done.run_json["notes"]) == note_of(notes)
    assert note_of(notes).startswith(f"compute.backend: {fastest} fp32, the fastest for 0.0077 megapixels, as measured with light")
    assert note_of(notes) in done.log or note_of(notes) in " ".join(done.run_json["notes"])
    assert "trial" not in done.run_json
    other = {"openvino": "torch", "torch": "openvino"}[fastest]
    assert np.array_equal(done.mask(), engine(model=networks["same"], output="named", compute={"backend": other}).mask())


def test_a_named_backend_is_no_choice(measured, engine, networks):
    """The YAML's backend is used, and nothing is said of it."""
    measured(torch=2.0, openvino=1.0)
    done = engine(model=networks["same"], compute={"backend": "torch"})
    assert done.run_json["recipe"]["backend"] == "torch"
    assert not [note for note in done.run_json["notes"] if note.startswith("compute.backend")]


def test_preparing_decides_for_few_pixels(measured, engine, networks):
    """Ten seconds of compiling are not repaid by 7,680 pixels; by a graph that is kept already they are saved."""
    measured(prepare_s=10.0, torch=2.0, openvino=1.0)
    assert engine(model=networks["same"]).run_json["recipe"]["backend"] == "torch"


def test_a_kept_graph_is_used_by_the_smallest_run(measured, engine, networks):
    """A graph of this network that an earlier run, of that backend by name, left in the user's cache needs no compiling."""
    measured(prepare_s=10.0, torch=2.0, openvino=1.0)
    engine(model=networks["same"], output="named", compute={"backend": "openvino"})
    assert engine(model=networks["same"]).run_json["recipe"]["backend"] == "openvino"
    assert engine(model=networks["valid"], output="other").run_json["recipe"]["backend"] == "torch", "a control"


class Branching(torch.nn.Module):
    """Chooses by the values of the pixels, which no recording can do."""

    def forward(self, x):
        """Return logits of two classes, the other way round for dark tiles."""
        logits = torch.cat([x, -x], 1)
        return logits if x.mean() > 0.5 else -logits


@pytest.fixture
def branching(monkeypatch):
    """The spec of a model of this network; ``branching.loads`` counts how often it was loaded."""

    class Branched(TorchModel):
        """A network that OpenVINO cannot trace."""

        num_classes: ClassVar[int] = 2
        field: ClassVar[int] = 0

        def load(self):
            module.loads += 1
            return Branching()

    module = types.ModuleType("branched.model")
    module.__all__, module.Branched, module.loads = ["Branched"], Branched, 0
    Branched.__module__ = module.__name__
    monkeypatch.setitem(sys.modules, "branched", types.ModuleType("branched"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_a_network_that_the_chosen_backend_cannot_run_runs_in_torch(measured, engine, planned, branching):
    """The run says why, and is not failed; the next one, and plan, know it without trying."""
    measured(torch=2.0, openvino=1.0)
    keys = {"model": {"name": "branched.model"}, "normalize": None}
    assert planned(output="one", **keys)[0] == "openvino", "what nobody has tried is expected to work"
    done = engine(output="one", **keys)
    assert done.code == 0
    assert done.run_json["recipe"]["backend"] == "torch"
    assert "as openvino does not serve this network: compute.backend: found openvino, which cannot run this network" in note_of(
        done.run_json["notes"]
    )
    assert np.array_equal(done.mask(), engine(output="named", compute={"backend": "torch"}, **keys).mask())
    branching.loads = 0
    assert engine(output="two", **keys).run_json["recipe"]["backend"] == "torch"
    assert branching.loads == 1, "the run itself, without another check"
    backend, notes = planned(output="three", **keys)
    assert backend == "torch"
    assert "does not serve this network" in note_of(notes)


def test_a_network_is_checked_once(measured, engine, networks, monkeypatch):
    """What agrees with eager float32 is remembered; other weights are checked again."""
    measured(torch=2.0, openvino=1.0)
    checked = []
    predict_tiles = choice.predict_tiles

    def counted(catalogue, recipe, tiles):
        checked.append(recipe.backend)
        return predict_tiles(catalogue, recipe, tiles)

    monkeypatch.setattr(choice, "predict_tiles", counted)
    assert engine(model=networks["same"], output="one").run_json["recipe"]["backend"] == "openvino"
    assert checked == ["torch", "openvino"]
    assert engine(model=networks["same"], output="two").run_json["recipe"]["backend"] == "openvino"
    assert checked == ["torch", "openvino"]
    assert engine(model=networks["valid"], output="three").run_json["recipe"]["backend"] == "openvino"
    assert checked == ["torch", "openvino"] * 2


def test_a_backend_that_disagrees_is_left(measured, engine, networks, monkeypatch):
    """Classes other than those of eager float32 on the user's tiles: the run is eager, says how many differ, and others know it."""
    measured(torch=2.0, openvino=1.0)
    predict_tiles = choice.predict_tiles

    def lying(catalogue, recipe, tiles):
        answers, seconds = predict_tiles(catalogue, recipe, tiles)
        if recipe.backend == "openvino":
            answers = [[-answer for answer in given] for given in answers]
        return answers, seconds

    monkeypatch.setattr(choice, "predict_tiles", lying)
    done = engine(model=networks["same"], output="one")
    assert done.run_json["recipe"]["backend"] == "torch"
    assert "of the pixels agree with eager float32" in note_of(done.run_json["notes"])
    monkeypatch.setattr(choice, "predict_tiles", predict_tiles)
    assert engine(model=networks["same"], output="two").run_json["recipe"]["backend"] == "torch"


def test_a_failure_that_passes_is_not_remembered(measured, engine, networks, monkeypatch):
    """Short memory during the check: this run is eager, and the next one checks again."""
    measured(torch=2.0, openvino=1.0)
    predict_tiles = choice.predict_tiles

    def short_of_memory(catalogue, recipe, tiles):
        if recipe.backend == "openvino":
            raise MemoryError("cannot allocate")
        return predict_tiles(catalogue, recipe, tiles)

    monkeypatch.setattr(choice, "predict_tiles", short_of_memory)
    assert engine(model=networks["same"], output="one").run_json["recipe"]["backend"] == "torch"
    monkeypatch.setattr(choice, "predict_tiles", predict_tiles)
    assert engine(model=networks["same"], output="two").run_json["recipe"]["backend"] == "openvino"


def test_fewer_bits_on_tiles_of_one_class_are_checked_again(measured, engine, networks, monkeypatch, tmp_path):
    """Glass alone says nothing of bfloat16; of float32 it is enough that the network runs."""
    measured(torch=2.0, openvino=1.0)
    monkeypatch.setattr("pipeline.tuning.compute_choice.bf16_supported", lambda: True)
    save_tiff(tmp_path / "a.tif", np.full(SHAPE, 128, np.uint8))
    folder = tmp_path / "cache" / "gigaseg" / choice.CHECKS
    done = engine(model=networks["valid"], output="bf16", compute={"precision": "auto"})
    assert (done.run_json["recipe"]["backend"], done.run_json["recipe"]["precision"]) == ("openvino", "bf16")
    assert not folder.exists()
    engine(model=networks["valid"], output="fp32")
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("name", list(list_bundles()))
def test_shipped_bundles_need_no_check_as_openvino_agrees(tmp_path, monkeypatch, name):
    """In float32 OpenVINO and eager torch choose the same classes for drawn cells, but for near ties, so that no run compares them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pixels_YX = blobs((320, 288))
    options = {"name": "bundle", "path": name}
    pixels = pixels_YX if read_spec(find_bundle(name)).merge_channels else np.stack([pixels_YX] * 3, -1)
    save_tiff(tmp_path / "a.tif", pixels)
    config = config_from_mapping({"images": [str(tmp_path / "a.tif")], "model": options, "output": str(tmp_path / "out")}, tmp_path)
    catalogue = build_catalogue(config)
    recipe = Recipe("openvino", precision="fp32")
    assert not choice._needs_check(catalogue, recipe)
    assert choice._refusal(catalogue, recipe) == ""
    assert choice._needs_check(catalogue, replace(recipe, precision="bf16")), "fewer bits are compared on the user's images"
