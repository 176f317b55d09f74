"""What lies in a folder, of a disk or of a storage, by name. A folder at a URL is listed once for all of its files.

A web server (``http``) lists nothing: each file is asked for.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache

from pipeline.errors import InputError
from pipeline.readers._files import asking, is_remote
from pipeline.readers._remote_file import open_file, place_of
from pipeline.storage import Folder, folder_of, is_seen, open_storage

__all__ = ["folder_at", "has_file", "is_web", "read_start"]

KEPT_S = 60.0  # a reader looks for several files beside each image: so long, one listing serves them all
MOST_KEPT = 64

_kept: dict[str, tuple[float, Folder]] = {}


def is_web(path: str) -> bool:
    """Whether a path is a URL of a web server."""
    return path.lower().startswith(("http://", "https://"))


def folder_at(url: str, *, is_new: bool = False) -> Folder:
    """Return what lies directly in a folder of a storage that lists, from a listing of at most a minute ago.

    Args:
        url: of the folder.
        is_new: whether the folder is listed now in any case.

    Raises:
        InputError: there is no such bucket, or no access to it.
        OSError: the server failed.
    """
    url = url.rstrip("/")
    when, folder = _kept.get(url, (0.0, Folder()))
    if is_new or not when or time.monotonic() - when > KEPT_S:
        with asking(url):
            folder = folder_of(open_storage(url))
        while len(_kept) >= MOST_KEPT:
            _kept.pop(next(iter(_kept)), None)
        _kept[url] = time.monotonic(), folder
    return folder


def has_file(path: str) -> bool:
    """Whether a file exists. One that a server does not let us see counts as absent."""
    if not is_remote(path):
        return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises where a name is too long
    if not is_web(path):
        try:
            folder, _, name = path.rpartition("/")
            return name in folder_at(folder).files
        except InputError:  # a bucket that may be read but not listed
            pass
    return _is_there(path, int(time.monotonic() // KEPT_S))


@lru_cache(maxsize=4096)
def _is_there(url: str, minute: int) -> bool:
    del minute  # part of the cache key
    try:
        return is_seen(*place_of(url))
    except InputError:
        return False


def read_start(path: str, num_bytes: int) -> bytes | None:
    """Return the first bytes of a file; None where there is none."""
    if not has_file(path):
        return None
    with open_file(path) as file:
        return file.read(num_bytes)
