"""What tells two images apart, and an image from itself after a change: hashes of paths, sizes and times."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.plugins import build

__all__ = ["hash_values", "image_identity"]

MAX_CHUNK_FILES = 10_000  # chunk files of an array whose time of change is read


def hash_values(*values: Any) -> str:
    """Return a hash of plain values; equal values give equal text.

    Example:
        >>> hash_values({"a": 1, "b": 2}) == hash_values({"b": 2, "a": 1})
        True
    """
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def image_identity(path: str, reader: Mapping[str, Any]) -> str:
    """Return a hash of what an image's pixels depend on: path, size and time of change, and the reader's options.

    Args:
        path: of the image, absolute, or a URL.
        reader: name and options, as in the YAML.
    """
    root = Path(path.removeprefix("file://"))
    chunk_times = _last_written_chunk(path, reader) if root.is_dir() else []
    while not root.exists() and root != root.parent:
        root = root.parent  # an array inside a store: the metadata of the store changes with it
    files = [root, *(root / name for name in ("zarr.json", ".zattrs", ".zgroup", ".zarray", "0/zarr.json", "0/.zarray"))]
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return hash_values(path, [*stats, *chunk_times], dict(reader))


def _last_written_chunk(path: str, reader: Mapping[str, Any]) -> list[int]:
    """Return when a chunk of an array was last written, one number of nanoseconds; empty where the path holds no array.

    Most programs replace the file of a chunk, which changes the time of its folder; some write into the file. So the times
    of all folders count, and those of the first files.
    """
    last: list[int] = []
    with suppress(InputError), build("readers", {"name": "auto", **reader}, "reader").open(path) as raster:
        folders = sorted(os.walk(raster.folder)) if raster.folder else []
        files = (Path(folder, name) for folder, _, names in folders for name in sorted(names))
        for written in (*(Path(folder) for folder, _, _ in folders), *islice(files, MAX_CHUNK_FILES)):
            with suppress(FileNotFoundError):  # another program is just replacing it
                last = [max(*last, written.stat().st_mtime_ns, 0)]
    return last
