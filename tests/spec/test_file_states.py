"""The files of an image as they were planned: what has changed since is named."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import tifffile
import zarr

from pipeline.inputs.file_states import FileStates, read_states
from pipeline.plugins import build
from tests.readers.map_tiles import save_quarters

READER = build("readers", {"name": "auto"})


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8))
    return path


def later(path):
    """Give a file the time of the next write, however fast this test is."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def written_over(path):
    path.write_bytes(bytes(path.stat().st_size))
    later(path)


def replaced(path):
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    later(other)
    other.replace(path)


@pytest.mark.parametrize("change", [written_over, replaced, lambda path: path.write_bytes(b"longer" * 999)])
def test_a_changed_file_is_named(image, change):
    """A file that has another size or time is named; one that is as it was, or is gone, is not: reading it fails by itself."""
    states = pickle.loads(pickle.dumps(read_states(str(image), READER)))
    assert states.changed() is None
    change(image)
    assert states.changed() == str(image)
    assert FileStates().changed() is None
    image.unlink()
    assert states.changed() is None


def test_files_that_belong_to_an_image_count(image):
    """A world file changes what the image means."""
    world = image.with_suffix(".tfw")
    world.write_text("1\n0\n0\n-1\n0\n0\n")
    states = read_states(str(image), READER)
    later(world)
    assert states.changed() == str(world)


@pytest.mark.parametrize("change", [written_over, replaced])
def test_chunks_of_an_array_are_looked_at_on_request(tmp_path, change):
    """For a block only the metadata is looked at; for a whole image every chunk, written over or replaced, and new ones."""
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(64, 64), chunks=(16, 16), dtype="u1")
    array[:] = 1
    states = read_states(str(tmp_path / "a.zarr"), READER)
    assert (states.changed(), states.changed(chunks=True)) == (None, None)
    change(tmp_path / "a.zarr" / "c" / "1" / "2")
    assert (states.changed(), states.changed(chunks=True)) == (None, str(tmp_path / "a.zarr"))
    later(tmp_path / "a.zarr" / "zarr.json")
    assert states.changed() == str(tmp_path / "a.zarr" / "zarr.json")


def test_tiles_of_a_mosaic_are_looked_at_when_it_ends(tmp_path):
    """Thousands of files are compared at the end of an image; before, its reader looks at those that it reads."""
    tiles = save_quarters(tmp_path, np.zeros((64, 64), np.uint8), (32, 32))
    reader = build("readers", {"name": "mosaic", "tiles": "*.tif"})
    states = read_states(str(tmp_path), reader)
    assert [state[0] for state in states.versions] == [str(tile) for tile in tiles]
    assert pickle.loads(pickle.dumps(states)) == states
    assert states.changed(chunks=True) is None
    later(tiles[2])
    assert states.changed() is None
    assert states.changed(chunks=True) == str(tiles[2])
    assert read_states(str(tmp_path), reader) != states
