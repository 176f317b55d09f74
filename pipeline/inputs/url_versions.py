"""The versions of the files at URLs that an image is read from: a file that was replaced has another one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pipeline.readers import Reader, has_file, is_web, place_of
from pipeline.storage import entries_below, entry_of, folder_of, open_storage

__all__ = ["array_version", "files_at", "version_at"]

STORE_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray", "0/zarr.json", "0/.zarray")


def version_at(url: str) -> tuple[str, int, str] | None:
    """Return the URL, the size in bytes and the version of a file; None where there is none."""
    folder, _, name = url.rpartition("/")
    entry = entry_of(open_storage(folder), name)
    return None if entry is None else (url, entry.size, entry.version)


def files_at(url: str, reader: Reader, beside: Sequence[str]) -> tuple[list[str], str]:
    """Return the URLs of the files that the pixels of an image depend on, and the folder of the chunks of an array, else an empty text.

    Args:
        url: of the image.
        reader: that opens it.
        beside: files that belong to it, which need not exist.
    """
    url = url.rstrip("/")
    sides = [companion for companion in beside if companion != url and has_file(companion)]
    if entry_of(*place_of(url)) is not None:
        return [url, *sides], ""
    with reader.open(url) as raster:
        folder = str(raster.folder or "")
    if not folder:
        return [_zip_of(url), *sides], ""
    if is_web(url):
        return [f"{url}/{name}" for name in STORE_METADATA], ""
    return [f"{url}/{name}" for name in folder_of(open_storage(url)).files], folder


def _zip_of(url: str) -> str:
    """Return the URL of the zip that an image lies in."""
    parents = (url.rsplit("/", depth)[0] for depth in range(1, url.count("/") - 2))
    return next((parent for parent in parents if entry_of(*place_of(parent)) is not None), url)


def array_version(url: str) -> str:
    """Return a hash of size and version of every chunk in a folder."""
    listed = "\n".join(f"{entry.key} {entry.size} {entry.version}" for entry in entries_below(open_storage(url)))
    return hashlib.blake2b(listed.encode(), digest_size=12).hexdigest()
