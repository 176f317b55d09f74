"""Files in the making on a local disk: how they are named, and a folder for each process and thread that makes one.

Several processes may write one file at once: a run was taken over, or an actor was given up for lost and is only slow. The
folder's name says whose it is, so that what killed processes left is removed, and what a live one writes is not::

    .NAME.partial/MACHINE.PROCESS.THREAD/NAME
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

from pipeline.processes import boot_id, has_ended, process_space

__all__ = ["PARTIAL", "is_older", "is_unfinished", "scratch_folder", "with_parents"]

PARTIAL = ".partial"
"""How the name of every file and folder ends that is not finished yet."""

T = TypeVar("T")
MOST_TRIES = 100
LOST_S = 86_400  # a folder of another machine that has not changed for so long belongs to nobody


@contextmanager
def scratch_folder(path: Path, root: Path) -> Iterator[Path]:
    """Give an empty folder on the disk of ``path``, and remove it in the end, with those that killed processes left there.

    Args:
        path: what is written; it need not exist.
        root: a folder above it, which must exist: others below it are made.

    Raises:
        OSError: the disk refuses, or ``root`` is gone.
    """
    folder = path.with_name(f".{path.name}{PARTIAL}") / f"{_machine()}.{os.getpid()}.{threading.get_native_id()}"
    shutil.rmtree(folder, ignore_errors=True)
    with_parents(folder, root, folder.mkdir)
    try:
        yield folder
    finally:
        for left in [folder, *filter(_is_left, folder.parent.iterdir())]:
            shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):  # another process writes there
            folder.parent.rmdir()


def with_parents(path: Path, root: Path, make: Callable[[], T]) -> T:
    """Call what makes ``path``, and make the folders between ``root`` and it where they are missing.

    Repeated, because other processes may remove empty folders meanwhile.

    Raises:
        FileNotFoundError: ``root`` is gone.
    """
    for _ in range(MOST_TRIES):
        try:
            return make()
        except FileNotFoundError:
            root.stat()
            with suppress(FileNotFoundError):
                path.parent.mkdir(parents=True, exist_ok=True)
    return make()


def is_unfinished(name: str) -> bool:
    """Return whether a file or folder of that name is not finished yet."""
    return name.startswith(".") and name.endswith(PARTIAL)


def is_older(path: Path, seconds: float) -> bool:
    """Return whether a file or folder exists and has not changed for so long."""
    with suppress(FileNotFoundError):  # its process has finished it
        return path.stat().st_mtime < time.time() - seconds
    return False


def _is_left(folder: Path) -> bool:
    """Whether the process that a scratch folder belongs to has ended, as far as can be known here."""
    machine, _, pid = folder.name.rpartition(".")[0].partition(".")
    return has_ended(int(pid)) if machine == _machine() else is_older(folder, LOST_S)


@cache
def _machine() -> str:
    """Name the machine and name space in which a process id means one process, in eight letters."""
    return hashlib.blake2b(f"{boot_id()} {process_space()}".encode(), digest_size=4).hexdigest()
