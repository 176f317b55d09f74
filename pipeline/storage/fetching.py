"""Files at URLs that a process needs on a disk, such as weights: copies in the user's cache, by URL and version."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pipeline.errors import InputError, Problem, StoreError
from pipeline.storage.entries import Entry, entry_of, read_version
from pipeline.storage.local import LocalStorage
from pipeline.storage.opening import open_storage
from pipeline.storage.user_cache import cache_folder

__all__ = ["fetch", "fetch_files", "is_fetched"]

KIND, PREFIX = "fetched", "gigaseg-fetched-"  # of folders of the cache and of temporary ones
PART_BYTES = 1 << 24


def fetch(path: Path | str) -> Path:
    """Return a local path as it is, and of a URL the path of a copy; raises as :func:`fetch_files` does."""
    if not isinstance(path, str) or "://" not in path or path.startswith("file://"):
        return Path(str(path).removeprefix("file://"))
    folder, _, name = path.rpartition("/")
    return fetch_files(folder, (name,)) / name


@cache
def fetch_files(url: str, names: Sequence[str]) -> Path:
    """Return a folder with copies of files of a folder at a URL; a process fetches them once, and finds what another has fetched.

    Where the user's cache cannot be written, they lie in a temporary folder, which is removed when the process ends.

    Raises:
        InputError: a file is missing, or there is no access to it.
        StoreError: the server failed, or the disk is full.
    """
    storage = open_storage(url)
    entries = {name: entry_of(storage, name) for name in names}
    if missing := [name for name, entry in entries.items() if entry is None]:
        raise InputError(Problem(f"{url}/{missing[0]}", "no file at this URL", "a file"))
    found = [entry for entry in entries.values() if entry is not None]
    key = hashlib.blake2b(" ".join([url, *(entry.version for entry in found)]).encode(), digest_size=16).hexdigest()
    local = LocalStorage(cache_folder(KIND) / key)
    try:
        local.make()
    except StoreError:
        local = LocalStorage(tempfile.mkdtemp(prefix=PREFIX))
        atexit.register(shutil.rmtree, local.root, ignore_errors=True)
    for entry in found:
        if local.size(entry.key) != entry.size:
            _copy(url, entry, local)
    return local.root


def _copy(url: str, entry: Entry, local: LocalStorage) -> None:
    """Copy a file, part by part; it appears when it is whole."""
    storage = open_storage(url)
    with local.local_file(entry.key, durable=False) as path, path.open("wb") as file:
        for start in range(0, entry.size, PART_BYTES):
            data = read_version(storage, entry.key, entry.version, start, min(start + PART_BYTES, entry.size))
            if data is None:
                raise StoreError(f"{url}/{entry.key}: changed while it was read; run again")
            file.write(data)


def is_fetched(path: Path) -> bool:
    """Whether a path is that of a copy: every process makes its own where there is none."""
    return path.is_relative_to(cache_folder(KIND)) or path.parent.name.startswith(PREFIX)
