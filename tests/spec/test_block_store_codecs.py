"""Faster codecs change the time that reading takes, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from pipeline.geometry import Box
from pipeline.raster import Header
from pipeline.storage import BlockStore, block_store, with_fast_codecs

PIXELS_YX = np.random.default_rng(0).integers(0, 9, (200, 300)).astype(np.uint16)


@pytest.fixture
def stored(tmp_path):
    """An array of two blocks, one of them not written."""
    store = BlockStore(tmp_path / "0", Header(PIXELS_YX.shape, 1, "uint16"), 256, 7)
    store.create()
    store.write(Box(0, 0, 200, 256), PIXELS_YX[:, :256])
    return tmp_path / "0"


def wanted():
    """The pixels, with the fill value where no block was written."""
    expected_YX = PIXELS_YX.copy()
    expected_YX[:, 256:] = 7
    return expected_YX


def test_pixels_are_the_same(stored):
    """An array that zarrs decodes has the pixels, the metadata and the missing blocks that Zarr's own codecs give it."""
    pytest.importorskip("zarrs")
    slow = zarr.open_array(stored, mode="r")
    fast = with_fast_codecs(slow)
    assert type(fast._async_array.codec_pipeline).__module__.startswith("zarrs")
    assert fast.metadata == slow.metadata
    assert np.array_equal(fast[...], wanted())
    assert np.array_equal(fast[50:60, 250:260], slow[50:60, 250:260])


def test_other_arrays_keep_their_codecs(stored):
    """The setting holds for one array: those that the program opens afterwards are Zarr's own."""
    before = zarr.config.get("codec_pipeline.path")
    with_fast_codecs(zarr.open_array(stored, mode="r"))
    assert zarr.config.get("codec_pipeline.path") == before


def test_without_zarrs_zarr_decodes(stored, monkeypatch):
    """Where zarrs is not installed the array is returned as it is, and reads the same pixels."""
    monkeypatch.setattr(block_store, "find_spec", lambda _: None)
    array = zarr.open_array(stored, mode="r")
    assert with_fast_codecs(array) is array
    assert np.array_equal(array[...], wanted())


def test_arrays_of_zarr_2_are_left_alone(tmp_path):
    """Zarrs cannot read every byte order of Zarr v2: big-endian pixels come as they are."""
    array = zarr.create_array(tmp_path / "old", shape=(4, 5), chunks=(4, 5), dtype=">u2", zarr_format=2)
    array[...] = np.arange(20).reshape(4, 5)
    assert with_fast_codecs(array) is array
    assert np.array_equal(array[...], np.arange(20).reshape(4, 5))
