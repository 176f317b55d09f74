"""Arrays in a bucket are read by ranges, and an error is never taken for pixels that were not written."""

from __future__ import annotations

import numpy as np
import pytest
from zarr.storage import ObjectStore

from pipeline.errors import GigasegError
from pipeline.geometry import Box
from pipeline.raster import Header
from pipeline.storage import BlockStore, open_storage


@pytest.fixture
def written(s3):
    """An array of four blocks, of which the last is not written."""
    pixels_YX = np.random.default_rng(0).integers(0, 9, (2048, 2048), np.uint8)
    store = BlockStore(open_storage(f"{s3}/a"), Header((2048, 2048), 1, "uint8"), 1024, 255)
    store.create()
    for y, x in ((0, 0), (0, 1024), (1024, 0)):
        store.write(Box(y, x, y + 1024, x + 1024), pixels_YX[y : y + 1024, x : x + 1024])
    pixels_YX[1024:, 1024:] = 255
    return store, pixels_YX


def test_a_tile_takes_an_index_and_a_range(written, monkeypatch):
    """A tile within a chunk is read by two requests, one for the index of its shard and one for the chunk."""
    store, pixels_YX = written
    asked, real = [], ObjectStore.get

    async def counting(self, key, prototype, byte_range=None):
        asked.append(byte_range)
        return await real(self, key, prototype, byte_range)

    monkeypatch.setattr(ObjectStore, "get", counting)
    np.testing.assert_array_equal(store.read(Box(16, 16, 272, 272))[0], pixels_YX[16:272, 16:272])
    assert (len(asked), None in asked) == (2, False)


def test_pixels_that_were_not_written_have_the_fill_value(written):
    """A file that is not there holds no pixels."""
    store, pixels_YX = written
    np.testing.assert_array_equal(store.read(Box(0, 0, 2048, 2048))[0], pixels_YX)


def test_a_lost_bucket_is_an_error(s3):
    """Where the bucket is gone, or may not be read, nothing is filled in."""
    store = BlockStore(open_storage("s3://no-such-bucket/a"), Header((512, 512), 1, "uint8"), 512, 255)
    with pytest.raises(GigasegError, match="no bucket 'no-such-bucket'"):
        store.read(Box(0, 0, 512, 512))
