"""Sizes and times of files, and whether they are as they were."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from pipeline.readers._files import asking, is_remote
from pipeline.readers._remote_file import place_of
from pipeline.readers._remote_folders import folder_at
from pipeline.storage import entry_of

__all__ = ["State", "changed_file", "files_in", "state_of"]

State = tuple[str, int, int | str]
"""Path, size in bytes, and time of change in nanoseconds; at a URL, the version that the storage gives instead."""


def files_in(folder: str) -> dict[str, State]:
    """Return the state of each file directly in a folder, by name.

    Raises:
        OSError: the folder cannot be read, or the server failed.
    """
    if is_remote(folder):
        with asking(folder):
            files = folder_at(folder, is_new=True).files
        return {name: (f"{folder}/{name}", entry.size, entry.version) for name, entry in files.items()}
    with os.scandir(folder or "/") as entries:
        found = [(entry.name, state_of(f"{folder}/{entry.name}")) for entry in entries if entry.is_file()]
    return {name: state for name, state in found if state}


def state_of(path: str) -> State | None:
    """Look at one file; None where there is none.

    Raises:
        OSError: the server failed.
    """
    if is_remote(path):
        with asking(path):
            entry = entry_of(*place_of(path))
        return None if entry is None else (path, entry.size, entry.version)
    try:
        found = os.stat(path)  # noqa: PTH116 - called for each of thousands of tiles
    except OSError:  # a dangling link, or another program is just replacing it
        return None
    return path, found.st_size, found.st_mtime_ns


def changed_file(states: Iterable[State]) -> str | None:
    """Return a file that is not as it was; None: all are. A folder at a URL is listed once for all of its files.

    Raises:
        OSError: the server failed.
    """
    folders: dict[str, Mapping[str, State]] = {}
    for state in states:
        path = state[0]
        if is_remote(path):
            folder, _, name = path.rpartition("/")
            if folder not in folders:
                folders[folder] = files_in(folder)
            now = folders[folder].get(name)
        else:
            now = state_of(path)
        if now and now != state:  # a file that is gone is told by whoever reads it
            return path
    return None
