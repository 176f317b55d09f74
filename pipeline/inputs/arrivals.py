"""Images that arrive in a folder: which of them have stopped growing.

Folders are looked at again and again: notices of the file system do not exist on network file systems and object stores. No clock
but this process' own is read, so that the clock of a file server does not matter.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipeline.config import Config
from pipeline.inputs.discovery import image_paths
from pipeline.inputs.file_groups import ReaderCache
from pipeline.readers import folder_at, is_remote
from pipeline.storage import entries_below, open_storage

__all__ = ["Arrivals"]

State = tuple[Any, ...]
"""Sizes, times or versions of the files of an image: another one after each change."""


@dataclass(frozen=True, slots=True)
class _Seen:
    own: State  # of the image's own file or folder
    state: State  # and of the files that belong to it
    since: float  # when the state was first seen, seconds
    beside: Sequence[str]
    is_settled: bool = False


class Arrivals:
    """What is known of the images below a folder or a URL, from one look to the next.

    An image has settled when no look within ``settle_s`` seconds has found a change: of its size and time, for a store of any file
    in it, and for a file with others beside it, such as a header and its data, of any of these. What is remembered grows with the
    number of images in the folder, and not with the time.

    Args:
        config: says how images are read; its ``images`` are not used.
        folder: a folder or URL.
        settle_s: seconds.
        clock: gives seconds.
    """

    def __init__(self, config: Config, folder: str, settle_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._folder, self._settle_s, self._clock = config, folder, settle_s, clock
        self._reader = ReaderCache(config.reader).of({})
        self._seen: dict[str, _Seen] = {}

    def look(self) -> dict[str, State]:
        """Look once more; return the images that have settled and the state of each, by path.

        Raises:
            FileNotFoundError: the folder is gone, as where a network file system is not mounted.
            GigasegError: the storage cannot be listed.
        """
        if not is_remote(self._folder) and not os.path.isdir(self._folder):  # noqa: PTH112 - as the other questions here
            raise FileNotFoundError(f"{self._folder}: the folder is gone; is its file system mounted?")
        self._seen = {path: self._look_at(path, self._seen.get(path)) for path in image_paths(self._config, self._folder)}
        return {path: seen.state for path, seen in self._seen.items() if seen.is_settled}

    @property
    def num_growing(self) -> int:
        """Number of images that had not settled at the last look."""
        return sum(not seen.is_settled for seen in self._seen.values())

    def _look_at(self, path: str, before: _Seen | None) -> _Seen:
        opens = before is None or not before.is_settled
        own = _state(path, opens=opens)
        beside = before.beside if before and before.own == own else self._companions(path)
        state = (own, *(_state(one, opens=opens) for one in beside))
        now = self._clock()
        since = before.since if before and before.state == state else now
        return _Seen(own, state, since, beside, is_settled=bool(own) and now - since >= self._settle_s)

    def _companions(self, path: str) -> Sequence[str]:
        """Return the files beside an image; none where half a file says nothing yet: it is asked again when it has changed."""
        with suppress(Exception):  # a damaged file may raise anything
            return tuple(one for one in self._reader.companions(path) if one != path)
        return ()


def _state(path: str, *, opens: bool) -> State:
    """Return the state of a file or a folder; empty where there is none.

    ``opens``: open the file to ask. A client of NFS then asks the server, where it otherwise may know a size from a minute ago.
    """
    if is_remote(path):
        return _remote_state(path)
    try:
        if os.path.isdir(path):  # noqa: PTH112 - called for every image at every look
            return _folder_state(path)
        if opens:
            with suppress(PermissionError):
                handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                try:
                    found = os.fstat(handle)
                finally:
                    os.close(handle)
                return found.st_size, found.st_mtime_ns
        found = os.stat(path)  # noqa: PTH116 - as above
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns


def _folder_state(top: str) -> State:
    """Return the number of files below a folder, their bytes, and the last time that one of them or a folder changed."""
    count = total = last = 0
    for parent, _, files in os.walk(top):
        for name in (".", *files):
            with suppress(FileNotFoundError):  # another program is just replacing it
                found = os.stat(f"{parent}/{name}")  # noqa: PTH116 - as above
                count, total, last = count + 1, total + (found.st_size if name != "." else 0), max(last, found.st_mtime_ns)
    return count, total, last


def _remote_state(url: str) -> State:
    """Return the version of a file at a URL, or a hash of the versions of all files in a folder there."""
    folder, _, name = url.rstrip("/").rpartition("/")
    if entry := folder_at(folder).files.get(name):
        return entry.size, entry.version
    versions = [(entry.key, entry.size, entry.version) for entry in entries_below(open_storage(url))]
    return len(versions), sum(size for _, size, _ in versions), hash(tuple(versions))
