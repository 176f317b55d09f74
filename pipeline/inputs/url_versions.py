"""The versions of the files at URLs that an image is read from: a file that was replaced has another one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pipeline.readers import Reader, asking, has_file, is_web, place_of
from pipeline.storage import entries_below, entry_of, open_storage

__all__ = ["array_version", "files_at", "version_at"]

STORE_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray", "0/zarr.json", "0/.zarray")


Version = tuple[str, int, str]
"""URL, size in bytes, and what the storage calls the version."""


def version_at(url: str) -> Version | None:
    """Return the version of a file; None where there is none.

    Raises:
        OSError: the server failed.
    """
    with asking(url):
        entry = entry_of(*place_of(url))
    return None if entry is None else (url, entry.size, entry.version)


def files_at(url: str, reader: Reader, beside: Sequence[str]) -> tuple[tuple[Version, ...], str]:
    """Return the versions of the files that the pixels of an image depend on, and the folder of the chunks of an array, else an empty text.

    Of an array, the files are its metadata. A web server lists no chunks: there, one that was replaced is not seen.

    Args:
        url: of the image.
        reader: that opens it.
        beside: files that belong to it, which need not exist.

    Raises:
        OSError: the server failed.
    """
    url, folder = url.rstrip("/"), ""
    files = [version_at(url)]
    if files[0] is None:
        with reader.open(url) as raster:
            folder = str(raster.folder or "")
        if not folder:
            parents = (url.rsplit("/", depth)[0] for depth in range(1, url.count("/") - 2))
            files = [next((found for found in map(version_at, parents) if found), None)]  # the zip that the image lies in
        elif is_web(url):
            files, folder = [version_at(f"{url}/{name}") for name in STORE_METADATA], ""
        else:
            files = [version_at(f"{url}/{name}") for name in STORE_METADATA if has_file(f"{url}/{name}")]
    files += [version_at(side) for side in beside if side != url and has_file(side)]
    return tuple(version for version in files if version), folder


def array_version(url: str) -> str:
    """Return a hash of size and version of every chunk in a folder.

    Raises:
        OSError: the server failed.
    """
    with asking(url):
        entries = entries_below(open_storage(url))
    listed = "\n".join(f"{entry.key} {entry.size} {entry.version}" for entry in entries)
    return hashlib.blake2b(listed.encode(), digest_size=12).hexdigest()
