"""The headers of images and of their truth: files are opened, and no pixel is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from pipeline.config import Config
from pipeline.errors import GigasegError, InputError, Problem
from pipeline.inputs.discovery import ListedImage
from pipeline.inputs.file_groups import ReaderCache
from pipeline.inputs.file_states import FileStates
from pipeline.inputs.identity import hash_values, identify
from pipeline.inputs.names import SHORT
from pipeline.inputs.truth import TRUTH_READER
from pipeline.inputs.truth_sources import on_grid, polygon_values
from pipeline.inputs.working_grid import WorkingGrid
from pipeline.inputs.zones import ZoneFile
from pipeline.plugins import build
from pipeline.raster import Header, SampleRange
from pipeline.readers import Reader

__all__ = ["Image", "UnreadableImage", "hash_values", "read_headers", "read_truth_header"]

NUM_THREADS = 8
MOST_PIXELS = 1 << 42  # of a plane: two million pixels a side
MOST_CHANNELS = MOST_PLANES = 1 << 20


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
    states: FileStates = field(default_factory=FileStates)  # of its files when the run was planned
    truth_states: FileStates = field(default_factory=FileStates)  # of the files of its truth
    truth_reader: Mapping[str, Any] = field(default_factory=lambda: TRUTH_READER)  # name and options of the reader of its truth
    zones: ZoneFile | None = None  # polygons whose areas are reported apart; None: there are none


@dataclass(frozen=True)
class UnreadableImage:
    """An image of a folder, glob or CSV list that cannot be opened: it is quarantined, and the others are segmented."""

    name: str
    path: str
    cause: str


def read_headers(listed: Sequence[ListedImage], config: Config) -> tuple[list[Image], list[UnreadableImage], list[Problem | str]]:
    """Read the header of every image, several at a time; their order is kept.

    Where a header cannot be read, an image that the YAML names is a problem; any other image is returned as unreadable.
    """
    images: list[Image] = []
    unreadable: list[UnreadableImage] = []
    problems: list[Problem | str] = []
    readers = ReaderCache(config.reader)
    values = polygon_values(config) if any(image.truth_reader["name"] == "polygons" for image in listed) else {}
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for image, opened in zip(listed, pool.map(lambda image: _open(image, config, readers, values), listed), strict=True):
            if isinstance(opened, Image):
                images.append(replace(opened, index=len(images)))
            elif image.direct:
                problems += opened.problems if isinstance(opened, InputError) else [Problem(image.path, str(opened), "an image")]
            else:
                unreadable.append(UnreadableImage(image.name, image.path, " ".join(str(opened).split())))
    return images, unreadable, problems


def _open(listed: ListedImage, config: Config, readers: ReaderCache, values: Mapping[str, Any]) -> Image | Exception:
    spec = {**config.reader, **listed.overrides}
    if listed.fault:
        return InputError(Problem(listed.path, listed.fault, SHORT, "Give it a shorter name in a CSV list: image,name."))
    try:
        reader = readers.of(listed.overrides)
        identity, states = identify(listed.path, spec, reader, listed.beside)  # before the header, which may change meanwhile
        header = _read_header(listed.path, reader)
        _check_header(header, listed.path)
        _check_memory(header, listed.path, config)
        drawn = on_grid(listed.truth_reader, header, values)
        spec = {**spec, **reader.pinned(listed.path)}
        image = Image(0, listed.name, listed.path, header, spec, identity, listed.truth, states=states, truth_reader=drawn)
        if listed.truth is None:
            return image
        of_truth = build("readers", image.truth_reader)
        truth_identity, truth_states = identify(listed.truth, image.truth_reader, of_truth)
        drawn = {**drawn, **of_truth.pinned(listed.truth)}
        return replace(image, truth_identity=truth_identity, truth_states=truth_states, truth_reader=drawn)
    except Exception as error:  # noqa: BLE001 - a damaged file may raise anything; it is this file's fault
        if isinstance(error, GigasegError):
            return error
        if isinstance(error, OSError):
            return _unopened(listed.path, error)
        return InputError(Problem(listed.path, f"a file that cannot be opened ({type(error).__name__}: {error})", "an image"))


def _check_header(header: Header, path: str) -> None:
    """Refuse sizes that only a damaged file claims, whatever its reader lets pass."""
    sides = " x ".join(str(side) for side in header.shape)
    if min(*header.shape, header.channels, *header.planes.values()) < 1:
        found = f"{sides} pixels, {header.channels} channels, {header.num_planes} planes"
        raise InputError(Problem(path, found, "at least one of each", "Write the file again."))
    if math.prod(header.shape) > MOST_PIXELS or header.channels > MOST_CHANNELS or header.num_planes > MOST_PLANES:
        found = f"{sides} pixels, {header.channels} channels, {header.num_planes} planes"
        expected = f"at most {MOST_PIXELS} pixels a plane, {MOST_CHANNELS} channels and {MOST_PLANES} planes"
        raise InputError(Problem(path, found, expected, "Is the file damaged?"))


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
        raise _unopened(path, error) from error


def _unopened(path: str, error: OSError) -> InputError:
    return InputError(Problem(path, f"a file that cannot be opened ({error})", "", "Try again: the failure may be temporary."))


def read_truth_header(image: Image) -> Header:
    """Read the header of an image's truth, once for each file and its options."""
    return _truth_header(image.truth or "", image.truth_identity, json.dumps(dict(image.truth_reader)))


@cache
def _truth_header(path: str, identity: str, reader: str) -> Header:  # noqa: ARG001 - a file that has changed has another identity
    return _read_header(path, build("readers", json.loads(reader)))
