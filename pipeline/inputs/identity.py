"""What an image's pixels depend on, as a hash: a file that has changed has another one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.readers import Reader
from pipeline.storage import LocalStorage, open_storage

__all__ = ["hash_values", "image_identity"]

MAX_CHUNK_FILES = 10_000  # chunk files of an array whose time of change is read
STORE_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray", "0/zarr.json", "0/.zarray")


def hash_values(*values: Any) -> str:
    """Return a hash of plain values; equal values give equal text, whatever the order of keys."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def image_identity(path: str, spec: Mapping[str, Any], reader: Reader, beside: Sequence[str] | None = None) -> str:
    """Return a hash of everything that an image's pixels depend on: path, size, mtime, files that belong to it, reader options.

    ``reader`` is built from ``spec``; ``beside`` are the files that belong to the image, None: ask the reader.
    """
    with suppress(InputError):  # an array of this process, or a URL that no reader opens
        storage = open_storage(path)
        if not isinstance(storage, LocalStorage):
            files = [(key, hashlib.blake2b(storage.get(key) or b"").hexdigest()) for key in storage.list()]
            return hash_values(path, files, dict(spec))
    root = Path(path.removeprefix("file://"))
    chunk_times = _last_written_chunk(path, reader) if root.is_dir() else []
    while not root.exists() and root != root.parent:
        root = root.parent  # an array inside a store: the metadata of the store changes with it
    metadata = [root] if root.is_file() else [root / name for name in STORE_METADATA]
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in metadata if file.is_file()]
    return hash_values(path, [*stats, *_side_files(path, reader.companions(path) if beside is None else beside), *chunk_times], dict(spec))


def _side_files(path: str, beside: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return path, size and mtime of the files that belong to an image; a folder stands for the files in it."""
    found = []
    for companion in beside:
        if companion == path or not os.path.lexists(companion):
            continue
        files = sorted(Path(companion).iterdir()) if Path(companion).is_dir() else [Path(companion)]
        for file in files[:MAX_CHUNK_FILES]:
            with suppress(FileNotFoundError):  # a dangling link
                found.append((str(file), file.stat().st_size, file.stat().st_mtime_ns))
    return found


def _last_written_chunk(path: str, reader: Reader) -> list[int]:
    """Return when a chunk of an array was last written, one number of nanoseconds; empty where the path holds no array.

    Most programs replace the file of a chunk, which changes the time of its folder; some write into the file. So the times
    of all folders count, and those of the first files.
    """
    last: list[int] = []
    with suppress(InputError), reader.open(path) as raster:
        folders = sorted(os.walk(raster.folder)) if raster.folder else []
        files = (Path(folder, name) for folder, _, names in folders for name in sorted(names))
        for written in (*(Path(folder) for folder, _, _ in folders), *islice(files, MAX_CHUNK_FILES)):
            with suppress(FileNotFoundError):  # another program is just replacing it
                last = [max(*last, written.stat().st_mtime_ns, 0)]
    return last
