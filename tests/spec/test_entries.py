"""Sizes and versions of files, by one request for a file and one listing for a folder."""

from __future__ import annotations

import os

import pytest

from pipeline.storage import Entry, entries_below, entry_of, folder_of, is_seen, open_storage, read_version
from pipeline.storage._object_store import ObjectStorage


@pytest.fixture(params=["memory", "s3"])
def storage(request):
    """A storage of each kind that is no disk."""
    url = "memory://entries" if request.param == "memory" else request.getfixturevalue("s3")
    storage = open_storage(url)
    for key in ("a.tif", "b/c.tif", "b/d/e.tif", "f.ome.zarr/zarr.json"):
        storage.put(key, key.encode())
    yield storage
    for key in storage.list():
        storage.delete(key)


def test_a_folder_is_listed_without_what_lies_deeper(storage):
    """Files have size and version, folders a name."""
    folder = folder_of(storage)
    assert (list(folder.files), folder.folders) == (["a.tif"], ("b", "f.ome.zarr"))
    assert folder.files["a.tif"] == entry_of(storage, "a.tif")
    assert folder_of(storage.below("nothing")) == type(folder)()


def test_every_file_below_is_listed_with_its_version(storage):
    """Keys are relative to the storage, and a listing gives the versions that single requests give."""
    below = entries_below(storage.below("b"))
    assert [(entry.key, entry.size) for entry in below] == [("c.tif", 7), ("d/e.tif", 9)]
    assert below == [entry_of(storage.below("b"), entry.key) for entry in below]


def test_a_folder_that_a_console_made_is_no_file(s3):
    """The empty object ``FOLDER/``, which stands for a folder in a bucket, is not listed as a file in that folder."""
    boto3 = pytest.importorskip("boto3")
    bucket, _, prefix = s3.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
    client.put_object(Bucket=bucket, Key=f"{prefix}/slides/", Body=b"")
    storage = open_storage(f"{s3}/slides")
    assert (entries_below(storage), list(folder_of(storage).files)) == ([], [])
    storage.put("a.tif", b"1")
    assert ([entry.key for entry in entries_below(storage)], list(folder_of(storage).files)) == (["a.tif"], ["a.tif"])


def test_a_replaced_file_is_another_version(storage):
    """Ranges of a version are read until the file is replaced or removed; then there is nothing."""
    entry = entry_of(storage, "a.tif")
    assert entry == Entry("a.tif", 5, entry.version)
    assert read_version(storage, "a.tif", entry.version, 1, 4) == b".ti"
    storage.put("a.tif", b"other")
    assert read_version(storage, "a.tif", entry.version, 1, 4) is None
    assert entry_of(storage, "a.tif").version != entry.version
    storage.delete("a.tif")
    assert read_version(storage, "a.tif", entry.version, 1, 4) is None
    assert (entry_of(storage, "a.tif"), is_seen(storage, "a.tif"), is_seen(storage, "b/c.tif")) == (None, False, True)


def test_a_listing_is_one_request(s3, monkeypatch):
    """A folder costs one request, however many files and folders it holds."""
    storage = open_storage(s3)
    for number in range(20):
        storage.put(f"in/{number}.tif", b"1")
        storage.put(f"in/{number}/deep.tif", b"1")
    asked = []
    real = ObjectStorage._request
    monkeypatch.setattr(ObjectStorage, "_request", lambda *args, **options: asked.append(args[1]) or real(*args, **options))
    folder = folder_of(storage.below("in"))
    assert (len(folder.files), len(folder.folders), len(asked)) == (20, 20, 1)
