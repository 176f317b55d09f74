"""Whether the files of an image are still those that were planned: a file that is written over mid-run would give a mask of two images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.errors import InputError
from pipeline.inputs.url_versions import array_version, files_at, version_at
from pipeline.readers import Reader, State, changed_file, is_remote

__all__ = ["FileStates", "read_states"]

MAX_CHUNK_FILES = 10_000  # chunk files of an array whose time of change is read
STORE_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray", "0/zarr.json", "0/.zarray")


@dataclass(frozen=True, slots=True)
class FileStates:
    """The files that an image is read from, as they were at one moment.

    Attributes:
        files: path, size in bytes and time of change in nanoseconds; at a URL, the version that the storage gives instead.
        array: folder whose files are the chunks of an array; empty for any other image.
        last_written: when one of these was last written, nanoseconds; at a URL, a hash of their versions.
        watched: files of an image of thousands; whoever reads the image looks at those that are read.
    """

    files: tuple[State, ...] = ()
    array: str = ""
    last_written: int | str = 0
    watched: tuple[State, ...] = ()

    @property
    def versions(self) -> tuple[State, ...]:
        """All files, for a hash."""
        return (*self.files, *self.watched)

    def changed(self, *, chunks: bool = False) -> str | None:
        """Return a file that is not as it was; None: all are.

        Args:
            chunks: look at the chunks of an array and at watched files as well, which takes milliseconds for thousands of them.
        """
        for path, size, time_ns in self.files:
            now = version_at(path) if is_remote(path) else _state(Path(path))
            if now and now[1:] != (size, time_ns):  # a file that is gone is told by whoever reads it
                return path
        if chunks and (changed := changed_file(self.watched)):
            return changed
        return self.array if chunks and self.array and _last_written(self.array) != self.last_written else None


def read_states(path: str, reader: Reader, beside: Sequence[str] | None = None) -> FileStates:
    """Look at the files of an image.

    Args:
        path: of the image.
        reader: that opens it.
        beside: files that belong to it; None: ask the reader.
    """
    if (watched := reader.file_states(path)) is not None:
        return FileStates(watched=watched)
    beside = reader.companions(path) if beside is None else beside
    if is_remote(path):
        versions, folder = files_at(path, reader, beside)
        return FileStates(versions, folder, _last_written(folder) if folder else 0)
    root = Path(path.removeprefix("file://"))
    array = _array_folder(path, reader) if root.is_dir() else ""
    while not root.exists() and root != root.parent:
        root = root.parent  # an array inside a store: the metadata of the store changes with it
    metadata = [root] if root.is_file() else [root / name for name in STORE_METADATA if (root / name).is_file()]
    files = [*metadata, *_side_files(path, beside)]
    found = tuple(state for state in map(_state, files) if state)
    return FileStates(found, array, _last_written(array) if array else 0)


def _state(file: Path) -> tuple[str, int, int] | None:
    with suppress(OSError):  # a dangling link, or another program is just replacing it
        found = file.stat()
        return str(file), found.st_size, found.st_mtime_ns
    return None


def _side_files(path: str, beside: Sequence[str]) -> list[Path]:
    """Return the files that belong to an image; a folder stands for the files in it."""
    found: list[Path] = []
    for companion in beside:
        if companion == path or not os.path.lexists(companion):
            continue
        found += sorted(Path(companion).iterdir())[:MAX_CHUNK_FILES] if Path(companion).is_dir() else [Path(companion)]
    return found


def _array_folder(path: str, reader: Reader) -> str:
    with suppress(InputError), reader.open(path) as raster:
        return str(raster.folder or "")
    return ""


def _last_written(folder: str) -> int | str:
    """Return when a chunk of an array was last written, nanoseconds; at a URL, a hash of the versions of all chunks.

    Most programs replace the file of a chunk, which changes the time of its folder; some write into the file. So the times
    of all folders count, and those of the first files.
    """
    if is_remote(folder):
        return array_version(folder)
    folders = sorted(os.walk(folder))
    files = (Path(parent, name) for parent, _, names in folders for name in sorted(names))
    states = map(_state, (*(Path(parent) for parent, _, _ in folders), *islice(files, MAX_CHUNK_FILES)))
    return max((state[2] for state in states if state), default=0)
