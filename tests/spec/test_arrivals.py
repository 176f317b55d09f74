"""Images that arrive: none is taken while it grows, whatever it is made of."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tifffile
import zarr

from pipeline.config import config_from_mapping
from pipeline.inputs import Arrivals
from pipeline.inputs import arrivals as module
from pipeline.storage import open_storage


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def arriving(tmp_path):
    """The folder, and a function that lets seconds pass, looks, and gives the names of what has settled after 30 of them."""
    folder = tmp_path / "in"
    folder.mkdir()
    return folder, looking(folder, tmp_path)


def looking(folder, tmp_path):
    config = config_from_mapping({"images": [str(folder)], "model": {"name": "histogram"}, "output": str(tmp_path / "out")}, tmp_path)
    clock = Clock()
    arrivals = Arrivals(config, str(folder), 30.0, clock)

    def look(seconds=0.0):
        clock.now += seconds
        settled = arrivals.look()
        return {path.removeprefix(f"{folder}/"): state for path, state in settled.items()}

    look.arrivals = arrivals
    return look


def test_a_file_that_grows_is_left_alone(arriving):
    """However long it takes; it is taken once nothing has changed for the whole time, and not a second earlier."""
    folder, look = arriving
    whole = folder.parent / "whole.tif"
    tifffile.imwrite(whole, np.zeros((64, 64), np.uint8))
    data = whole.read_bytes()
    for end in range(100, len(data), 500):
        (folder / "a.tif").write_bytes(data[:end])
        assert not look(20)
    (folder / "a.tif").write_bytes(data)
    assert [bool(look(seconds)) for seconds in (0, 20, 9, 1)] == [False, False, False, True]
    assert look.arrivals.num_growing == 0


def test_a_file_written_in_place_is_seen_by_its_time(arriving):
    """A program may first make the file as large as it will be: then its size says nothing."""
    folder, look = arriving
    (folder / "a.tif").write_bytes(bytes(1000))
    look()
    os.utime(folder / "a.tif", ns=(5, 5))
    assert not look(30)
    assert look(30)


def test_an_image_that_is_replaced_has_another_state(arriving):
    """It has to settle again, and is then told apart from the one before."""
    folder, look = arriving
    (folder / "a.tif").write_bytes(b"one")
    look()
    before = look(30)
    (folder / "a.tif").write_bytes(b"other")
    assert not look(1)
    assert look(30)["a.tif"] != before["a.tif"]


def test_a_store_grows_while_any_file_in_it_does(arriving):
    """The store is one image; a chunk deep inside counts, also one that is written in place."""
    folder, look = arriving
    array = zarr.create_array(folder / "deep" / "a.ome.zarr" / "0", shape=(64, 64), chunks=(32, 32), dtype="u1")
    array[:32, :32] = 1
    look()
    for corner in ((32, 0), (0, 32), (32, 32)):
        array[corner[0] : corner[0] + 32, corner[1] : corner[1] + 32] = 2
        assert not look(29)
    assert not look(29)
    assert list(look(1)) == ["deep/a.ome.zarr"]
    chunk = max(path for path in (folder / "deep").rglob("c/*/*") if path.is_file())
    os.utime(chunk, ns=(chunk.stat().st_atime_ns, chunk.stat().st_mtime_ns + 10**9))
    assert not look(1)


def test_files_that_belong_to_an_image_settle_with_it(arriving):
    """A world file that comes later, or grows, keeps its image back; the image's own file need not change."""
    folder, look = arriving
    tifffile.imwrite(folder / "a.tif", np.zeros((64, 64), np.uint8))
    look()
    assert list(look(30)) == ["a.tif"]
    (folder / "a.tfw").write_text("1\n0\n")
    assert not look(1)
    (folder / "a.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    assert not look(29)
    assert list(look(30)) == ["a.tif"]


def test_what_is_gone_is_forgotten(arriving):
    """Memory follows the number of images that are there."""
    folder, look = arriving
    for number in range(50):
        (folder / f"{number}.tif").write_bytes(b"x")
        look(1)
        (folder / f"{number}.tif").unlink()
    look(1)
    assert look.arrivals._seen == {}


def test_what_is_no_image_does_not_arrive(arriving):
    """Other files, hidden files and the run's own output are passed over, as a run passes over them; so is a folder without access."""
    folder, look = arriving
    for name in ("notes.txt", ".a.tif.part", ".hidden.tif"):
        (folder / name).write_bytes(b"x")
    (folder / "b.tif").write_bytes(b"x")
    look()
    assert list(look(30)) == ["b.tif"]


def test_a_folder_that_is_gone_is_an_error(arriving):
    """A network file system that is not mounted must not look like a folder that was emptied."""
    folder, look = arriving
    folder.rmdir()
    with pytest.raises(FileNotFoundError, match=f"^{folder}: the folder is gone; is its file system mounted"):
        look()


def test_the_server_of_a_file_system_is_asked_until_a_file_has_settled(arriving, monkeypatch):
    """Opening a file makes a client of NFS ask its server; what has settled is not opened any more."""
    folder, look = arriving
    (folder / "a.tif").write_bytes(b"x")
    opened = []
    real = os.open
    monkeypatch.setattr(module.os, "open", lambda path, *rest: opened.append(path) or real(path, *rest))
    counts = []
    for seconds in (0, 15, 15, 15):
        look(seconds)
        counts.append(sum(path == str(folder / "a.tif") for path in opened))
    assert counts[0] < counts[1] < counts[2] == counts[3]


def test_a_bucket_is_watched_by_versions(s3, tmp_path):
    """A key that is replaced by as many bytes has another state; so has a store in which one chunk is."""
    pytest.importorskip("obstore")
    storage = open_storage(s3)
    look = looking(s3, tmp_path)
    storage.put("a.tif", b"one")
    storage.put("b.ome.zarr/zarr.json", b"{}")
    storage.put("b.ome.zarr/0/c/0/0", b"one")
    assert not look()
    before = look(30)
    assert sorted(before) == ["a.tif", "b.ome.zarr"]
    storage.put("a.tif", b"two")
    storage.put("b.ome.zarr/0/c/0/0", b"two")
    assert not look(1)
    after = look(30)
    assert sorted(after) == ["a.tif", "b.ome.zarr"]
    assert all(after[name] != before[name] for name in after)
