"""Files of a local disk: errors that name the path and the way out, hashes, and names and folders for files in the making.

Several processes may write one file at once: a run was taken over, or an actor was given up for lost and is only slow. So each
process and thread writes in a folder whose name says whose it is, and the next one removes what killed processes left::

    .NAME.partial/MACHINE.PROCESS.THREAD/NAME
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import TypeVar

from pipeline.errors import StoreError
from pipeline.system import boot_id, has_ended, process_space

__all__ = ["PARTIAL", "file_sha256", "is_older", "is_unfinished", "scratch_folder", "store_errors", "unfinished_name", "with_parents"]

T = TypeVar("T")
PARTIAL = ".partial"  # how the name of every unfinished file and folder ends
MAX_NAME_BYTES = 255  # of a file or folder, on nearly every file system
MOST_TRIES = 100
LOST_S = 86_400  # a folder of another machine that has not changed for so long belongs to nobody
WAYS_OUT = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space in your quota",
    errno.EACCES: "give yourself access",
    errno.EPERM: "give yourself access",
    errno.EROFS: "make it writable",
    errno.ENAMETOOLONG: "choose an output folder whose path is shorter",
    errno.ENOTDIR: "remove the file that stands where a folder is needed",
    errno.EEXIST: "remove the file that stands where a folder is needed",
}


@contextmanager
def store_errors(path: Path | str) -> Iterator[None]:
    """Turn an OSError of the ``with`` block into a StoreError: one line that says where, why and what to do.

    Example:
        >>> with store_errors("/full/run.json"):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        pipeline.errors.StoreError: /full/run.json: No space left on device; free space and run again: it resumes
    """
    try:
        yield
    except OSError as error:
        way_out = WAYS_OUT.get(error.errno or 0, "see to the disk")
        raise StoreError(f"{path}: {error.strerror or error}; {way_out} and run again: it resumes") from error


def file_sha256(path: Path) -> str:
    """Return the hash of a file's bytes; the file is read again only after it has changed."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def scratch_folder(path: Path, root: Path) -> Iterator[Path]:
    """Give an empty folder on the disk of ``path``, and remove it in the end, with those that killed processes left there.

    ``root``, a folder above ``path``, must exist; folders below it are made.
    """
    folder = path.with_name(unfinished_name(path.name)) / f"{_machine()}.{os.getpid()}.{threading.get_native_id()}"
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
    """Call what makes ``path``, and make the folders between ``root``, which must exist, and it where they are missing.

    Repeated, because other processes may remove empty folders meanwhile.
    """
    for _ in range(MOST_TRIES):
        try:
            return make()
        except FileNotFoundError:
            root.stat()
            with suppress(FileNotFoundError):
                path.parent.mkdir(parents=True, exist_ok=True)
    return make()


def unfinished_name(name: str) -> str:
    """Return what a file or folder is called until it is finished: its name, or a hash where that would be too long.

    Example:
        >>> unfinished_name("a.tif"), unfinished_name("é" * 127)
        ('.a.tif.partial', '.95d5164cd9381bb7.partial')
    """
    whole = f".{name}{PARTIAL}"
    if len(os.fsencode(whole)) <= MAX_NAME_BYTES:
        return whole
    return f".{hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()}{PARTIAL}"


def is_unfinished(name: str) -> bool:
    """Return whether a file or folder of that name is not finished yet."""
    return name.startswith(".") and name.endswith(PARTIAL)


def is_older(path: Path, seconds: float) -> bool:
    """Return whether a file or folder exists and has not changed for so long, by the clock of the disk: those of machines differ."""
    with suppress(FileNotFoundError):  # its process has finished it
        changed = path.stat().st_mtime
        with tempfile.NamedTemporaryFile(prefix=".clock.", suffix=PARTIAL, dir=path.parent) as now:
            return changed < os.fstat(now.fileno()).st_mtime - seconds
    return False


def _is_left(folder: Path) -> bool:
    """Whether the process that a scratch folder belongs to has ended, as far as can be known here."""
    machine, _, pid = folder.name.rpartition(".")[0].partition(".")
    return has_ended(int(pid)) if machine == _machine() else is_older(folder, LOST_S)


@cache
def _machine() -> str:
    """Name the machine and name space in which a process id means one process, in eight letters."""
    return hashlib.blake2b(f"{boot_id()} {process_space()}".encode(), digest_size=4).hexdigest()
