"""The output folder of a run: run.json, log, stop flag, and what starting over removes; in any storage."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest

from pipeline.errors import InputError, StoreError
from pipeline.records import Ledger, RunFolder, refuse_overwriting
from pipeline.records.run_folder import REPORT_PARTS
from pipeline.storage import LocalStorage, MemoryStorage


@pytest.fixture(params=["folder", "memory"])
def storage(request, tmp_path):
    """An empty place for a run."""
    return LocalStorage(tmp_path / "out") if request.param == "folder" else MemoryStorage(f"memory://{tmp_path.name}")


def begun(storage, *outputs):
    """A run that has written some outputs."""
    folder = RunFolder(storage)
    folder.write(state="running")
    folder.write_config("images: []")
    folder.log("begin")
    with Ledger.open(storage.below("ledger")) as ledger:
        ledger.append_row("plan", {"outputs": outputs})
    return folder


def test_fields_of_run_json_change_one_by_one(storage):
    """A run that has not begun has no fields; those that are written join those that were."""
    folder = RunFolder(storage)
    assert folder.read() == {}
    with pytest.raises(InputError, match=r"no run\.json"):
        folder.require()
    folder.write(state="running", started=1)
    folder.write(state="done")
    assert folder.require() == {"format": "gigaseg.run/1", "state": "done", "started": 1}


@pytest.mark.parametrize("content", [b'{"format": "oth', b"[]", b'{"format": "other"}'])
def test_a_run_json_of_others_is_refused(storage, content):
    """A run.json that is torn, or is not of gigaseg, is the user's mistake, and is not written over."""
    storage.make()
    storage.put("run.json", content)
    with pytest.raises(InputError, match=r"run\.json"):
        RunFolder(storage).write(state="running")
    assert storage.get("run.json") == content


def test_the_log_has_a_line_an_event(storage):
    """Each event is one line with its time; a folder that is gone is not made again for it."""
    folder = RunFolder(storage)
    storage.make()
    folder.log("begin:\n 3 blocks")
    folder.log("end")
    first, second = storage.get("log.txt").decode().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d begin: 3 blocks", first)
    assert second.endswith(" end")


def test_a_log_does_not_bring_a_lost_folder_back(tmp_path):
    """Where the folder is gone, logging fails and makes nothing."""
    with pytest.raises(StoreError, match="gone"):
        RunFolder(tmp_path / "out").log("end")
    assert not (tmp_path / "out").exists()


def test_a_stop_is_asked_for_until_it_is_forgotten(storage):
    """Whoever executes the run sees that it is to stop, until the next execution withdraws that."""
    folder = begun(storage)
    assert not folder.is_asked_to_stop()
    folder.ask_to_stop()
    assert folder.is_asked_to_stop()
    folder.forget_stop()
    assert not folder.is_asked_to_stop()


def test_starting_over_removes_what_runs_wrote_and_nothing_else(storage):
    """Outputs of every plan go, with the folders that they leave empty; what is not of a run stays, and so does a folder with it."""
    folder = begun(storage, "masks/sub/a.tif", "masks/b.ome.zarr", "../mine")
    for key in ("masks/sub/a.tif", "masks/b.ome.zarr/0/zarr.json", "masks/b.ome.zarr/zarr.json", "report/report.json", "masks/mine.tif"):
        storage.put(key, b"")
    assert folder.last_plan()["outputs"][0] == "masks/sub/a.tif"
    folder.discard()
    assert storage.list() == ["masks/mine.tif"]
    assert (folder.read(), folder.last_plan()) == ({}, {})
    storage.delete("masks/mine.tif")
    folder.discard()
    assert not storage.exists()


@pytest.mark.parametrize("key", ["report/thesis.txt", "ledger/books.csv", "ledger/watch/000001.txt", "masks.tif"])
def test_a_users_own_files_stay(storage, key):
    """A user's folder may be called as one of a run's is."""
    folder = begun(storage, "masks/a.tif")
    for name in (key, "masks/a.tif", *(f"report/{name}" for name in REPORT_PARTS[:-1]), "report/skips/a.png", "ledger/watch/told.json"):
        storage.put(name, b"")
    folder.clear()
    assert key in storage.list()
    folder.discard()
    assert storage.list() == [key]


def test_a_run_that_lives_is_not_removed(storage):
    """Starting over while another process holds the run is refused, and removes nothing."""
    folder = begun(storage, "masks/a.tif")
    with Ledger.open(storage.below("ledger")):
        before = storage.list()
        with pytest.raises(InputError, match="still going"):
            folder.clear()
        assert set(before) <= set(storage.list())


def test_another_run_is_refused_with_every_difference(storage):
    """What differs between the run that was begun here and the one that is asked for is listed, old and new."""
    folder = begun(storage)
    folder.write(identity={"images": ["a"], "tiling": {"core": 64, "halo": 8}})
    folder.refuse_other({"images": ["a"], "tiling": {"core": 64, "halo": 8}})
    with pytest.raises(InputError, match=r"tiling\.core: found 128; expected 64.*\n.*tiling\.halo: found 0.*\n.*--fresh"):
        folder.refuse_other({"images": ["a"], "tiling": {"core": 128, "halo": 0}})


@pytest.mark.parametrize("name", ["ledger", "report"])
def test_nothing_is_written_or_removed_behind_a_link(tmp_path, name):
    """A folder that somebody else made may hold links to other folders: no command changes a file there."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "index.html").write_text("mine")
    folder = RunFolder(out)
    folder.write(state="done")
    (out / name).symlink_to(elsewhere)
    for change in (lambda: folder.report.put("index.html", b""), folder.clear, folder.discard, folder.ask_to_stop):
        with suppress(InputError, StoreError):
            change()
    with pytest.raises(InputError, match="a link that leads out of it"):
        getattr(folder, name)
    assert [(path.name, path.read_text()) for path in elsewhere.iterdir()] == [("index.html", "mine")]


@pytest.mark.parametrize("scheme", ["memory", "MEMORY"])
def test_an_input_in_a_bucket_is_not_written_over(scheme):
    """However a URL is spelled, an input that lies where an output would go is refused; others are not."""
    options = {"outputs": ["masks/a.tif"], "command": "run", "is_begun": True}
    refuse_overwriting("memory://b/run", "output", reads=[f"{scheme}://b/run/other/a.tif"], **options)
    with pytest.raises(InputError, match="which is read, where the run would write masks/a.tif"):
        refuse_overwriting("memory://b/run", "output", reads=[f"{scheme}://b/run/masks/a.tif"], **options)
