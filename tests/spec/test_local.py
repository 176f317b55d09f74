"""What a folder promises beyond any storage: no way out through links, no short write, errors with a way out."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import InputError, StoreError
from pipeline.records import read_rows
from pipeline.storage import LocalStorage, local_files


def fail_with(number):
    """A system call that fails."""

    def fail(*_args, **_options):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("key", ["link/x", "link"])
def test_no_link_leads_out_of_the_folder(tmp_path, key):
    """Every method refuses a key that leads out of the root through a link."""
    root = tmp_path / "root"
    storage = LocalStorage(root)
    storage.make()
    (root / "link").symlink_to(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for call in (
        lambda: storage.get(key),
        lambda: storage.size(key),
        lambda: storage.open(key),
        lambda: storage.put(key, b"x"),
        lambda: storage.create(key, b"x"),
        lambda: storage.append(key, b"x", 0),
        lambda: storage.delete(key),
        lambda: storage.delete_tree(key),
        lambda: storage.local_file(key).__enter__(),
        lambda: storage.replace_tree(key).__enter__(),
        lambda: storage.list(key + "/"),
        lambda: storage.below(key),
    ):
        with pytest.raises(InputError, match="inside this folder"):
            call()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_removal_that_was_killed_is_finished(tmp_path):
    """Files that a killed process had begun to remove, and which no key names any more, go with the next removal."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / "a" / ".b.partial" / f"{local_files._machine()}.{dead.pid}.1" / "b"
    left.mkdir(parents=True)
    (left / "c").touch()
    LocalStorage(tmp_path).delete_tree("a/b")
    assert list(tmp_path.iterdir()) == []


def test_files_in_the_making_are_not_listed(tmp_path):
    """A file or folder that is not finished yet is no file."""
    storage = LocalStorage(tmp_path)
    (tmp_path / ".b.partial").touch()
    with storage.local_file("a") as path, storage.replace_tree("c") as made:
        path.touch()
        made.put("d", b"")
        assert storage.list() == []


def test_folders_stay_no_longer_than_their_files(tmp_path):
    """Deleting the last file of a folder removes the folder, and the root only when that is asked for and nothing is in it."""
    storage = LocalStorage(tmp_path / "root")
    storage.make()
    storage.put("a/b/c", b"")
    storage.put("a/d/e", b"")
    storage.delete("a/b/c")
    assert [path.name for path in (tmp_path / "root" / "a").iterdir()] == ["d"]
    storage.delete_tree("a/d")
    assert list((tmp_path / "root").iterdir()) == []
    (tmp_path / "root" / "mine").touch()
    storage.remove_if_empty()
    assert storage.exists()
    storage.delete("mine")
    storage.remove_if_empty()
    assert not storage.exists()


def test_a_file_that_stands_where_the_folder_would_is_named(tmp_path):
    """A root at or below a file is the user's mistake, not a folder that is missing."""
    (tmp_path / "file").touch()
    for root in ("file", "file/below"):
        with pytest.raises(InputError, match=r"file: found a file; expected a folder"):
            LocalStorage(tmp_path / root).exists()


def test_a_folder_whose_name_is_too_long_is_refused(tmp_path):
    """Before anything is made, wherever in the path the name is."""
    for path in (tmp_path / ("é" * 128), tmp_path / "none" / ("x" * 256) / "out"):
        with pytest.raises(InputError, match="found a name of 256 bytes; expected names of at most 255. Choose another"):
            LocalStorage(path).exists()
    assert not LocalStorage(tmp_path / ("x" * 255)).exists()


def test_leftovers_are_removed_when_they_are_old(tmp_path, monkeypatch):
    """What killed processes left goes once it has not changed for a while; what is younger may still be written."""
    for name, seconds in (("a/.x.0123.partial", 0), ("y.partial", 0), ("a/.z.partial", time.time())):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (seconds, seconds))
    monkeypatch.setattr(time, "time", lambda: 1e12)  # the clock of a machine that is ahead counts for nothing
    LocalStorage(tmp_path).remove_leftovers(60)
    assert [path.name for path in tmp_path.rglob("*.partial")] == [".z.partial"]


def test_a_folder_that_others_remove_is_made_again(tmp_path, monkeypatch):
    """A process that deletes the last file of a folder at the same moment does not make a write fail."""
    storage = LocalStorage(tmp_path)
    real, raced = os.open, []

    def racing(path, *args):
        if "x" in str(path) and len(raced) < 3:
            raced.append(path)
            (tmp_path / "a").rmdir() if (tmp_path / "a").exists() else None
        return real(path, *args)

    monkeypatch.setattr(os, "open", racing)
    storage.put("a/x", b"1")
    assert (storage.get("a/x"), len(raced)) == (b"1", 3)


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EIO, "see to the disk"),
        (errno.EROFS, "make it writable"),
        (errno.EACCES, "give yourself access"),
    ],
)
def test_a_failing_disk_is_told_in_one_line(tmp_path, monkeypatch, number, way_out):
    """A failed write names the file, the reason and the way out, and leaves the old file and no litter."""
    storage = LocalStorage(tmp_path)
    storage.put("old", b"old")
    monkeypatch.setattr(os, "pwrite", fail_with(number))
    for call in (storage.put, storage.create, lambda name, data: storage.append(name, data, 3)):
        with pytest.raises(StoreError) as told:
            call("old", b"new")
        assert str(told.value) == f"{tmp_path}/old: {os.strerror(number)}; {way_out} and run again: it resumes"
        assert "\n" not in str(told.value)
    assert (storage.get("old"), [path.name for path in tmp_path.iterdir()]) == (b"old", ["old"])


def test_a_missing_folder_is_a_lost_store(tmp_path):
    """A folder that is gone is an error in every call and is not made again behind the user's back."""
    storage = LocalStorage(tmp_path / "gone")
    for call in (
        lambda: storage.get("x"),
        lambda: storage.size("x"),
        lambda: storage.put("x", b""),
        lambda: storage.create("x", b""),
        lambda: storage.open("x"),
        lambda: storage.delete_tree("x"),
        lambda: storage.local_file("x").__enter__(),
        lambda: storage.replace_tree("x").__enter__(),
        lambda: storage.remove_leftovers(0),
        lambda: storage.append("x", b"", 0),
        lambda: storage.delete("x"),
        storage.list,
        lambda: list(read_rows(tmp_path / "gone")),
    ):
        with pytest.raises(StoreError, match="the folder is gone"):
            call()
    assert not (tmp_path / "gone").exists()


def test_a_segment_that_was_cut_by_others_is_noticed(tmp_path):
    """Appending behind a file's end fails instead of leaving a hole."""
    storage = LocalStorage(tmp_path)
    storage.append("segment", b"12", 0)
    with pytest.raises(StoreError, match="something else has cut the file"):
        storage.append("segment", b"34", 3)
    assert storage.get("segment") == b"12"


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_them_all(tmp_path, monkeypatch):
    """Short writes leave no hole and lose nothing."""
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: real(file, data[:3], at))
    storage = LocalStorage(tmp_path)
    storage.append("segment", b"0123456789", 0)
    storage.append("segment", b"abcdefg", 10)
    assert storage.get("segment") == b"0123456789abcdefg"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_folder_without_hard_links_still_has_one_winner(tmp_path, monkeypatch, number):
    """On file systems without hard links a claim is still exclusive."""
    monkeypatch.setattr(os, "link", fail_with(number))
    storage = LocalStorage(tmp_path)
    assert [storage.create("claim", data) for data in (b"1", b"2")] == [True, False]
    assert (storage.get("claim"), [path.name for path in tmp_path.iterdir()]) == (b"1", ["claim"])


def test_a_claim_that_the_disk_refuses_is_told(tmp_path, monkeypatch):
    """A claim that fails for another reason than a faster process or missing links is an error, not a loss."""
    monkeypatch.setattr(os, "link", fail_with(errno.EIO))
    with pytest.raises(StoreError, match="see to the disk"):
        LocalStorage(tmp_path).create("claim", b"mine")


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path, monkeypatch):
    """A folder that may not be read is an error, never a run without rows."""
    monkeypatch.setattr(os, "scandir", fail_with(errno.EACCES))
    with pytest.raises(StoreError, match="give yourself access"):
        LocalStorage(tmp_path).list()


def test_a_claim_whose_answer_was_lost_is_still_ours(tmp_path, monkeypatch):
    """A network share that repeats a link request does not turn the winner into a loser."""
    real = os.link

    def twice(*args, **options):
        real(*args, **options)
        real(*args, **options)

    monkeypatch.setattr(os, "link", twice)
    assert LocalStorage(tmp_path).create("claim", b"mine")


def test_a_folder_that_cannot_be_synced_is_still_used(tmp_path, monkeypatch):
    """Network shares that refuse to sync a folder still hold files; any other failure is told."""
    real = os.fsync

    def refuse(file, number):
        if Path(f"/proc/self/fd/{file}").resolve() == tmp_path:
            raise OSError(number, os.strerror(number))
        real(file)

    storage = LocalStorage(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file: refuse(file, errno.EINVAL))
    storage.put("a", b"1")
    assert storage.get("a") == b"1"
    monkeypatch.setattr(os, "fsync", lambda file: refuse(file, errno.EIO))
    with pytest.raises(StoreError, match="see to the disk"):
        storage.put("a", b"2")
