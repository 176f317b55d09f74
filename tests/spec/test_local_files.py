"""Files of a local disk: errors say the way out, a hash is read once, and each process and thread writes in a folder of its own."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.storage import file_sha256, local_files, store_errors
from pipeline.storage.local import LocalStorage
from pipeline.storage.local_files import is_older, is_unfinished, scratch_folder, unfinished_name, with_parents


def folders(root):
    return sorted(path.name for path in root.rglob("*") if path.is_dir())


def test_a_scratch_folder_is_gone_in_the_end(tmp_path):
    """It is empty when it is given, lies on the disk of the file, and leaves nothing, after an error too."""
    for error in (None, RuntimeError("broken")):
        with suppress(RuntimeError), scratch_folder(tmp_path / "a" / "x.tif", tmp_path) as folder:
            assert list(folder.iterdir()) == []
            assert folder.parent.parent == tmp_path / "a"
            assert is_unfinished(folder.parent.name)
            (folder / "x.tif").touch()
            if error:
                raise error
        assert not folder.parent.exists()


def test_threads_do_not_share_a_folder(tmp_path):
    """Two threads that write one file at once have a folder each, and the first to end leaves the other's alone."""
    second, ended = threading.Event(), threading.Event()
    seen = []

    def other():
        with scratch_folder(tmp_path / "x", tmp_path) as folder:
            seen.append(folder)
            second.set()
            ended.wait(10)
            assert folder.is_dir()

    thread = threading.Thread(target=other)
    with scratch_folder(tmp_path / "x", tmp_path) as folder:
        thread.start()
        assert second.wait(10)
        assert seen[0] != folder
    ended.set()
    thread.join()
    assert folders(tmp_path) == []


def test_what_a_killed_process_left_goes_with_the_next(tmp_path):
    """The folder of a process that has ended is removed; that of a live one, and of another machine, stays."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    machine, place = local_files._machine(), tmp_path / ".x.partial"
    old = time.time() - 2 * local_files.LOST_S
    for name in (f"{machine}.{dead.pid}.1", f"{machine}.{os.getppid()}.1", "elsewhere.1.1", "elsewhere.2.1"):
        (place / name).mkdir(parents=True)
    os.utime(place / "elsewhere.2.1", (old, old))
    with scratch_folder(tmp_path / "x", tmp_path):
        pass
    assert folders(place) == sorted([f"{machine}.{os.getppid()}.1", "elsewhere.1.1"])


def test_folders_are_made_when_they_are_missing(tmp_path):
    """What makes a file is called again once the folders above it are there, as often as others remove them."""
    calls = []

    def make():
        calls.append(1)
        if len(calls) < 4:
            (tmp_path / "a").rmdir() if (tmp_path / "a").exists() else None
            raise FileNotFoundError(errno.ENOENT, "no folder")
        return "made"

    assert with_parents(tmp_path / "a" / "x", tmp_path, make) == "made"
    assert len(calls) == 4


def test_a_root_that_is_gone_is_not_made_again(tmp_path):
    """A lost disk is an error, not a folder that is missing."""
    with pytest.raises(FileNotFoundError), scratch_folder(tmp_path / "gone" / "a" / "x", tmp_path / "gone"):
        pass
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(("name", "expected"), [(".a.tif.partial", True), (".partial", True), ("a.partial", False), (".a", False)])
def test_names_say_what_is_unfinished(name, expected):
    """A hidden name that ends in .partial is in the making; every other name is a file."""
    assert is_unfinished(name) is expected


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=255))
def test_a_name_stays_short_while_it_is_unfinished(name):
    """It fits every file system, says that it is unfinished, is the same in every process, and differs where names differ."""
    made = unfinished_name(name)
    assert len(os.fsencode(made)) <= 255
    assert is_unfinished(made)
    assert made == unfinished_name(name) != unfinished_name(name + "x")


@pytest.mark.parametrize("size", [230, 244, 254, 255])
@pytest.mark.parametrize("letter", ["a", "é"])
def test_files_of_the_longest_names_can_be_written(tmp_path, size, letter):
    """In every way in which a storage writes, and nothing is left beside them."""
    name = letter * (size // len(letter.encode())) + "x" * (size % len(letter.encode()))
    storage = LocalStorage(tmp_path)
    storage.put(name, b"1")
    storage.append(name, b"2", 1)
    with storage.local_file(f"f/{name}") as path:
        path.write_bytes(b"3")
    with storage.replace_tree(f"g/{name}") as tree:
        tree.put("4", b"4")
    assert storage.create(f"h/{name}", b"5")
    assert storage.list() == sorted([f"f/{name}", f"g/{name}/4", f"h/{name}", name])
    assert storage.get(name) == b"12"
    for folder in "fgh":
        storage.delete_tree(folder)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_age_is_that_of_the_last_change(tmp_path):
    """A file that has just changed is not old, one that changed an hour ago is, and one that is gone is neither."""
    path = tmp_path / "a"
    assert not is_older(path, 0)
    path.touch()
    assert not is_older(path, 60)
    os.utime(path, (0, time.time() - 3600))
    assert is_older(path, 60)


@pytest.fixture
def reads(monkeypatch):
    """Paths that were read for their hash."""
    found, digest = [], hashlib.file_digest

    def watched(file, name):
        found.append(Path(file.name).name)
        return digest(file, name)

    local_files._sha256.cache_clear()
    monkeypatch.setattr(local_files.hashlib, "file_digest", watched)
    return found


def test_a_hash_is_sha_256_of_the_bytes(tmp_path, reads):
    """Any other program finds the same hash, of an empty file too."""
    for name, data in (("a", b"abc"), ("empty", b""), ("large", bytes(3_000_000))):
        (tmp_path / name).write_bytes(data)
        assert file_sha256(tmp_path / name) == hashlib.sha256(data).hexdigest()


def test_a_file_is_read_once(tmp_path, reads):
    """Asked again, the hash comes without reading; another file of the same bytes is read."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"abc")
    hashes = {file_sha256(tmp_path / name) for name in ("a", "a", "b", "a")}
    assert len(hashes) == 1
    assert reads == ["a", "b"]


def test_a_changed_file_is_read_again(tmp_path, reads):
    """Other bytes under the same name have another hash, also when the size stays."""
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    before = file_sha256(path)
    path.write_bytes(b"abd")
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert file_sha256(path) != before
    assert reads == ["a", "a"]


def test_a_file_that_is_gone_is_pythons_error(tmp_path):
    """There is no hash of what cannot be read, whatever was known of it before."""
    (tmp_path / "a").write_bytes(b"abc")
    file_sha256(tmp_path / "a")
    (tmp_path / "a").unlink()
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "a")


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "free space in your quota"),
        (errno.EACCES, "give yourself access"),
        (errno.EROFS, "make it writable"),
        (errno.ENOTDIR, "remove the file that stands where a folder is needed"),
        (errno.EIO, "see to the disk"),
    ],
)
def test_each_reason_has_its_way_out(number, way_out):
    """The line says where, why, what to do, and that the run resumes; the cause is kept for a developer."""
    with pytest.raises(StoreError) as told, store_errors("/runs/a"):
        raise OSError(number, os.strerror(number))
    assert str(told.value) == f"/runs/a: {os.strerror(number)}; {way_out} and run again: it resumes"
    assert told.value.exit_code == 1
    assert isinstance(told.value.__cause__, OSError)


def test_an_error_without_a_number_says_what_it_says():
    """Libraries raise OSError with a text alone."""
    with pytest.raises(StoreError, match="^/runs/a: the server hung up; see to the disk"), store_errors("/runs/a"):
        raise OSError("the server hung up")


def test_other_errors_pass():
    """A fault of the program is not blamed on the disk, and what goes well raises nothing."""
    with store_errors("/runs/a"):
        pass
    for error in (ValueError("x"), KeyboardInterrupt(), StoreError("told already")):
        with pytest.raises(type(error)) as told, store_errors("/runs/a"):
            raise error
        assert told.value is error
