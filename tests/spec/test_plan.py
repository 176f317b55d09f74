"""A plan reports every problem that headers show, all at once, before any pixel is read or any folder is made."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.inputs import build_catalogue
from pipeline.records import Receipt
from pipeline.scheduling import BlockQueue
from pipeline.scheduling.plan import FORMAT, count_key, make_job, plan_blocks
from pipeline.statistics.fitters import encode_summary
from pipeline.tuning.recipe_choice import choose_recipe
from tests.conftest import UNET, blobs, engine_yaml, save_tiff
from workflows.plan import plan


@pytest.fixture
def catalogue_of(tmp_path):
    """Build the catalogue of a YAML: ``catalogue_of(**keys)``."""
    return lambda **keys: build_catalogue(load_config(engine_yaml(tmp_path, **keys)))


@pytest.fixture
def planned(catalogue_of):
    """Stages of every image of a YAML."""

    def stages(**keys):
        catalogue = catalogue_of(**keys)
        return plan_blocks(catalogue, make_job(catalogue, choose_recipe(catalogue).recipe))

    return stages


def problems(raised):
    return [str(problem) for problem in raised.value.problems]


def test_everything_wrong_is_told_at_once(tmp_path, catalogue_of, capsys):
    """Channels, truth of another size, an unreadable file and classes that do not fit: one message each, and no output folder."""
    save_tiff(tmp_path / "rgb.tif", np.zeros((40, 50, 3), np.uint8), photometric="rgb")
    save_tiff(tmp_path / "grey.tif", blobs((40, 50)))
    (tmp_path / "broken.tif").write_bytes(b"II*\x00 and nothing else")
    save_tiff(tmp_path / "truth" / "grey.tif", np.zeros((50, 40), np.uint8))
    classes = [{"name": "one"}, {"name": "two"}]
    with pytest.raises(InputError) as raised:
        catalogue_of(images=["rgb.tif", "grey.tif", "broken.tif"], truth="truth/{stem}.tif", classes=classes)
    told = problems(raised)
    assert len(told) == 3
    assert any("broken.tif" in one for one in told)
    assert any("rgb.tif: found 3 channels; expected 1, as the model takes. Choose them with reader.channels: [0]." in one for one in told)
    assert any("classes: found 2 classes; expected 3, as unet predicts" in one for one in told)
    with pytest.raises(InputError) as raised:
        catalogue_of(images=["rgb.tif", "grey.tif", "broken.tif"], truth="truth/{stem}.tif")
    assert any(
        "truth/grey.tif: found 50 x 40 for an image of 40 x 50; expected truth of the image's size" in one for one in problems(raised)
    )
    assert not (tmp_path / "out").exists()


def test_unreadable_in_a_folder_is_quarantined(tmp_path, engine):
    """A broken file in a folder is listed and the other images are done: exit code 3; files of other suffixes are counted as left out."""
    save_tiff(tmp_path / "img" / "good.tif", blobs((40, 50)))
    (tmp_path / "img" / "broken.tif").write_bytes(b"II*\x00 and nothing else")
    (tmp_path / "img" / "notes.txt").write_text("no image")
    done = engine(images=["img/"])
    assert (done.code, done.run_json["state"]) == (3, "partial")
    (failure,) = done.report["failures"]
    assert (failure["image"], failure["block"], failure["phase"]) == ("broken", None, "plan")
    assert "broken.tif" in failure["cause"]
    assert (done.mask("good") != 255).all()
    assert engine(images=["img/"]).code == 3
    (tmp_path / "img" / "broken.tif").unlink()
    assert engine(images=["img/"]).code == 0


def test_a_run_of_broken_files_only_is_partial(tmp_path, engine):
    """A run none of whose images can be opened ends as partial: neither a crash nor a success."""
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "broken.tif").write_bytes(b"II*\x00 and nothing else")
    done = engine(images=["img/*.tif"])
    assert done.code == 3
    assert [one["image"] for one in done.report["failures"]] == ["broken"]


def test_two_images_of_one_name(tmp_path, catalogue_of):
    """On a collision the suffix stays in the name; what is still equal is refused."""
    for folder, suffix in (("one", "tif"), ("two", "tif"), ("one", "ome.tif")):
        save_tiff(tmp_path / folder / f"a.{suffix}", blobs((20, 20)))
    assert [image.name for image in catalogue_of(images=["one/"]).images] == ["a.ome.tif", "a.tif"]
    with pytest.raises(InputError, match=r"the name 'a.*' of .*two/a.tif, which .*one/a.tif has already"):
        catalogue_of(images=["one/a.tif", "two/a.tif"])


def test_truth_for_some_images_is_no_error(tmp_path, catalogue_of):
    """Images without truth are named in a note."""
    for name in "abc":
        save_tiff(tmp_path / "img" / f"{name}.tif", blobs((20, 20)))
    save_tiff(tmp_path / "truth" / "b.tif", np.zeros((20, 20), np.uint8))
    found = catalogue_of(images=["img/"], truth="truth/{stem}.tif")
    assert [bool(image.truth) for image in found.images] == [False, True, False]
    assert found.notes == ["2 of 3 images have no truth: a, c"]


def test_truth_of_other_planes_or_kinds_is_refused(tmp_path, catalogue_of):
    """Truth must have the image's planes, and one channel of values or colours that classes name."""
    save_tiff(tmp_path / "a.tif", blobs((20, 20)))
    save_tiff(tmp_path / "stack.ome.tif", np.zeros((3, 20, 20), np.uint8), metadata={"axes": "ZYX"}, photometric="minisblack")
    with pytest.raises(InputError, match="found 3 x 20 x 20 for an image of 20 x 20"):
        catalogue_of(truth="stack.ome.tif")
    save_tiff(tmp_path / "rgb.tif", np.zeros((20, 20, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputError, match="a color for each class"):
        catalogue_of(truth="rgb.tif")


def test_normalising_what_takes_raw_values_is_refused(tmp_path, catalogue_of):
    """`normalize` is refused for a threshold, which works on raw values."""
    save_tiff(tmp_path / "a.tif", blobs((20, 20)))
    with pytest.raises(InputError, match="normalize: found 'zscore'; expected null, as histogram works on raw values"):
        catalogue_of(model={"name": "histogram"}, normalize="zscore")


def test_phases_and_blocks(tmp_path, planned):
    """Every plane is cut alike; what needs statistics has a fit phase, and one block on its own needs no finish."""
    save_tiff(tmp_path / "a.tif", blobs((130, 70)))
    save_tiff(tmp_path / "s.ome.tif", blobs((30, 30), channels=3), metadata={"axes": "ZYX"}, photometric="minisblack")
    save_tiff(tmp_path / "one.tif", blobs((64, 64)))
    stages = planned(images=["a.tif", "s.ome.tif", "one.tif"])
    shapes = {name: [(stage.phase, len(stage.blocks)) for stage in some] for name, some in stages.items()}
    assert shapes == {"a": [("predict", 6), ("finish", 1)], "s": [("predict", 3), ("finish", 1)], "one": [("predict", 1)]}
    assert [block.id for block in stages["s"][0].blocks] == ["s:0.0.0", "s:1.0.0", "s:2.0.0"]
    save_tiff(tmp_path / "colour.tif", blobs((130, 70), channels=3).transpose(1, 2, 0), photometric="rgb")
    grey, colour = planned(images=["a.tif"], normalize="percentile"), {"name": "kmeans", "classes": 2}
    assert [stage.phase for stage in grey["a"]] == ["fit", "predict", "finish"]
    assert [stage.phase for stage in planned(images=["colour.tif"], model=colour, normalize=None)["colour"]] == [
        "tissue",
        "fit",
        "predict",
        "finish",
    ]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"compute": {"memory": "9GiB", "actors": 2, "attempts": 9, "runner": "ray"}}, True),
        ({"images": ["b.tif", "a.tif"]}, True),
        ({"output": "other"}, True),
        ({"model": {**UNET, "seed": 1}}, False),
        ({"tiling": {"core": 32}}, False),
        ({"tiling": {"halo": 28}}, False),
        ({"tiling": {"block": 128}}, False),
        ({"tiling": {"stitch": "linear"}}, False),
        ({"compute": {"threads": 2}}, False),
        ({"compute": {"precision": "bf16"}}, False),
        ({"normalize": "zscore"}, False),
        ({"reader": {"name": "auto", "channels": [0]}}, False),
    ],
)
def test_keys_hold_what_pixels_depend_on(tmp_path, planned, change, same):
    """A block's key changes with all that its pixels depend on, and with nothing else."""
    for name in "ab":
        save_tiff(tmp_path / f"{name}.tif", blobs((70, 70), seed=ord(name)))

    def keys(**keys):
        return {block.id: block.key for block in next(stage for stage in planned(**keys)["a"] if stage.phase == "predict").blocks}

    old, new = keys(), keys(**change)
    assert (old["a:0.0.0"] == new["a:0.0.0"]) is same


def test_other_pixels_are_another_key(tmp_path, planned):
    """An image that was written again is another image."""
    save_tiff(tmp_path / "a.tif", blobs((70, 70)))
    before = planned()["a"][0].blocks[0].key
    save_tiff(tmp_path / "a.tif", blobs((70, 70), seed=9))
    assert planned()["a"][0].blocks[0].key != before
    assert FORMAT >= 1


def keys_where(stages, phase, *, digest="d", fit=1):
    """Keys of an image's blocks by phase, where one phase leaves another digest, and the fit phase another result."""
    constant = SimpleNamespace(merge=lambda first, _second: first, conclude=lambda _total: {"n": fit})
    queue = BlockQueue({"a": [replace(stage, reduction=stage.reduction and constant) for stage in stages]})
    queue.begin()
    keys = {stage.phase: [] for stage in stages}
    while taken := queue.lease(10**9, 1):
        for block in taken:
            keys[block.phase].append(block.key)
            left = digest if block.phase == phase else "d"
            payload = encode_summary({"n": np.array([1])}) if block.phase == "fit" else ""
            queue.settle(Receipt(block.phase, block.image.name, block.id, block.key, digest=left, payload=payload))
    return keys


@pytest.mark.parametrize(
    ("options", "changed", "follows"),
    [
        ({}, {"phase": "predict", "digest": "other"}, {"finish"}),
        ({"tiling": {"stitch": "linear"}}, {"phase": "score", "digest": "other"}, {"predict"}),
        ({"normalize": "percentile"}, {"phase": "fit", "fit": 2}, {"predict"}),
    ],
    ids=["pixels", "scores", "fit"],
)
def test_fits_and_digests_are_part_of_the_key(tmp_path, planned, options, changed, follows):
    """What follows a phase depends on what that has left: a fit, scores or pixels; what goes before depends on nothing."""
    save_tiff(tmp_path / "a.tif", blobs((150, 150)))
    stages = planned(**options)["a"]
    before, after = keys_where(stages, changed["phase"]), keys_where(stages, **changed)
    assert before == keys_where(stages, changed["phase"])
    assert {phase for phase in before if before[phase] != after[phase]} == follows
    assert all(set(before[phase]).isdisjoint(after[phase]) for phase in follows)


def test_counts_have_a_key_of_their_own(tmp_path, catalogue_of):
    """Truth, classes and `ignore` change what is counted, colours of the legend and names do not."""
    save_tiff(tmp_path / "a.tif", blobs((70, 70)))
    save_tiff(tmp_path / "t.tif", np.zeros((70, 70), np.uint8))

    def key(**keys):
        found = catalogue_of(**keys)
        return count_key(found, found.images[0])

    classes = [{"name": name, "values": [at]} for at, name in enumerate("abc")]
    other = [{**one, "values": [at + 1]} for at, one in enumerate(classes)]
    assert key() == ""
    base = key(truth="t.tif", classes=classes)
    assert base
    assert key(truth="t.tif", classes=[{**one, "name": one["name"] * 2} for one in classes]) == base
    assert len({base, key(truth="t.tif", classes=other), key(truth="t.tif", classes=classes, ignore=9), key(truth="t.tif")}) == 4


def test_plan_says_what_a_run_would_do(tmp_path, capsys):
    """A plan prints images, blocks, bytes, memory and runner, as text and as JSON, and writes nothing."""
    save_tiff(tmp_path / "a.tif", blobs((130, 70)))
    assert plan(engine_yaml(tmp_path), as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["blocks"], said["pixels"], said["mask_bytes_uncompressed"]) == (6, 9100, 9100)
    assert said["images"][0]["shape"] == [130, 70]
    assert 0 < said["memory_bytes_per_actor"] < said["memory_budget_bytes"]
    assert said["runner"] == "serial"
    assert plan(engine_yaml(tmp_path)) == 0
    assert "a: 130 x 70 px, pixel size unknown, 1 channel uint8, 6 blocks, no truth" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_plan_shows_the_recipe_that_a_resumed_run_keeps(tmp_path, engine, capsys):
    """Where a run has begun, its recorded recipe counts."""
    save_tiff(tmp_path / "a.tif", blobs((130, 70)))
    keys = {"tiling": {"core": "auto", "halo": "auto", "block": "auto"}, "compute": {"memory": "60MiB"}}
    done = engine(**keys)
    keys["compute"] = {"memory": "4GiB"}
    assert engine(**keys).code == 0
    capsys.readouterr()
    plan(engine_yaml(tmp_path, **keys), as_json=True)
    assert json.loads(capsys.readouterr().out)["recipe"] == done.run_json["recipe"]


def test_a_resumed_run_keeps_its_runner(tmp_path, engine, capsys, monkeypatch):
    """Plan and run use the recorded runner, while the images are as many pixels and the YAML leaves it open."""
    save_tiff(tmp_path / "a.tif", blobs((130, 70)))
    keys = {"images": ["*.tif"], "compute": {"runner": "auto"}}

    def planned(**compute):
        capsys.readouterr()
        plan(engine_yaml(tmp_path, images=["*.tif"], compute={"runner": "auto", **compute}), as_json=True)
        return json.loads(capsys.readouterr().out)["runner"]

    done = engine(**keys)
    assert (done.run_json["runner"], done.run_json["pixels"]) == ("serial", 9100)
    monkeypatch.setattr("workflows.begun_run.choose_runner", lambda catalogue: "ray")
    assert planned() == "serial"
    assert engine(**keys).run_json["runner"] == "serial"
    assert planned(actors=2) == "ray"
    save_tiff(tmp_path / "b.tif", blobs((130, 70)))
    assert planned() == "ray", "another image: the run may have outgrown one process"


def test_planning_imports_no_torch(tmp_path):
    """A plan imports neither torch nor Ray nor dask: it starts fast and runs where no network could."""
    save_tiff(tmp_path / "a.tif", blobs((130, 70)))
    code = (
        "import sys; from pathlib import Path; from workflows.plan import plan; "
        f"plan(Path({str(engine_yaml(tmp_path))!r})); print(sorted(n for n in ('torch', 'ray', 'dask') if n in sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"
