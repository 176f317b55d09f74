"""Which files there are, on a disk or at URLs. A folder at a URL is listed once for all of its files.

A web server (``http``) lists nothing: each file is asked for.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from pipeline.errors import InputError
from pipeline.readers._files import is_remote
from pipeline.readers._remote_file import open_file, place_of
from pipeline.storage import Folder, folder_of, is_seen, open_storage

__all__ = ["IN_ARCHIVE", "METADATA", "exists_at", "expand_url", "folder_at", "has_file", "is_web", "read_start", "walk_url"]

METADATA = ("zarr.json", ".zarray", ".zgroup")
IN_ARCHIVE = re.compile(r"(.+?(?:\.zarr\.zip|\.ozx))(?:/(.*))?", re.IGNORECASE | re.DOTALL)
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
        StoreError: the server failed.
    """
    url = url.rstrip("/")
    when, folder = _kept.get(url, (0.0, Folder()))
    if is_new or not when or time.monotonic() - when > KEPT_S:
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
            return not folder.endswith(":/") and name in folder_at(folder).files
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


def exists_at(url: str) -> bool:
    """Whether a file or a folder is at a URL; of what lies inside a zip, whether the zip is there."""
    if found := IN_ARCHIVE.fullmatch(url.rstrip("/")):
        return has_file(found[1])
    if has_file(url):
        return True
    if is_web(url):
        return any(has_file(f"{url}/{name}") for name in METADATA)
    folder = folder_at(url)
    return bool(folder.files or folder.folders)


def walk_url(top: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder at and below a URL as ``os.walk`` does: its URL, its folders, which the caller may remove, and its files."""
    found = folder_at(top, is_new=True)
    folders = list(found.folders)
    yield top, folders, list(found.files)
    for name in folders:
        yield from walk_url(f"{top}/{name}")


def expand_url(root: str, rest: str) -> list[str]:
    """Return the URLs below ``root`` that a glob matches, sorted and without hidden names.

    ``**`` is any number of folders, but none inside a Zarr store, whose chunks may lie in many.
    """

    def matches(url: str, parts: Sequence[str]) -> Iterator[str]:
        folder, part, further = folder_at(url, is_new=url not in listed), parts[0], parts[1:]
        listed.add(url)
        is_deep = part == "**"
        if is_deep and further:
            yield from matches(url, further)
        for name in (*folder.folders, *(() if further else folder.files)):
            if name.startswith(".") and not part.startswith("."):
                continue
            if (is_deep and not further) or (not is_deep and not further and fnmatchcase(name, part)):
                yield f"{url}/{name}"
            if name in folder.folders and is_deep and folder.files.keys().isdisjoint(METADATA):
                yield from matches(f"{url}/{name}", parts)
            elif name in folder.folders and further and fnmatchcase(name, part):
                yield from matches(f"{url}/{name}", further)

    listed: set[str] = set()
    return sorted(set(matches(root, rest.split("/"))))


def read_start(path: str, num_bytes: int) -> bytes | None:
    """Return the first bytes of a file; None where there is none."""
    if not has_file(path):
        return None
    with open_file(path) as file:
        return file.read(num_bytes)
