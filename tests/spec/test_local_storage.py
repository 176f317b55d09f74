"""What a store of small files promises: whole files, one winner, nothing outside its folder, errors with a way out."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.errors import InputError, StoreError
from pipeline.records.ledger import read_rows
from pipeline.storage.local import LocalStorage


def fail_with(number):
    """A system call that fails."""

    def fail(*_args, **_options):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "link/x", "link", "a\0b"])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    """Every call refuses a name outside the root, through `..`, an absolute path or a link."""
    root = tmp_path / "root"
    storage = LocalStorage(root, make=True)
    (root / "link").symlink_to(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for call in (
        lambda: storage.get(name),
        lambda: storage.size(name),
        lambda: storage.put(name, b"x"),
        lambda: storage.create_if_absent(name, b"x"),
        lambda: storage.append(name, b"x", 0),
        lambda: storage.delete(name),
        lambda: storage.list(name + "/"),
    ):
        with pytest.raises(InputError, match="inside this folder"):
            call()
    assert sorted(tmp_path.rglob("*")) == before


def test_files_are_put_listed_read_in_part_and_deleted(tmp_path):
    """Names come back sorted, a part of a file can be read, what is absent is None."""
    storage = LocalStorage(tmp_path)
    storage.put("b/two", b"0123456789")
    storage.put("b/two", b"abcdefghij")
    storage.append("b/one", b"12", 0)
    storage.append("b/one", b"34", 2)
    (tmp_path / ".b.tmp").touch()
    assert storage.list() == ["b/one", "b/two"]
    assert (storage.list("b/t"), storage.list("c/"), storage.list("c")) == (["b/two"], [], [])
    assert (storage.get("b/one"), storage.get("b/two", 2, 5), storage.get("b/two", 8, 99), storage.size("b/two")) == (
        b"1234",
        b"cde",
        b"ij",
        10,
    )
    storage.delete("b/one")
    storage.delete("b/one")
    assert (storage.get("b/one"), storage.size("b/one"), storage.list()) == (None, None, ["b/two"])


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
    for call in (storage.put, storage.create_if_absent, lambda name, data: storage.append(name, data, 3)):
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
        lambda: storage.create_if_absent("x", b""),
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
    assert [storage.create_if_absent("claim", data) for data in (b"1", b"2")] == [True, False]
    assert (storage.get("claim"), [path.name for path in tmp_path.iterdir()]) == (b"1", ["claim"])


def test_a_claim_that_the_disk_refuses_is_told(tmp_path, monkeypatch):
    """A claim that fails for another reason than a faster process or missing links is an error, not a loss."""
    monkeypatch.setattr(os, "link", fail_with(errno.EIO))
    with pytest.raises(StoreError, match="see to the disk"):
        LocalStorage(tmp_path).create_if_absent("claim", b"mine")


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
    assert LocalStorage(tmp_path).create_if_absent("claim", b"mine")


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
