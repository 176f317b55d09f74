"""What every storage promises: whole files, one winner, nothing outside its root, the same answers from each kind."""

from __future__ import annotations

import pickle
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr

from pipeline.errors import InputError, LockLost, StoreError
from pipeline.geometry import Box
from pipeline.raster import Header
from pipeline.storage import BlockStore, LocalStorage, MemoryStorage, open_storage
from tests.cluster.azure_server import CONTAINER, azure_server


def refuse():
    """A guard of a storage that may not be written any more."""
    raise LockLost("it is over")


class StorageTests:
    """The promises of :class:`pipeline.storage.Storage`; a new kind of storage is a subclass that gives an empty one."""

    def test_files_are_put_listed_read_in_part_and_deleted(self, storage):
        """Keys come back sorted, a part of a file can be read, what is absent is None."""
        storage.put("b/two", b"0123456789")
        storage.put("b/two", memoryview(b"abcdefghij"), durable=False)
        storage.put("b/one", b"1234")
        assert storage.list() == ["b/one", "b/two"]
        assert (storage.list("b/t"), storage.list("b/"), storage.list("c/"), storage.list("c")) == (["b/two"], ["b/one", "b/two"], [], [])
        assert [storage.get("b/two", *part) for part in ((), (2,), (2, 5), (8, 99), (99,), (5, 2))] == [
            b"abcdefghij",
            b"cdefghij",
            b"cde",
            b"ij",
            b"",
            b"",
        ]
        assert (storage.size("b/two"), storage.exists()) == (10, True)
        storage.delete("b/one")
        storage.delete("b/one")
        assert (storage.get("b/one"), storage.size("b/one"), storage.list()) == (None, None, ["b/two"])

    @pytest.mark.parametrize("number", [1, 30])
    def test_sizes_of_many_files(self, storage, number):
        """Each of the files that are there has the size that it has alone; what is absent, or a folder, has none."""
        for index in range(number):
            storage.put(f"m/{index % 3}/{index}", b"x" * index, durable=False)
        keys = [f"m/{index % 3}/{index}" for index in range(number)] + ["m/0/none", "n/0", "m/0", "top"]
        assert storage.sizes(keys) == {**dict.fromkeys(keys), **{f"m/{index % 3}/{index}": index for index in range(number)}}
        assert storage.below("m").sizes([*(key[2:] for key in keys[:number])]) == {key[2:]: storage.size(key) for key in keys[:number]}
        assert storage.sizes([]) == {}

    def test_a_prefix_is_no_file(self, storage):
        """Of a key that only other keys begin with, or that begins with a file's key, nothing is known."""
        storage.put("a/b", b"1")
        for key in ("a", "a/b/c", "a/x/y"):
            assert (storage.get(key), storage.size(key)) == (None, None)
            storage.delete(key)
        storage.delete_tree("a/b")
        storage.delete_tree("z")
        assert storage.list() == ["a/b"]

    def test_a_name_is_that_of_a_file_or_of_what_files_lie_below(self, storage):
        """A storage has each file and each folder of files, and nothing that only begins as they do."""
        storage.put("a/b.zarr/c", b"1")
        assert [name for name in ("a", "a/b.zarr", "a/b.zarr/c", "a/b", "a/b.zarr/c/d", "z") if storage.has(name)] == [
            "a",
            "a/b.zarr",
            "a/b.zarr/c",
        ]

    def test_a_folder_is_lent_to_libraries_that_read_paths(self, storage):
        """Files below a prefix lie in a local folder inside the ``with`` block."""
        storage.put("a/b/c", b"1")
        storage.put("a/d", b"2")
        storage.put("z", b"3")
        with storage.local_folder("a") as folder:
            assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
                "b/c": b"1",
                "d": b"2",
            }

    def test_a_guard_keeps_every_change_from_becoming_visible(self, storage):
        """Where the guard raises, in this storage or one below, files stay as they are, and nothing is left behind."""
        storage.put("a/b", b"before")
        guarded = pickle.loads(pickle.dumps(storage.guarded(refuse)))
        assert (guarded, guarded.get("a/b")) == (storage, b"before")
        below = guarded.below("a")

        def write(opened):
            with opened as made:
                (made.put("c", b"after") if hasattr(made, "put") else made.write_bytes(b"after"))

        for change in (
            lambda: guarded.put("a/b", b"after"),
            lambda: guarded.create("a/c", b"after"),
            lambda: guarded.append("a/b", b"after"),
            lambda: guarded.delete("a/b"),
            lambda: guarded.delete_tree("a"),
            lambda: write(guarded.local_file("a/b")),
            lambda: write(guarded.replace_tree("a")),
            lambda: below.put("b", b"after"),
        ):
            with pytest.raises(LockLost, match="over"):
                change()
            assert {key: storage.get(key) for key in storage.list()} == {"a/b": b"before"}

    @pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", "a/./b", "a//b", "", "a\0b", "a/"])
    def test_no_key_leads_out_of_the_root(self, storage, key):
        """Every method refuses a key that is no path below the root."""
        for call in (
            lambda: storage.get(key),
            lambda: storage.size(key),
            lambda: storage.open(key),
            lambda: storage.put(key, b"x"),
            lambda: storage.create(key, b"x"),
            lambda: storage.append(key, b"x"),
            lambda: storage.delete(key),
            lambda: storage.delete_tree(key),
            lambda: storage.below(key),
            lambda: storage.local_file(key).__enter__(),
            lambda: storage.replace_tree(key).__enter__(),
            *([lambda: storage.list(key + "/")] if key not in ("", "a/") else []),
        ):
            with pytest.raises(InputError, match="inside this folder"):
                call()
        assert storage.list() == []

    def test_of_many_creators_one_wins(self, storage):
        """However many threads create one file at once, one of them succeeds and the file is its own."""
        begin = threading.Barrier(8)

        def create(number):
            begin.wait(10)
            return storage.create("claims/1", b"%d" % number)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
        assert storage.get("claims/1") == b"%d" % won.index(True)
        assert won.count(True) == 1

    def test_a_file_grows_at_its_end(self, storage):
        """Appending writes behind what is there; a repeated call overwrites its first try; a file that was cut is noticed."""
        storage.append("log", b"12", 0)
        storage.append("log", b"34", 2)
        storage.append("log", b"5678", 2)
        storage.append("log", b"9", durable=False)
        storage.append("new/log", b"1")
        assert (storage.get("log"), storage.get("new/log")) == (b"1256789", b"1")
        with pytest.raises(StoreError, match="has cut the file"):
            storage.append("log", b"x", 8)
        assert storage.get("log") == b"1256789"

    def test_below_is_a_storage_of_its_own(self, storage):
        """A storage below another one sees the same files under shorter keys, and equals one that was opened by its URL."""
        storage.put("a/b/c", b"1")
        below = storage.below("a").below("b")
        assert (below.get("c"), below.list(), below == storage.below("a/b"), below != storage) == (b"1", ["c"], True, True)
        below.put("d", b"2")
        assert storage.get("a/b/d") == b"2"
        assert open_storage(below.url) == open_storage(below) == below
        assert {below, storage.below("a/b")} == {below}
        assert str(below) == below.url

    def test_a_storage_travels(self, storage):
        """A pickled storage equals the storage."""
        assert pickle.loads(pickle.dumps(storage)) == storage

    def test_a_tree_is_deleted_whole(self, storage):
        """Every file below the prefix goes, and no other one, though its key begins alike."""
        for key in ("a/b", "a/c/d", "ab"):
            storage.put(key, b"")
        storage.delete_tree("a")
        assert storage.list() == ["ab"]

    def test_a_tree_is_replaced_whole(self, storage):
        """New files take the place of old ones when all are written; until then, and after a failure, the old ones stay."""
        storage.put("a/old", b"1")
        with storage.replace_tree("a") as made:
            made.put("x/new", b"2")
            assert storage.list() == ["a/old"]
        assert (storage.list(), storage.get("a/x/new")) == (["a/x/new"], b"2")
        with pytest.raises(InputError), storage.replace_tree("a") as made:
            made.put("../more", b"3")
        assert storage.list() == ["a/x/new"]

    def test_a_local_file_is_put_whole(self, storage):
        """What is written at the path appears under the key in the end; after a failure the old file stays."""
        for durable, data in ((True, b"1"), (False, b"22")):
            with storage.local_file("a/b.tif", durable=durable) as path:
                path.write_bytes(data)
                assert path.name == "b.tif"
                assert storage.get("a/b.tif") == (None if durable else b"1")
            assert (storage.list(), storage.get("a/b.tif")) == (["a/b.tif"], data)
        with pytest.raises(TypeError), storage.local_file("a/b.tif") as path, path.open("wb") as file:
            file.writelines([b"333", "not bytes"])
        assert (storage.list(), storage.get("a/b.tif")) == (["a/b.tif"], b"22")

    def test_an_open_file_is_seekable(self, storage):
        """A file can be read from any place on; one that is absent is Python's own error."""
        storage.put("a", b"0123456789")
        with storage.open("a") as file:
            file.seek(-3, 2)
            assert file.read() == b"789"
        with pytest.raises(FileNotFoundError):
            storage.open("b")

    def test_zarr_reads_it(self, storage):
        """Arrays that are written block by block are read by zarr-python, with all their metadata, and cannot be changed there."""
        pixels = np.random.default_rng(0).integers(0, 9, (300, 300), np.uint8)
        store = BlockStore(storage.below("masks/0"), Header((300, 300), 1, "uint8"), 256, 255)
        store.create()
        for y in (0, 256):
            store.write(Box(y, 0, min(y + 256, 300), 256), pixels[y : y + 256, :256])
        expected = pixels.copy()
        expected[:, 256:] = 255
        np.testing.assert_array_equal(store.read(Box(0, 0, 300, 300))[0], expected)
        group_less = zarr.open_array(storage.zarr("masks/0"), mode="r")
        np.testing.assert_array_equal(group_less[...], expected)
        np.testing.assert_array_equal(zarr.open_array(storage.zarr(), path="masks/0", mode="r")[250:, :9], expected[250:, :9])
        with pytest.raises(ValueError, match="read-only"):
            zarr.open_array(storage.zarr("masks/0"), mode="r+")
        assert BlockStore.open(storage.below("masks/0")).header == store.header


class TestLocalStorage(StorageTests):
    """A folder."""

    @pytest.fixture
    def storage(self, tmp_path):
        return LocalStorage(tmp_path)


class TestMemoryStorage(StorageTests):
    """The memory of this process."""

    @pytest.fixture
    def storage(self, tmp_path):
        return MemoryStorage(f"memory://{tmp_path.name}")


class TestS3Storage(StorageTests):
    """A prefix of a bucket, on a real server."""

    @pytest.fixture
    def storage(self, s3):
        return open_storage(s3)


@pytest.fixture(scope="module")
def azure():
    """The environment of Azure's emulator."""
    try:
        with azure_server() as environment:
            yield environment
    except FileNotFoundError:
        pytest.skip("needs azurite-blob: npm install azurite, and put node_modules/.bin on the PATH")


class TestAzureStorage(StorageTests):
    """A prefix of a container, on Azure's emulator; the service itself was not tried."""

    @pytest.fixture
    def storage(self, azure, monkeypatch):
        for name, value in azure.items():
            monkeypatch.setenv(name, value)
        return open_storage(f"az://{CONTAINER}/{secrets.token_hex(8)}")
