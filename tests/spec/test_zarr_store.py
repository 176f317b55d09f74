"""A storage as a store of zarr-python: read in any range, written whole, and nothing else."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from pipeline.storage import MemoryStorage
from pipeline.storage.zarr_store import ZarrStore


@pytest.fixture
def storage(tmp_path):
    """An empty storage that zarr-python does not know."""
    return MemoryStorage(f"memory://{tmp_path.parent.name}-{tmp_path.name}")


def get(store, key, byte_range=None):
    """The bytes that zarr would get; None where there is no file."""
    buffer = asyncio.run(store.get(key, byte_range=byte_range))
    return None if buffer is None else buffer.to_bytes()


def keys(listing):
    """What an asynchronous listing yields."""

    async def gather():
        return [key async for key in listing]

    return asyncio.run(gather())


@pytest.mark.parametrize(
    ("byte_range", "expected"),
    [
        (None, b"0123456789"),
        (RangeByteRequest(2, 5), b"234"),
        (RangeByteRequest(8, 99), b"89"),
        (OffsetByteRequest(7), b"789"),
        (SuffixByteRequest(3), b"789"),
        (SuffixByteRequest(99), b"0123456789"),
    ],
)
def test_any_part_of_a_file_is_read(storage, byte_range, expected):
    """A range, what follows an offset, and an end of any length are the bytes of the file; of an absent file there is none."""
    storage.put("a", b"0123456789")
    store = ZarrStore(storage)
    assert get(store, "a", byte_range) == expected
    assert get(store, "b", byte_range) is None
    some = asyncio.run(store.get_partial_values(default_buffer_prototype(), [("a", byte_range), ("b", None)]))
    assert [one and one.to_bytes() for one in some] == [expected, None]


def test_listings_are_those_of_folders(storage):
    """All keys, those with a prefix, and the names in one folder, each once."""
    for key in ("zarr.json", "0/zarr.json", "0/c/0/0", "0/c/0/1", "01/x"):
        storage.put(key, b"")
    store = ZarrStore(storage)
    assert keys(store.list()) == storage.list()
    assert keys(store.list_prefix("0/c")) == ["0/c/0/0", "0/c/0/1"]
    assert sorted(keys(store.list_dir(""))) == ["0", "01", "zarr.json"]
    assert keys(store.list_dir("0/")) == keys(store.list_dir("0")) == ["c", "zarr.json"]
    assert [asyncio.run(store.exists(key)) for key in ("0/zarr.json", "0", "x")] == [True, False, False]


def test_a_reader_cannot_write(storage):
    """Opened for reading, neither files nor arrays can be changed or removed."""
    storage.put("a", b"1")
    store = ZarrStore(storage)
    buffer = default_buffer_prototype().buffer.from_bytes(b"2")
    for change in (lambda: store.set("a", buffer), lambda: store.delete("a")):
        with pytest.raises(ValueError, match="read-only"):
            asyncio.run(change())
    with pytest.raises(ValueError, match="read-only"):
        zarr.create_array(store, shape=(4,), dtype="uint8")
    assert storage.get("a") == b"1"


def test_a_writer_reads_nothing(storage):
    """Zarr would read a shard before it replaces it, and fail where it is damaged: a writer sees no file, and writes whole ones."""
    zarr.create_array(ZarrStore(storage, write_only=True), shape=(8,), shards=(8,), chunks=(4,), dtype="uint8", fill_value=9)
    (key,) = (key for key in storage.list() if key.endswith("zarr.json"))
    metadata = zarr.open_array(storage.zarr(), mode="r").metadata
    storage.put("c/0", b"damaged")
    writer = ZarrStore(storage, write_only=True)
    assert get(writer, key) is None
    assert not asyncio.run(writer.exists(key))
    array = zarr.Array.from_dict(zarr.storage.StorePath(writer), metadata.to_dict())
    array[...] = np.arange(8)
    assert zarr.open_array(storage.zarr(), mode="r")[...].tolist() == list(range(8))
    asyncio.run(writer.delete("c/0"))
    assert zarr.open_array(storage.zarr(), mode="r")[...].tolist() == [9] * 8


def test_equal_stores_are_equal(storage):
    """Two stores of one storage are one to zarr, unless only one of them may write."""
    assert ZarrStore(storage) == ZarrStore(storage)
    assert hash(ZarrStore(storage)) == hash(ZarrStore(storage))
    assert ZarrStore(storage) != ZarrStore(storage, write_only=True)
    assert ZarrStore(storage) != ZarrStore(storage.below("a"))
