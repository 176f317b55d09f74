"""Files in the making: each process and thread has a folder of its own, and what killed ones left goes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from pipeline.storage import partial_files
from pipeline.storage.partial_files import is_older, is_unfinished, scratch_folder, with_parents


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
    machine, place = partial_files._machine(), tmp_path / ".x.partial"
    old = time.time() - 2 * partial_files.LOST_S
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


def test_age_is_that_of_the_last_change(tmp_path):
    """A file that has just changed is not old, one that changed an hour ago is, and one that is gone is neither."""
    path = tmp_path / "a"
    assert not is_older(path, 0)
    path.touch()
    assert not is_older(path, 60)
    os.utime(path, (0, time.time() - 3600))
    assert is_older(path, 60)
