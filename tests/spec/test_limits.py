"""Sizes that no run can hold are told at plan, with a way out: absurd headers, and more blocks than a driver keeps count of."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.errors import InputError
from pipeline.inputs import limits
from pipeline.inputs.limits import check_num_blocks, num_blocks_of
from pipeline.raster import Header
from pipeline.readers.zarr import Zarr
from tests.conftest import blobs, engine_yaml, save_tiff

SIDE = 4_000_000_000
STUB = {"model": {"name": "tests.benchmarks.stub"}, "normalize": None, "tiling": {"core": 32, "halo": 0, "block": 32}}
sides = st.integers(1, 10**7)
headers = st.builds(lambda y, x, z: Header((y, x), 1, "uint8", {"z": z}), sides, sides, st.integers(1, 50))


def huge_store(path, side=SIDE):
    """An array of nothing but a header."""
    zarr.create_array(path, shape=(side, side), chunks=(1024, 1024), dtype="u1")
    return path


@pytest.fixture
def plan(tmp_path, capsys):
    """Plan the images of a folder: exit code and all that was printed."""

    def go(*images, **keys):
        code = main(["plan", str(engine_yaml(tmp_path, images=[str(one) for one in images], **{**STUB, **keys}))])
        return code, "".join(capsys.readouterr())

    return go


@pytest.mark.parametrize("side", [SIDE, 1_500_000])
def test_a_huge_image_is_refused_by_name_and_quarantined_in_a_folder(tmp_path, plan, side):
    """Where it was found, what it holds, what is allowed and what to do are told within seconds, and the other image is planned."""
    huge = huge_store(tmp_path / "s" / "huge.zarr", side)
    save_tiff(tmp_path / "s" / "small.tif", blobs((64, 64)))
    code, text = plan(huge)
    assert (code, f"{side} x {side}" in text, "expected at most" in text, str(huge) in text) == (2, True, True, True)
    code, text = plan(tmp_path / "s")
    assert (code, "small: 64 x 64 px" in text, f"unreadable: {huge}" in text) == (3, True, True)


def test_a_larger_block_or_a_coarser_grid_is_the_way_out(tmp_path, plan, monkeypatch):
    """The side that the message names is accepted; so is an image that is large in its file and small on its working grid."""
    monkeypatch.setattr(limits, "MOST_BLOCKS", 10)
    image = save_tiff(tmp_path / "a.tif", blobs((256, 256)))
    code, text = plan(image)
    way = re.search(r"found 256 x 256 pixels, 64 blocks of 32; expected at most 10 blocks a run. Use tiling.block: (\d+)", text)
    assert (code, way and way.group(1)) == (2, "128")
    assert plan(image, tiling={"core": 32, "halo": 0, "block": 128})[0] == 0
    assert plan(image, resolution={"scale": 0.25})[0] == 0


def test_many_images_are_too_many_blocks_together(tmp_path, plan, monkeypatch):
    """A run is refused for the sum of its blocks, before anything is written."""
    monkeypatch.setattr(limits, "MOST_BLOCKS", 10)
    for name in "abc":
        save_tiff(tmp_path / "s" / f"{name}.tif", blobs((64, 64)))
    code, text = plan(tmp_path / "s")
    assert (code, "tiling.block: found 12 blocks of 32 in 3 images; expected at most 10 blocks a run" in text) == (2, True)
    assert main(["run", str(tmp_path / "run.yaml")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (0, 5)},
        {"shape": (-1, 5)},
        {"channels": 0},
        {"planes": {"z": 0}},
        {"channels": 10**9},
        {"planes": {"t": 10**5, "z": 10**5}},
    ],
)
def test_absurd_numbers_are_refused_whatever_the_reader_says(tmp_path, plan, monkeypatch, changes):
    """Zero, negative and absurd sides, channels and planes are the fault of one file, which is named."""
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((64, 64), np.uint8))
    real = Zarr.open

    @contextmanager
    def absurd(self, path):
        with real(self, path) as raster:
            raster.header = replace(raster.header, **changes)
            yield raster

    monkeypatch.setattr(Zarr, "open", absurd)
    code, text = plan(tmp_path / "a.zarr", reader={"name": "zarr"})
    assert (code, "a.zarr: found" in text, "; expected at " in text) == (2, True, True)


@given(st.lists(headers, min_size=1, max_size=3), st.integers(1, 4096))
def test_the_advice_holds(images, block):
    """A run is refused only above the limit, and the side that the message names brings it below."""
    try:
        check_num_blocks(images, block, "tiling.block")
    except InputError as error:
        way = re.search(r"Use tiling.block: (\d+)", str(error))
        assert sum(num_blocks_of(one, block) for one in images) > limits.most_blocks()
        assert way is None or sum(num_blocks_of(one, int(way.group(1))) for one in images) <= limits.most_blocks()
    else:
        assert sum(num_blocks_of(one, block) for one in images) <= limits.MOST_BLOCKS
