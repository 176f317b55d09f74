"""Temporary files are whole, are named when damaged, and are removed together when their image is finished."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import Recipe
from pipeline.engine import PART_FOLDER, Job, PartFiles, part_folder
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Block

VALUES = {"scores": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "pixels": np.int64(7), "truth": None}


def image(name="a"):
    return Image(0, name, f"/{name}.tif", Header((128, 128), 1, "uint8"), {"name": "auto"})


def block(row, col, name="a", **options):
    return Block("score", image(name), 0, row, col, Box(64 * row, 64 * col, 64 * row + 64, 64 * col + 64), **options)


@pytest.fixture
def job(tmp_path):
    """A job whose output is a folder that exists."""
    return Job(tmp_path, Recipe(core=32, halo=8, block=64))


@pytest.fixture
def files(job):
    """The temporary files of one image."""
    return PartFiles(job, image())


def test_what_a_block_leaves_its_neighbours_find(files, job):
    """Arrays and numbers come back by name from the file of their block, which has the size that was told; None is left out."""
    (written,) = files.write("scores", block(0, 1), VALUES).items()
    assert written == (f"{part_folder(image())}/scores/0.0.1.npz", (job.output / written[0]).stat().st_size)
    with files.open("scores", 0) as part_file:
        found = part_file(0, 1)
        assert (set(found), len(found), "truth" in found) == ({"scores", "pixels"}, 2, False)
        assert np.array_equal(found["scores"], VALUES["scores"])
        assert found["scores"].dtype == np.float32
        assert found["pixels"] == 7
        assert part_file(0, 1) is found


def test_a_block_that_failed_left_nothing(files):
    """Of a block among the lost ones there is no file to look for; of any other, a missing file is an error that says what to do."""
    with files.open("scores", 0, ("a:0.1.1",)) as part_file:
        assert part_file(1, 1) is None
        with pytest.raises(BlockError, match=r"0\.1\.0\.npz: what an earlier phase left is gone\. Run `gigaseg retry`"):
            part_file(1, 0)


@pytest.mark.parametrize("damage", ["torn", "empty", "name"])
def test_a_damaged_file_is_named_and_removed(files, job, damage):
    """It cannot be read now or later: it goes, so that a retry writes it again."""
    (key,) = files.write("scores", block(0, 1), VALUES)
    path = job.output / key
    content = path.read_bytes()
    path.write_bytes({"torn": content[: len(content) // 2], "empty": b"", "name": content.replace(b"scores.npy", b"scorex.npy")}[damage])

    def read():
        with files.open("scores", 0) as part_file:
            return part_file(0, 1)["scores"]

    with pytest.raises(BlockError, match="cannot be read .*Run `gigaseg retry`"):
        read()
    assert not path.exists()


def test_a_disk_that_hiccups_costs_no_file(files, job, monkeypatch):
    """An error that may pass is the system's own, and the file stays."""
    (key,) = files.write("scores", block(0, 1), VALUES)

    def fail(*_args, **_options):
        raise OSError("Too many open files")

    def read():
        with files.open("scores", 0) as part_file:
            return part_file(0, 1)

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", fail)
        with pytest.raises(OSError, match="Too many open files"):
            read()
    assert (job.output / key).exists()


def test_all_go_together(files, job):
    """Discarding leaves none, those of other images stay, and nothing happens where there are none."""
    others = PartFiles(job, image("b"))
    files.discard()
    for row in (0, 1):
        files.write("scores", block(row, 0), VALUES)
        others.write("scores", block(row, 0, "b"), VALUES)
    assert len(files.storage.list("parts/")) == 4
    files.discard()
    files.discard()
    assert {key.rpartition("/scores/")[0] for key in files.storage.list("parts/")} == {others.folder}


def test_no_name_leads_into_anothers_folder():
    """Folders are named by a hash: names with slashes, and names that begin alike, have folders beside each other."""
    names = ["a", "a/parts", "a/parts/b", "../a", "parts", "a.partial", "ä" * 300]
    folders = [part_folder(replace(image(), name=name)) for name in names]
    assert len(set(folders)) == len(names)
    assert all(folder.rpartition("/")[0] == PART_FOLDER and len(folder) < 60 for folder in folders)
