"""What an actor finds out about its node: files that are not there, an output of another folder, hardware that cannot run the recipe."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.config import Recipe
from pipeline.engine import Job
from pipeline.errors import LockLost
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.scheduling.runners.ray import authenticate
from pipeline.storage import LocalStorage

authenticate(None)  # Ray reads how when it is imported, once for this process
module = pytest.importorskip("pipeline.scheduling.runners._node_check")


@pytest.fixture
def job(tmp_path):
    """A job whose output is there."""
    (tmp_path / "out").mkdir()
    return Job(LocalStorage(tmp_path / "out"), Recipe())


def image(path, truth=None):
    return Image(0, "a", str(path), Header((1, 1), 1, "uint8"), {}, truth=truth)


def test_a_node_that_sees_all_has_no_problems(job, tmp_path):
    """It says who it is and what it computes with, and leaves no file in the output."""
    (tmp_path / "a.tif").touch()
    report = module.check_node("node 7", job, module.expectations(job, [image(tmp_path / "a.tif")]))
    assert (report.node, report.problems) == ("node 7", ())
    assert report.host
    assert report.hardware
    assert LocalStorage(tmp_path / "out").list() == []


def test_each_path_that_is_missing_is_named(job, tmp_path):
    """Of a folder that is missing the folder alone; URLs are for those who read them."""
    here = [tmp_path / "in" / "a.tif", tmp_path / "truth" / "a.png"]
    for path in here:
        path.parent.mkdir()
        path.touch()
    images = [image(*map(str, here)), image("s3://bucket/b.tif"), image("https://host/c.tif"), image("made up")]
    expected = module.expectations(job, images)
    for path in here:
        path.unlink()
    here[1].parent.rmdir()
    found = module.check_node("node", job, expected).problems
    assert found == (f"{tmp_path}/truth is not there", f"{tmp_path}/in/a.tif is not there")


def test_a_few_paths_stand_for_many_images(job, monkeypatch):
    """Ten thousand images are not looked up by every actor."""
    monkeypatch.setattr(module.Path, "exists", lambda path: True)
    paths = module.expectations(job, [image(f"/in/{number}.tif") for number in range(10_000)]).paths
    assert len(paths) <= 2 + module.MOST_PATHS
    assert {"/in", "/in/0.tif"} <= set(paths)


def test_an_output_that_is_not_the_runs_is_told(job, tmp_path):
    """A folder that is missing, and one of the same name without the ledger of this run."""
    missing = replace(job, output=LocalStorage(tmp_path / "none"))
    assert f"the output {tmp_path}/none cannot be used" in module.check_node("node", missing, module.Expected()).problems[0]

    def guard():
        raise LockLost("taken over")

    other = replace(job, output=LocalStorage(tmp_path / "out").guarded(guard))
    problem = f"the output {tmp_path}/out cannot be used: the ledger of this run is not in it"
    assert module.check_node("node", other, module.Expected()).problems == (problem,)


def test_a_processor_without_bfloat16_is_refused_by_name(job, monkeypatch):
    """Only where that of the driver has it: then the recipe was chosen for it."""
    monkeypatch.setattr(module, "bf16_supported", lambda: True)
    bf16 = replace(job, recipe=Recipe(precision="bf16", device="cpu"))
    expected = module.expectations(bf16, [])
    assert expected.bf16
    assert module.check_node("node", bf16, expected).problems == ()
    monkeypatch.setattr(module, "bf16_supported", lambda: False)
    monkeypatch.setattr(module, "_processor", lambda: "Xeon E5")
    assert module.check_node("node", bf16, expected).problems[0].startswith("Xeon E5 does not compute in bfloat16")
    assert not module.expectations(bf16, []).bf16


@pytest.mark.parametrize(("capability", "is_refused"), [((7, 5), True), ((8, 0), False)])
def test_a_gpu_without_bfloat16_is_refused_by_name(job, monkeypatch, capability, is_refused):
    """What torch says of the GPU is made up: there is none here."""
    cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "Tesla T4", get_device_capability=lambda: capability)
    monkeypatch.setattr("torch.cuda", cuda)
    report = module.check_node("node", replace(job, recipe=Recipe(precision="bf16", device="cuda")), module.Expected())
    assert report.hardware == "Tesla T4"
    assert any("Tesla T4 does not compute in bfloat16" in problem for problem in report.problems) == is_refused
