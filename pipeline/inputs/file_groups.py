"""Match files to images: files listed twice, files that belong to another image, plates and scenes of several images."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pipeline.config import is_url
from pipeline.errors import Problem
from pipeline.inputs.csv_list import Row
from pipeline.inputs.left_out import LeftOut, is_special
from pipeline.inputs.names import NameCandidate
from pipeline.plugins import build
from pipeline.readers import Member, Reader, is_array_path, is_remote

__all__ = ["FoundImage", "ReaderCache", "first_of", "merge_duplicates", "merge_side_files", "split_members"]

NUM_THREADS = 8
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class FoundImage:
    """One image before its final name. Images of folders and globs get a row as those of a CSV list have."""

    candidate: NameCandidate
    row: Row
    direct: bool  # whether the YAML names this very path
    beside: Sequence[str] | None = None  # files that belong to it; they need not exist; None: not yet asked of its reader


def first_of(names: Sequence[str], count: int) -> str:
    """Return the first names, and the number of the others.

    Example:
        >>> first_of(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def _is_file(path: str) -> bool:
    """Whether a path is local and not a URL."""
    return not is_url(path) and not is_array_path(path)


def _has_neighbours(path: str) -> bool:
    """Whether files beside a path may belong to it."""
    return _is_file(path) or is_remote(path)


def merge_duplicates(found: Sequence[FoundImage]) -> tuple[list[FoundImage], list[str]]:
    """Keep the first of the entries for one file; rows with another name, truth or option are all kept.

    Returns:
        The images, and notes.
    """
    kept: dict[tuple[Any, ...], FoundImage] = {}
    again: dict[str, None] = {}
    for index, image in enumerate(found):
        row = image.row
        place = os.path.realpath(row.image) if _is_file(row.image) else index if is_array_path(row.image) else row.image
        key = (place, row.name, row.truth, repr(sorted(row.overrides.items())))
        if key in kept:
            again[row.image] = None
            kept[key] = replace(kept[key], direct=kept[key].direct or image.direct)
        else:
            kept[key] = image
    notes = [f"{len(again)} files are listed more than once and read once: {first_of(list(again), 3)}"] if len(again) > 1 else []
    notes = [f"{next(iter(again))} is listed more than once and read once"] if len(again) == 1 else notes
    return list(kept.values()), notes


class ReaderCache:
    """The reader of each image; images with the same options share one."""

    def __init__(self, reader: Mapping[str, Any]) -> None:
        self._spec = reader
        self._readers: dict[str, Reader] = {}

    def of(self, overrides: Mapping[str, Any]) -> Reader:
        """Return the run's reader with these options replaced."""
        key = repr(sorted(overrides.items()))
        if key not in self._readers:
            self._readers[key] = build("readers", {**self._spec, **overrides}, "reader")
        return self._readers[key]


def merge_side_files(
    found: Sequence[FoundImage], left_out: Iterable[LeftOut], readers: ReaderCache
) -> tuple[list[FoundImage], list[LeftOut], list[str]]:
    """Remove the files that belong to another image: they are neither images nor left out.

    Of files that belong to each other, such as those of one OME-TIFF, the first stands for the image.

    Returns:
        The images, the files left out, and notes.
    """
    real = cache(os.path.realpath)

    def place(path: str) -> str:
        folder, _, name = path.rstrip("/").rpartition("/")
        return path if is_remote(path) else f"{real(folder)}/{name}"

    asked: list[FoundImage] = []
    owned: set[str] = set()  # places of files and folders that belong to an image
    left_out = list(left_out)
    for one in left_out:  # parts of a slide whose extra is not installed are no images either
        if not is_special(one.path):
            owned.update(map(place, _ask(readers.of({}).companions, one.path)))
    for image in found:
        path, beside = image.row.image, None
        if _has_neighbours(path) and place(path) not in owned:
            beside = [name for name in _ask(readers.of(image.row.overrides).companions, path) if name != path]
            owned.update(map(place, beside))
        asked.append(replace(image, beside=beside))

    def is_owned(path: str) -> bool:
        whole = place(path)
        while whole and whole not in owned:
            whole = whole.rpartition("/")[0]
        return bool(whole)

    kept, gone = list[FoundImage](), list[str]()
    for image in asked:
        if _has_neighbours(image.row.image) and is_owned(image.row.image):
            gone.append(image.row.image)
        else:
            kept.append(image)
    notes = [f"{first_of(gone, 3)}: part of another image, not an image of its own"] if gone else []
    return kept, [one for one in left_out if not is_owned(one.path)], notes


def split_members(found: Sequence[FoundImage], readers: ReaderCache) -> tuple[list[FoundImage], list[str], list[Problem]]:
    """Replace each path that holds several images, such as a plate, by these images.

    A path whose members cannot be listed is kept: opening it reports why.

    Returns:
        The images, notes, and problems.
    """

    def members_of(image: FoundImage) -> Sequence[Member]:
        return _ask(readers.of(image.row.overrides).members, image.row.image)

    def needs_opening(image: FoundImage) -> bool:
        path = image.row.image
        return readers.of(image.row.overrides).series == "all" or (_is_zarr(path) if is_remote(path) else Path(path).is_dir())

    images: list[FoundImage] = []
    notes: list[str] = []
    problems: list[Problem] = []
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        # Names show that most files hold one image, so only folders and a few kinds of files are opened, in threads.
        opened = {index: pool.submit(members_of, image) for index, image in enumerate(found) if needs_opening(image)}
        for index, image in enumerate(found):
            members, row = opened[index].result() if index in opened else members_of(image), image.row
            names = _unique([_as_path(member.name) for member in members])
            images += [_member_image(image, member, name) for member, name in zip(members, names, strict=True)] or [image]
            if members:
                notes.append(f"{row.image} holds {len(members)} images: {first_of([member.name for member in members], 4)}")
            if len(members) > 1 and row.truth is not None:
                fix = "Leave the cell empty, and let `truth` of the YAML find each by {name} or {image}."
                problems.append(Problem(f"{row.where}: truth", f"one truth for {len(members)} images", "one for each", fix))
    return images, notes, problems


def _is_zarr(url: str) -> bool:
    """Whether a URL may be that of a Zarr store, of which the metadata are read: its last part is that of no other file."""
    return PurePosixPath(url).suffix.lower() in ("", ".zarr")


def _member_image(image: FoundImage, member: Member, name: str) -> FoundImage:
    candidate = replace(image.candidate, member=name)
    row = replace(image.row, image=member.path, overrides={**image.row.overrides, **member.options})
    return FoundImage(candidate, row, direct=False, beside=image.beside if member.path == image.row.image else None)


def _ask(question: Callable[[str], Sequence[Answer]], path: str) -> Sequence[Answer]:
    """Return a reader's answer on a file; empty if the file is damaged, which is reported when its header is read."""
    try:
        return question(path)
    except Exception:  # noqa: BLE001 - a damaged file may raise anything
        return ()


def _unique(names: Sequence[str]) -> list[str]:
    """Return the names, with their position appended to repeated ones.

    Example:
        >>> _unique(["Scene", "Scene", "b"])
        ['Scene', 'Scene_1', 'b']
    """
    return [name if name not in names[:index] else f"{name}_{index}" for index, name in enumerate(names)]


def _as_path(name: str) -> str:
    r"""Return the name of a scene or a field as a safe relative path: `_` replaces characters that paths may not hold.

    Example:
        >>> _as_path("A/1/0"), _as_path("../Scene\x01 1"), _as_path("")
        ('A/1/0', '__/Scene_ 1', '_')
    """
    parts = ["_" * max(len(part), 1) if part in ("", ".", "..") else part for part in name.split("/")]
    return "".join("_" if letter == "\\" or unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in "/".join(parts))
