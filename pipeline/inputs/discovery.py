"""From ``images`` and ``truth`` to the list of images to segment.

Names and existence only: no image is opened here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.config import Config, check_exists, expand_glob, is_glob, is_sample, is_url, split_glob
from pipeline.errors import InputError, Problem
from pipeline.inputs.csv_list import Row, read_csv_list
from pipeline.inputs.output_names import NameCandidate, name_flaw, resolve_names
from pipeline.inputs.samples import resolve_sample
from pipeline.inputs.truth_pairing import pair_truth
from pipeline.plugins import find
from pipeline.readers import Reader, array_name, is_array_path, known_suffixes
from pipeline.validation import join_keys

__all__ = ["ImageList", "ListedImage", "list_images"]

_OUTPUT_FOLDERS = ("masks", "probs", "parts", "instances", "objects", "report", "ledger")
_TRAINING_FOLDERS = ("ledger", "bundle", "candidate", "val", "events", "ray")
_STORE_FILES = {"zarr.json", ".zgroup", ".zarray"}


@dataclass(frozen=True)
class ListedImage:
    """One image of the run, before it is opened.

    Attributes:
        name: NAME of the output folder.
        path: absolute path or URL.
        direct: named directly (a file, a URL, a sample), so that an unreadable one is the user's mistake;
            else found in a folder, by a glob or in a CSV list, and only quarantined.
        truth: path or URL of the reference mask; None: there is none.
        overrides: reader options of this image alone, from a CSV list: ``channels``, ``level``, ``pixel_size``.
    """

    name: str
    path: str
    direct: bool
    truth: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageList:
    """All images of the run.

    Attributes:
        images: in the order of the YAML; those of a folder or a glob are sorted.
        ignored: files left out because their suffix is no image's.
        problems: what is wrong, ``where`` with file and line.
    """

    images: tuple[ListedImage, ...] = ()
    ignored: int = 0
    problems: tuple[Problem | str, ...] = ()


@dataclass
class _Found:
    """One image, its name not settled yet."""

    candidate: NameCandidate
    path: str
    direct: bool
    where: str
    row: Row | None = None


def list_images(config: Config) -> ImageList:
    """List the images of a run and the truth of each.

    Problems are returned, not raised, so that they can be told together with those of the images' headers.
    """
    search = _Search(config)
    for at, text in enumerate(config.images):
        place = config.where(join_keys("images", at))
        try:
            search.add(text, place)
        except InputError as error:
            search.problems += error.problems
    names = resolve_names([one.candidate for one in search.found], search.suffixes)
    inputs = [_input(name, one) for name, one in zip(names, search.found, strict=True)]
    problems = [*search.problems, *_bad_names(names, search.found)]
    rows = [one.row.truth if one.row else None for one in search.found]
    try:
        truths = pair_truth(config.truth, [(one.name, one.path) for one in inputs], rows, config.where("truth"))
    except InputError as error:
        problems += error.problems
        truths = rows
    found = tuple(replace(one, truth=truth) for one, truth in zip(inputs, truths, strict=True))
    return ImageList(found, search.ignored, tuple(problems))


def _input(name: str, one: _Found) -> ListedImage:
    return ListedImage(name, one.path, one.direct, overrides=one.row.overrides if one.row else {})


def _bad_names(names: Sequence[str], found: Sequence[_Found]) -> Iterator[Problem]:
    """Yield what is wrong with the names: unfit to be a path, or given to two images."""
    first: dict[str, _Found] = {}
    way_out = "Give it another name in a CSV list: image,name."
    for name, one in zip(names, found, strict=True):
        if name_flaw(name):
            expected = "folders and a name, such as slides/a, below the output folder"
            yield Problem(one.where, f"the name {name!r} with {name_flaw(name)}", expected, way_out)
        elif name in first:
            yield Problem(one.where, f"the name {name!r} of {one.path}, which {first[name].path} has already", "each name once", way_out)
        first.setdefault(name, one)


class _Search:
    """Collects images, entry by entry of ``images``."""

    def __init__(self, config: Config) -> None:
        self.found: list[_Found] = []
        self.problems: list[Problem | str] = []
        self.ignored = 0
        self.output = os.path.realpath(config.output)
        reader = find("readers", config.reader["name"])
        own = reader.suffixes if issubclass(reader, Reader) else ()
        self.suffixes = sorted({*known_suffixes(), *own})

    def add(self, text: str, where: str) -> None:
        """Add what one entry stands for.

        Raises:
            InputError: no such sample, or a CSV list with mistakes.
        """
        problem = check_exists(text, where)
        if problem:
            self.problems.append(problem)
        elif is_sample(text):
            sample = resolve_sample(text, where)
            self._take(sample.name, str(sample.image), where, direct=True)
        elif is_array_path(text):
            self.found.append(_Found(NameCandidate(array_name(text), fixed=True), text, direct=True, where=where))
        elif is_url(text):
            self._take(_last_of_url(text), text, where, direct=True)
        elif is_glob(text):
            self._glob(text, where)
        elif text.lower().endswith(".csv"):
            self._list(Path(text))
        elif Path(text).is_dir() and not self._is_store(Path(text)):
            self._folder(text, where)
        else:
            self._take(Path(text).name, text, where, direct=True)

    def _take(self, name: str, path: str, where: str, *, direct: bool = False, row: Row | None = None) -> None:
        fixed = bool(row and row.name)
        self.found.append(_Found(NameCandidate(name, fixed), path, direct, where, row))

    def _list(self, path: Path) -> None:
        for row in read_csv_list(path):
            last = _last_of_url(row.image) if is_url(row.image) else Path(row.image).name
            image = row.image
            if is_sample(image):
                sample = resolve_sample(image, row.where)
                last, image = sample.name, str(sample.image)
            self._take(row.name or last, image, row.where, row=row)

    def _folder(self, folder: str, where: str) -> None:
        before = len(self.found)
        for path in sorted(self._walk(folder, where)):
            self._take(os.path.relpath(path, folder), path, where)
        if len(self.found) == before:
            self.problems.append(Problem(where, f"{folder!r}, a folder without images", f"files ending in {', '.join(self.suffixes)}"))

    def _glob(self, pattern: str, where: str) -> None:
        fixed, is_store = split_glob(pattern)[0], cache(self._is_store)
        before = len(self.found)
        for path in expand_glob(pattern):
            relative = Path(path).relative_to(fixed)
            inside = any(is_store(Path(fixed, parent)) for parent in relative.parents if parent.name)
            if inside or self._is_output(path, fixed):
                continue
            if self._is_image(Path(path)):
                self._take(relative.as_posix(), path, where)
            elif Path(path).is_file():
                self.ignored += 1
        if len(self.found) == before:
            found = f"{pattern!r}, which matches no image"
            self.problems.append(Problem(where, found, f"files ending in {', '.join(self.suffixes)}"))

    def _walk(self, folder: str, where: str) -> Iterator[str]:
        """Yield the images below a folder; a store is one image, hidden files and the output folder are left out."""
        seen: set[str] = set()

        def unreadable(error: OSError) -> None:
            self.problems.append(Problem(where, f"{error.filename!r}: {error.strerror}", "a folder that can be read"))

        for parent, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
            real = os.path.realpath(parent)
            if real in seen:  # a link that leads back up
                folders.clear()
                continue
            seen.add(real)
            below = [name for name in folders if not name.startswith(".")]
            stores = [name for name in below if self._is_store(Path(parent, name))]
            folders[:] = [name for name in below if name not in stores and not self._is_output(str(Path(parent, name)), folder)]
            yield from (str(Path(parent, name)) for name in stores)
            for name in files:
                if name.startswith("."):
                    continue
                if name.lower().endswith(tuple(self.suffixes)):
                    yield str(Path(parent, name))
                else:
                    self.ignored += 1

    def _is_output(self, path: str, root: str) -> bool:
        """Whether a path belongs to the run's own output, which may lie among the images, or hold them, or to that of a training."""
        relative = Path(path).relative_to(root)
        if any(place.name in _TRAINING_FOLDERS and _is_training(Path(root, place.parent)) for place in (relative, *relative.parents)):
            return True
        holds_root = f"{os.path.realpath(root)}/".startswith(f"{self.output}/")
        own = [f"{self.output}/{name}/" for name in _OUTPUT_FOLDERS] if holds_root else [f"{self.output}/"]
        return f"{os.path.realpath(path)}/".startswith(tuple(own))

    def _is_store(self, path: Path) -> bool:
        """Whether a folder is one image: by its suffix, or by what a Zarr store holds."""
        return path.is_dir() and (path.name.lower().endswith(".zarr") or any((path / name).exists() for name in _STORE_FILES))

    def _is_image(self, path: Path) -> bool:
        return self._is_store(path) or (path.is_file() and path.name.lower().endswith(tuple(self.suffixes)))


def _is_training(folder: Path) -> bool:
    """Whether a folder is the output of a training, any of them: its pictures and masks are no images to learn from."""
    with suppress(OSError, ValueError):
        recorded = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return isinstance(recorded, dict) and recorded.get("kind") == "training"
    return False


def _last_of_url(url: str) -> str:
    """Return the last component of a URL.

    Example:
        >>> _last_of_url("s3://bucket/a.ome.zarr/"), _last_of_url("https://host/a.tif?token=1/2")
        ('a.ome.zarr', 'a.tif')
    """
    parts = urlsplit(url)
    path = parts.path if parts.scheme in ("http", "https") else url.partition("://")[2]
    return path.rstrip("/").rpartition("/")[2] or parts.netloc
