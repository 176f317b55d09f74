"""Nothing is lost and nothing is counted twice: an interrupted run that goes on ends as one that never stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.errors import GigasegError, InputError, StoreError
from pipeline.records import read_rows
from tests.conftest import NORMALIZE, UNET, Done, blobs, save_tiff
from tests.oracle.interrupted_runs import CLASSES, TILES, TRACED, add_image, assert_same, ending_after, write_images
from workflows.report import report
from workflows.run import run


@pytest.fixture
def scene(tmp_path, traced):
    """Two images with truth, of 12 and 6 blocks."""
    write_images(tmp_path)
    return traced


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), StoreError("disk full")], ids=["asked", "killed", "broken"])
def test_goes_on_where_it_was_interrupted(engine, scene, tmp_path, error):
    """However often and however it ends, the same command ends with the masks and the report of an undisturbed run."""
    whole = engine(**TRACED, output="whole")
    assert (whole.code, scene.calls) == (0, TILES)
    scene.calls = 0
    out = Done(0, tmp_path / "out")
    for count in (1, 4, 2) if error is None else (1, 4, 7, 3, 2):  # who is asked finishes what is in flight
        with ending_after(count, error) as booked:
            if isinstance(error, GigasegError):
                with pytest.raises(StoreError, match="disk full"):
                    engine(**TRACED)
            else:
                assert engine(**TRACED).code == 130
        assert len(booked) >= count
        assert out.run_json["state"] == ("failed" if isinstance(error, GigasegError) else "interrupted")
    done = engine(**TRACED)
    assert (done.code, done.run_json["state"]) == (0, "done")
    assert_same(done, whole)
    # What was computed and not yet booked when the run broke off is computed again, three blocks a time at most; nothing else is.
    assert TILES <= scene.calls <= TILES + 5 * (0 if error is None else 2)
    rows = [(row.phase, row.block) for row in read_rows(done.folder / "ledger")]
    assert len(rows) == len(set(rows)) == TILES + 2


def test_a_finished_run_ends_at_once(engine, scene):
    """Again: exit code 0, the model is not even loaded, and the report stays."""
    first = engine(**TRACED)
    opened = scene.opened
    second = engine(**TRACED)
    assert second.code == 0
    assert scene.opened == opened
    assert (second.folder / "report" / "index.html").exists()
    assert second.report == first.report


def test_images_are_added_and_leave(engine, scene, tmp_path):
    """Another list of images is the same run: only new images are predicted, and those that left leave the report."""
    engine(**TRACED)
    scene.calls = 0
    add_image(tmp_path, "c", (30, 64))
    more = engine(**TRACED)
    assert scene.calls == 2
    assert more.report == engine(**TRACED, output="fresh").report
    (tmp_path / "img" / "a.tif").unlink()
    scene.calls = 0
    fewer = engine(**TRACED)
    assert scene.calls == 0
    assert fewer.code == 0
    assert fewer.report == engine(**TRACED, output="fresh2").report
    assert [one["name"] for one in fewer.report["per_image"]] == ["b", "c"]


def test_a_changed_image_is_predicted_again(engine, scene, tmp_path):
    """Other pixels under the same name are another image, the others stay."""
    engine(**TRACED)
    scene.calls = 0
    save_tiff(tmp_path / "img" / "b.tif", blobs((40, 70), seed=77))
    done = engine(**TRACED)
    assert scene.calls == 6
    assert_same(done, engine(**TRACED, output="whole"))


@pytest.mark.parametrize("writers", [[{"name": "ome_zarr"}], [{"name": "tiff"}]])
def test_other_classes_are_counted_without_predicting(engine, scene, tmp_path, writers):
    """A changed mapping of the truth recounts the masks that are there: the report is that of a fresh run, the model is not called."""
    add_image(tmp_path, "c", (20, 30))  # of a single block
    keys = {**TRACED, "writers": writers}
    before = engine(**keys).report
    scene.calls = 0
    keys["classes"] = [{"name": "low", "values": [7]}, {"name": "high", "values": [0]}]
    recounted = engine(**keys)
    assert scene.calls == 0
    assert recounted.report != before
    assert engine(**keys).report == recounted.report
    assert scene.calls == 0
    assert engine(**keys, output="whole").report == recounted.report
    scene.calls = 0
    assert engine(**{**keys, "classes": CLASSES}).report == before
    assert report(tmp_path / "out") == 0
    assert Done(0, tmp_path / "out").report == before
    assert scene.calls == 0


def test_mended_classes_end_a_truth_error(engine, scene, tmp_path):
    """A truth value outside the classes gives exit code 3; once the classes know it, the run is done."""
    keys = {**TRACED, "classes": [{"name": "low", "values": [0]}, {"name": "high", "values": [1]}]}
    wrong = engine(**keys)
    assert (wrong.code, wrong.run_json["state"]) == (3, "partial")
    assert all("truth value 7 at (y=" in one["cause"] for one in wrong.report["failures"])
    assert len(wrong.report["failures"]) == 2
    assert wrong.report["mean_iou"] is None
    assert engine(**keys).code == 3
    scene.calls = 0
    right = engine(**TRACED)
    assert (right.code, right.run_json["state"], scene.calls) == (0, "done", 0)
    assert right.report == engine(**TRACED, output="whole").report


def test_truth_may_come_later(engine, scene):
    """Truth that is given to a finished run is counted without predicting, and can be taken away again."""
    without = {**TRACED, "truth": None}
    assert engine(**without).report["confusion"] is None
    scene.calls = 0
    done = engine(**TRACED)
    assert scene.calls == 0
    assert_same(done, engine(**TRACED, output="whole"))
    assert engine(**without).report["confusion"] is None


def test_another_model_is_another_run(engine, scene):
    """A changed option is refused, and the difference is named; --fresh starts over."""
    first = engine(**TRACED)
    other = {**TRACED, "model": {"name": "traced.model", "power": 0}}
    with pytest.raises(InputError, match=r"model\.power: found 0; expected 1, as this folder was begun with") as refused:
        engine(**other)
    assert "--fresh" in str(refused.value)
    assert engine(**TRACED).report == first.report
    assert engine(**other, fresh=True).report == engine(**other, output="whole").report


def test_fresh_leaves_what_is_not_its_own(engine, scene, tmp_path):
    """--fresh removes every output of earlier executions, also of images that left, and no file of anybody else."""
    engine(**TRACED)
    (tmp_path / "img" / "a.tif").unlink()
    engine(**TRACED)
    mine = tmp_path / "out" / "masks" / "mine.txt"
    mine.write_text("keep")
    done = engine(**TRACED, fresh=True)
    assert mine.read_text() == "keep"
    assert not (done.folder / "masks" / "a.ome.zarr").exists()
    assert [row.image for row in read_rows(done.folder / "ledger")].count("a") == 0
    assert len(list((done.folder / "ledger").glob("*.jsonl"))) == 1


@pytest.mark.parametrize("finished", [True, False])
def test_a_deleted_shard_is_done_again(engine, scene, finished):
    """A file that is gone costs its own block and nothing else, in a finished run too."""
    whole = engine(**TRACED, output="whole")
    if finished:
        done = engine(**TRACED)
    else:
        with ending_after(11, None):
            done = engine(**TRACED)
    before = scene.calls
    shard = done.folder / "masks" / "a.ome.zarr" / "0" / "c" / "1" / "1"
    shard.unlink()
    again = engine(**TRACED)
    left = 0 if finished else TILES - (before - TILES)
    assert scene.calls - before == left + 1
    assert shard.exists()
    assert_same(again, whole)
    assert engine(**TRACED).code == 0


def test_a_damaged_last_shard_is_done_again(engine, scene):
    """A power cut may leave a file of the right size and the wrong bytes: the last ones are read again and found out."""
    whole = engine(**TRACED, output="whole")
    with ending_after(6, None):
        done = engine(**TRACED)
    before = scene.calls
    shard = done.folder / "masks" / "a.ome.zarr" / "0" / "c" / "0" / "2"
    shard.write_bytes(bytes(shard.stat().st_size))
    again = engine(**TRACED)
    assert scene.calls - before == TILES - (before - TILES) + 1
    assert "do again predict a:0.0.2" in again.log
    assert_same(again, whole)


def test_last_means_last_written(engine, scene, monkeypatch):
    """A block that was done again is among the last ones, wherever it stands in the plan."""
    monkeypatch.setattr("pipeline.scheduling.audit.REREAD", 1)
    with ending_after(6, KeyboardInterrupt()):
        done = engine(**TRACED)
    shard = done.folder / "masks" / "a.ome.zarr" / "0" / "c" / "0" / "1"
    shard.unlink()
    with ending_after(1, KeyboardInterrupt()):
        engine(**TRACED)
    shard.write_bytes(bytes(shard.stat().st_size))
    assert "do again predict a:0.0.1: its pixels" in engine(**TRACED).log


def test_exports_are_made_again(engine, scene):
    """With `writers: [tiff]` a deleted TIFF is exported again from what is stored; a second writer needs no prediction either."""
    keys = {**TRACED, "writers": [{"name": "tiff"}]}
    done = engine(**keys)
    mask = done.mask("a")
    before = scene.calls
    (done.folder / "masks" / "a.tif").unlink()
    again = engine(**keys)
    assert scene.calls == before
    assert (done.folder / "masks" / "a.tif").exists()
    assert (again.mask("a") == mask).all()


def test_a_deleted_store_is_never_exported_as_a_hole(engine, scene):
    """Where the blocks themselves are gone, they are predicted again before anything is exported."""
    keys = {**TRACED, "writers": [{"name": "tiff"}]}
    done = engine(**keys)
    shutil.rmtree(done.folder / "masks" / "a.ome.zarr")
    both = engine(**{**TRACED, "writers": [{"name": "tiff"}, {"name": "ome_zarr"}]})
    assert_same(both, engine(**TRACED, output="whole"))


def test_fits_are_taken_over(engine, tmp_path):
    """A run interrupted in the fit phase, or after it, ends with the thresholds of the whole image."""
    save_tiff(tmp_path / "a.tif", blobs((100, 90), seed=3, dtype=np.uint16))
    keys = {"model": {"name": "histogram", "classes": 3}, "normalize": None, "tiling": {"core": 32, "halo": 0, "block": 32}}
    whole = engine(**keys, output="whole")
    for count in (5, 9, 7):
        with ending_after(count, KeyboardInterrupt()):
            assert engine(**keys).code == 130
    done = engine(**keys)
    assert done.code == 0
    assert (done.mask() == whole.mask()).all()
    assert done.report == whole.report


def test_the_written_config_gives_the_same_run(engine, tmp_path):
    """The output's config.yaml, run from elsewhere into another folder, gives the same masks."""
    save_tiff(tmp_path / "a.tif", blobs((70, 90), seed=3))
    first = engine(model=UNET, normalize=NORMALIZE)
    content = yaml.safe_load((first.folder / "config.yaml").read_text())
    assert Path(content["images"][0]).is_absolute()
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "copy.yaml"
    copy.write_text(yaml.safe_dump({**content, "output": "again"}))
    assert run(copy) == 0
    again = Done(0, tmp_path / "elsewhere" / "again")
    assert (again.mask() == first.mask()).all()
    assert again.report == first.report
    assert json.loads((again.folder / "run.json").read_text())["recipe"] == first.run_json["recipe"]


def test_the_written_config_names_what_was_chosen(engine, tmp_path):
    """The output's config.yaml has no `auto` left of what fixes the numbers, and running it where it lies is the same run."""
    save_tiff(tmp_path / "a.tif", blobs((70, 90), seed=3))
    first = engine(model=UNET, normalize=NORMALIZE)
    content = yaml.safe_load((first.folder / "config.yaml").read_text())
    recipe = first.run_json["recipe"]
    for section, keys in {"tiling": ("core", "halo", "block"), "compute": ("backend", "device", "precision", "batch", "threads")}.items():
        assert {key: content[section][key] for key in keys} == {key: recipe[key] for key in keys}
    before = (first.folder / "masks").stat().st_mtime_ns
    assert run(first.folder / "config.yaml") == 0
    assert (first.folder / "masks").stat().st_mtime_ns == before
    assert engine(model=UNET, normalize=NORMALIZE).run_json["recipe"] == recipe


def test_other_versions_are_told(engine, scene, capsys):
    """Who goes on with another library than the run began with reads so, in run.json too; a finished run says nothing."""
    with ending_after(3, None):
        begun = engine(**TRACED)
    file = begun.folder / "run.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "versions": {**content["versions"], "numpy": "1.0"}}))
    told = f"what is left to do is done with numpy {np.__version__} instead of 1.0"
    capsys.readouterr()
    done = engine(**TRACED)
    assert told in capsys.readouterr().err
    assert told in done.run_json["notes"]
    file.write_text(json.dumps({**done.run_json, "versions": {**content["versions"], "numpy": "1.0"}}))
    engine(**TRACED)
    assert told not in capsys.readouterr().err
