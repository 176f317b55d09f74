"""A run leaves the same in memory as in a folder, all its life long, and writes nothing but through its storage."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.errors import InputError
from pipeline.storage import open_storage
from tests.conftest import blobs, engine_yaml, save_tiff
from tests.oracle.interrupted_runs import CLASSES, stopping_after
from workflows.report import report
from workflows.retry import retry
from workflows.run import run
from workflows.status import status
from workflows.stop import stop

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link"}  # their last argument is the folder that a path is relative to
BAD = 255  # pixels of this value fail until they are cured
CROP = {"model": {"name": "traced.model"}, "tiling": {"core": 32, "halo": 4, "block": 64}}
BLENDED = {
    "model": {"name": "traced.model", "scores": True},
    "tiling": {"core": 32, "halo": 8, "block": 64, "stitch": "gaussian"},
    "writers": [{"name": "ome_zarr", "probs": True}],
}
SHARED = {
    "images": ["img/*.tif"],
    "truth": "truth/{name}.tif",
    "classes": CLASSES,
    "normalize": None,
    "writers": [{"name": "ome_zarr"}, {"name": "tiff"}],
}
SHAPES = {"large": (600, 300), "small": (60, 50)}  # of many blocks with two levels, and of one block


class Guard:
    """Refuses every change of a file that was not asked of a storage, while it is armed."""

    is_armed = False

    def __call__(self, event, args):
        if not self.is_armed:
            return
        if event == "open":
            path, _, flags = args
            if isinstance(path, int) or not (flags or 0) & (os.O_WRONLY | os.O_RDWR):
                return
        elif event in CHANGES:
            path = args[0] if args[-1] < 0 else f"{Path(f'/proc/self/fd/{args[-1]}').readlink()}/{args[0]}"
        else:
            return
        path = os.fspath(path)
        scratch = (f"{tempfile.gettempdir()}/gigaseg-", f"{os.environ['XDG_CACHE_HOME']}/", "/dev/")
        # A storage gives the paths of scratch files to libraries that write files themselves.
        if not path.startswith(scratch) and ".partial/" not in path and not called_by_a_storage():
            raise AssertionError(f"{event} of {path} past the storage")


def called_by_a_storage():
    """Whether LocalStorage is at work in this thread."""
    frame = sys._getframe()
    while frame and not frame.f_code.co_filename.endswith(("pipeline/storage/local.py", "pipeline/storage/partial_files.py")):
        frame = frame.f_back
    return frame is not None


GUARD = Guard()
sys.addaudithook(GUARD)  # cannot be removed; does nothing while it is not armed


@pytest.fixture
def guarded(tmp_path, monkeypatch):
    """Every change of a file past the storage is an error."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def arm(is_armed):
        GUARD.is_armed = is_armed

    yield arm
    GUARD.is_armed = False


def write_truth(folder, threshold):
    for name, shape in SHAPES.items():
        save_tiff(folder / "truth" / f"{name}.tif", (blobs(shape, seed=9) > threshold).astype(np.uint8))


def left_by(output):
    """What a run has left for its user: the report, and every file of the masks and probabilities."""
    storage = open_storage(output)
    found = {key: storage.get(key) for key in storage.list() if key.startswith(("masks/", "probs/"))}
    content = json.loads(storage.get("report/report.json"))
    del content["timing"]
    return {**found, "report": content}


def lived(output, folder, traced, guarded, capsys, keys):
    """Live the whole life of a run; return what it had left at each station, and the codes and answers of its commands."""
    guarded(False)
    write_truth(folder, 120)
    path = engine_yaml(folder, **{**SHARED, **keys, "output": output})
    guarded(True)
    stations = []

    def station(answer):
        stations.append((answer, left_by(output)))

    def fail(pixels_CYX):
        if (pixels_CYX == BAD).any():
            raise ValueError("a bad pixel")

    def progress():
        capsys.readouterr()
        assert status(output, as_json=True) == 0
        answer = json.loads(capsys.readouterr().out)
        return {key: answer[key] for key in ("state", "predicted", "blocks", "blocks_scored", "blocks_done", "failures")}

    traced.on_call = fail
    with stopping_after(7):
        assert run(path) == 130
    station(progress())
    assert run(path) == 3
    station(progress())
    assert stop(output) == 0
    traced.on_call = lambda _: None
    assert retry(output) == 0
    station(progress())
    assert report(output) == 0
    station("report")
    guarded(False)
    write_truth(folder, 90)
    guarded(True)
    traced.calls = 0
    assert run(path) == 0
    assert traced.calls == 0
    station("recount")
    opened = pipeline.open_run(output)
    assert np.array_equal(opened.truth("small"), blobs(SHAPES["small"], seed=9) > 90)
    station([np.asarray(opened.mask(name)).tobytes() for name in SHAPES])
    assert run(path, fresh=True) == 0
    station("fresh")
    guarded(False)
    return stations


@pytest.mark.parametrize("keys", [CROP, BLENDED], ids=["crop", "gaussian"])
def test_a_run_lives_in_memory_as_in_a_folder(tmp_path, traced, guarded, capsys, keys):
    """Stopped, resumed, retried, reported, counted again and begun anew: masks, reports and answers are equal at every station."""
    for name, shape in SHAPES.items():
        pixels = np.minimum(blobs(shape, seed=ord(name[0])), BAD - 1)
        if name == "large":
            pixels[150, 100] = BAD
        save_tiff(tmp_path / "img" / f"{name}.tif", pixels)
    in_folder = lived(str(tmp_path / "out"), tmp_path, traced, guarded, capsys, keys)
    before = sorted(tmp_path.rglob("*"))
    in_memory = lived(f"memory://{tmp_path.name}", tmp_path, traced, guarded, capsys, keys)
    assert sorted(tmp_path.rglob("*")) == before
    for expected, found in zip(in_folder, in_memory, strict=True):
        assert found[0] == expected[0]
        assert found[1].keys() == expected[1].keys()
        assert all(found[1][key] == expected[1][key] for key in expected[1])
    assert any("/1/c/" in key for key in in_memory[-1][1]), "the large mask has a pyramid"
    open_storage(f"memory://{tmp_path.name}").delete_tree("masks")


def test_what_was_written_past_the_storage_is_caught(tmp_path, guarded):
    """A control: files and folders that are made without the storage are errors, and scratch files are none."""
    guarded(True)
    for change in (lambda: (tmp_path / "file").write_text("x"), (tmp_path / "folder").mkdir):
        with pytest.raises(AssertionError, match="past the storage"):
            change()
    with open_storage("memory://scratch").local_file("a.tif") as path:
        path.write_bytes(b"scratch")
    open_storage(tmp_path).put("a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_inputs_and_scores_lie_in_memory_too(tmp_path, guarded, capsys):
    """Arrays that are stored, files that were given names, and the masks of a run are read from memory where they are scored again."""
    pixels, truth = blobs((90, 80)), (blobs((90, 80), seed=1) > 120).astype(np.uint8)
    file = save_tiff(tmp_path / "a.tif", pixels)
    output, settings = f"memory://{tmp_path.name}-api", {"tiling": {"core": 64, "halo": 0, "block": 64}}
    guarded(True)
    made = pipeline.segment({"stored": pixels}, "histogram", output, truth={"stored": truth}, set=settings, store_arrays=True)
    assert made.state == "done"
    assert np.array_equal(made.image(), pixels[None])
    scores = pipeline.evaluate(made, {"stored": truth}, output=f"{output}/scores")
    assert scores.content["confusion"] == made.report.content["confusion"]
    named = pipeline.segment({"b": file}, "histogram", f"{output}/named", set=settings)
    assert np.array_equal(named.mask("b"), made.mask())
    assert pipeline.open_run(f"{output}/named").images == ("b",)
    with pytest.raises(InputError, match=r"Use Run\.storage"):
        _ = named.path
    capsys.readouterr()
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_other_processes_cannot_see_this_memory(tmp_path):
    """With Ray, an output in memory is refused before anything is read; nobody else's bytes would be there."""
    save_tiff(tmp_path / "a.tif", blobs((90, 80)))
    with pytest.raises(InputError, match=r"compute.runner: found 'ray' for the output memory://.*expected auto or serial"):
        pipeline.segment(str(Path(tmp_path, "a.tif")), "histogram", "memory://ray", set={"compute.runner": "ray"})
