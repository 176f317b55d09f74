"""The headers of images and of their truth: files are opened, and no pixel is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import GigasegError, InputError, Problem
from pipeline.inputs.discovery import ListedImage
from pipeline.inputs.file_groups import ReaderCache
from pipeline.inputs.truth import TRUTH_READER
from pipeline.inputs.working_grid import WorkingGrid
from pipeline.plugins import build
from pipeline.raster import Header, SampleRange
from pipeline.readers import Reader
from pipeline.storage import LocalStorage, open_storage

__all__ = ["Image", "UnreadableImage", "hash_values", "image_identity", "read_headers", "read_truth_header"]

MAX_CHUNK_FILES = 10_000  # chunk files of an array whose time of change is read
NUM_THREADS = 8
STORE_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray", "0/zarr.json", "0/.zarray")


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a run, and what its header says."""

    index: int  # position in the plan's order, from 0
    name: str  # NAME of the output folder, unique, `/` kept
    path: str  # absolute, or a URL
    header: Header
    reader: Mapping[str, Any]  # name and options, as in the YAML
    identity: str = ""  # hash of what the pixels depend on: path, size, time of change, reader options
    truth: str | None = None  # path of the reference mask; None: there is none
    truth_identity: str = ""  # the same hash of the truth; empty without truth
    truth_has_ids: bool = False  # whether truth values are ids of objects; else its objects are connected components
    grid: WorkingGrid | None = None  # the working grid that `header` describes; None: the file's own grid
    samples: SampleRange | None = None  # scaling of the samples; None: as stored


@dataclass(frozen=True)
class UnreadableImage:
    """An image of a folder, glob or CSV list that cannot be opened: it is quarantined, and the others are segmented."""

    name: str
    path: str
    cause: str


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


def read_headers(listed: Sequence[ListedImage], config: Config) -> tuple[list[Image], list[UnreadableImage], list[Problem | str]]:
    """Read the header of every image, several at a time; their order is kept.

    Where a header cannot be read, an image that the YAML names is a problem; any other image is returned as unreadable.
    """
    images: list[Image] = []
    unreadable: list[UnreadableImage] = []
    problems: list[Problem | str] = []
    readers = ReaderCache(config.reader)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for image, opened in zip(listed, pool.map(lambda image: _open(image, config, readers), listed), strict=True):
            if isinstance(opened, Image):
                images.append(replace(opened, index=len(images)))
            elif image.direct:
                problems += opened.problems if isinstance(opened, InputError) else [Problem(image.path, str(opened), "an image")]
            else:
                unreadable.append(UnreadableImage(image.name, image.path, " ".join(str(opened).split())))
    return images, unreadable, problems


def _open(listed: ListedImage, config: Config, readers: ReaderCache) -> Image | Exception:
    spec = {**config.reader, **listed.overrides}
    try:
        reader = readers.of(listed.overrides)
        header = _read_header(listed.path, reader)
        _check_memory(header, listed.path, config)
        truth_identity = image_identity(listed.truth, TRUTH_READER, _truth_reader()) if listed.truth else ""
        identity = image_identity(listed.path, spec, reader, listed.beside)
        return Image(0, listed.name, listed.path, header, spec, identity, listed.truth, truth_identity)
    except Exception as error:  # noqa: BLE001 - a damaged file may raise anything; it is this file's fault
        if isinstance(error, GigasegError):
            return error
        return InputError(Problem(listed.path, f"a file that cannot be opened ({type(error).__name__}: {error})", "an image"))


def _check_memory(header: Header, path: str, config: Config) -> None:
    """Refuse an image whose decoded pixels alone exceed an actor's memory; the full projection needs the recipe."""
    decoded, budget = header.whole_bytes + header.work_bytes, config.compute.memory_bytes
    if decoded > budget:
        found = f"an image whose smallest region takes {-(-decoded >> 20)} MiB to decode"
        way_out = "Raise compute.memory, or store the image in tiles."
        raise InputError(Problem(path, found, f"at most compute.memory ({budget >> 20} MiB)", way_out))


def _read_header(path: str, reader: Reader) -> Header:
    try:
        with reader.open(path) as raster:
            header: Header = raster.header
            return header
    except OSError as error:
        problem = Problem(path, f"a file that cannot be opened ({error})", "", "Try again: the failure may be temporary.")
        raise InputError(problem) from error


@cache
def _truth_reader() -> Reader:
    reader: Reader = build("readers", TRUTH_READER)
    return reader


@cache
def read_truth_header(path: str, identity: str) -> Header:  # noqa: ARG001 - a file that has changed has another identity
    """Read the header of a truth, once for each identity."""
    return _read_header(path, _truth_reader())
