"""From ``images`` and ``truth`` to the list of images: by name and existence alone, no image is opened."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.config import Config, check_exists, expand_glob, is_glob, is_sample, is_url, split_glob
from pipeline.errors import InputError, Problem
from pipeline.inputs.csv_list import Row, read_csv_list
from pipeline.inputs.samples import resolve_sample
from pipeline.inputs.truth import pair_truth
from pipeline.plugins import find
from pipeline.readers import Reader, array_name, is_array_path, known_suffixes
from pipeline.validation import join_keys

__all__ = ["ImageList", "ListedImage", "NameCandidate", "list_images", "name_flaw", "resolve_names"]

_STORE_FILES = {"zarr.json", ".zgroup", ".zarray"}


@dataclass(frozen=True)
class ListedImage:
    """One image of the run, before it is opened.

    Where an image cannot be read, the user's input is wrong if the YAML names it (``direct``: a file, a URL, a sample); an
    image of a folder, a glob or a CSV list is quarantined instead.
    """

    name: str  # NAME of the output folder
    path: str
    direct: bool
    truth: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)  # reader options of this image alone, from a CSV list


@dataclass(frozen=True)
class ImageList:
    """All images of the run in the order of the YAML, those of a folder or a glob sorted; and what is wrong."""

    images: tuple[ListedImage, ...] = ()
    ignored: int = 0  # number of files left out because of their suffix
    problems: tuple[Problem | str, ...] = ()


@dataclass
class _FoundImage:
    """One image, before it has its final name."""

    candidate: NameCandidate
    path: str
    direct: bool
    where: str  # what messages call the entry of `images`
    row: Row | None = None


def list_images(config: Config) -> ImageList:
    """List the images of a run and the truth of each; problems are returned, to be reported with those of the headers."""
    search = _Search(config)
    for index, entry in enumerate(config.images):
        where = config.where(join_keys("images", index))
        try:
            search.add(entry, where)
        except InputError as error:
            search.problems += error.problems
    names = resolve_names([image.candidate for image in search.images], search.suffixes)
    problems = [*search.problems, *_bad_names(names, search.images)]
    paths = [image.path for image in search.images]
    truths = [image.row.truth if image.row else None for image in search.images]
    try:
        truths = pair_truth(config.truth, list(zip(names, paths, strict=True)), truths, config.where("truth"))
    except InputError as error:
        problems += error.problems
    images = [
        ListedImage(name, image.path, image.direct, truth, image.row.overrides if image.row else {})
        for name, image, truth in zip(names, search.images, truths, strict=True)
    ]
    return ImageList(tuple(images), search.ignored, tuple(problems))


def _bad_names(names: Sequence[str], images: Sequence[_FoundImage]) -> Iterator[Problem]:
    """Yield a problem for each name that is no path below the output folder, or that two images have."""
    owners: dict[str, _FoundImage] = {}
    fix = "Give it another name in a CSV list: image,name."
    for name, image in zip(names, images, strict=True):
        if flaw := name_flaw(name):
            expected = "folders and a name, such as slides/a, below the output folder"
            yield Problem(image.where, f"the name {name!r} with {flaw}", expected, fix)
        elif name in owners:
            yield Problem(image.where, f"the name {name!r} of {image.path}, which {owners[name].path} has already", "each name once", fix)
        owners.setdefault(name, image)


class _Search:
    """Collects the images that the entries of ``images`` stand for."""

    def __init__(self, config: Config) -> None:
        self.images: list[_FoundImage] = []
        self.problems: list[Problem | str] = []
        self.ignored = 0
        self.output = os.path.realpath(config.output)
        reader = find("readers", config.reader["name"])
        own = reader.suffixes if issubclass(reader, Reader) else ()
        self.suffixes = sorted({*known_suffixes(), *own})

    def add(self, text: str, where: str) -> None:
        """Add the images of one entry; an InputError says that there is no such sample, or that a CSV list has mistakes."""
        problem = check_exists(text, where)
        if problem:
            self.problems.append(problem)
        elif is_sample(text):
            sample = resolve_sample(text, where)
            self._take(sample.name, str(sample.image), where, direct=True)
        elif is_array_path(text):
            self.images.append(_FoundImage(NameCandidate(array_name(text), fixed=True), text, direct=True, where=where))
        elif is_url(text) and not text.lower().endswith(".csv"):
            self._take(_last_component(text), text, where, direct=True)
        elif not is_url(text) and is_glob(text):
            self._glob(text, where)
        elif text.lower().endswith(".csv"):
            self._list(text)
        elif Path(text).is_dir() and not self._is_store(Path(text)):
            self._folder(text, where)
        else:
            self._take(Path(text).name, text, where, direct=True)

    def _take(self, name: str, path: str, where: str, *, direct: bool = False, row: Row | None = None) -> None:
        fixed = bool(row and row.name)
        self.images.append(_FoundImage(NameCandidate(name, fixed), path, direct, where, row))

    def _list(self, path: str) -> None:
        for row in read_csv_list(path):
            if is_sample(row.image):
                sample = resolve_sample(row.image, row.where)
                self._take(row.name or sample.name, str(sample.image), row.where, row=row)
            else:
                last = _last_component(row.image) if is_url(row.image) else Path(row.image).name
                self._take(row.name or last, row.image, row.where, row=row)

    def _folder(self, folder: str, where: str) -> None:
        before = len(self.images)
        for path in sorted(self._walk(folder, where)):
            self._take(os.path.relpath(path, folder), path, where)
        if len(self.images) == before:
            self.problems.append(Problem(where, f"{folder!r}, a folder without images", f"files ending in {', '.join(self.suffixes)}"))

    def _glob(self, pattern: str, where: str) -> None:
        fixed, is_store = split_glob(pattern)[0], cache(self._is_store)
        before = len(self.images)
        for path in expand_glob(pattern):
            relative = Path(path).relative_to(fixed)
            inside = any(is_store(Path(fixed, parent)) for parent in relative.parents if parent.name)
            if inside or _is_own_output(path, fixed, self.output):
                continue
            if self._is_image(Path(path)):
                self._take(relative.as_posix(), path, where)
            elif Path(path).is_file():
                self.ignored += 1
        if len(self.images) == before:
            found = f"{pattern!r}, which matches no image"
            self.problems.append(Problem(where, found, f"files ending in {', '.join(self.suffixes)}"))

    def _walk(self, folder: str, where: str) -> Iterator[str]:
        """Yield the images below a folder, without hidden ones and the run's output; a Zarr store is one image."""
        seen: set[str] = set()

        def unreadable(error: OSError) -> None:
            self.problems.append(Problem(where, f"{error.filename!r}: {error.strerror}", "a folder that can be read"))

        for parent, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
            real = os.path.realpath(parent)
            if real in seen:  # a link to a folder above
                folders.clear()
                continue
            seen.add(real)
            below = [name for name in folders if not name.startswith(".")]
            stores = [name for name in below if self._is_store(Path(parent, name))]
            folders[:] = [name for name in below if name not in stores and not _is_own_output(str(Path(parent, name)), folder, self.output)]
            yield from (str(Path(parent, name)) for name in stores)
            for name in files:
                if name.startswith("."):
                    continue
                if name.lower().endswith(tuple(self.suffixes)):
                    yield str(Path(parent, name))
                else:
                    self.ignored += 1

    def _is_store(self, path: Path) -> bool:
        """Whether a folder is one image: by its suffix, or by what a Zarr store holds."""
        return path.is_dir() and (path.name.lower().endswith(".zarr") or any((path / name).exists() for name in _STORE_FILES))

    def _is_image(self, path: Path) -> bool:
        return self._is_store(path) or (path.is_file() and path.name.lower().endswith(tuple(self.suffixes)))


def _last_component(url: str) -> str:
    """Return the last component of a URL."""
    parts = urlsplit(url)
    path = parts.path if parts.scheme in ("http", "https") else url.partition("://")[2]
    return path.rstrip("/").rpartition("/")[2] or parts.netloc


_RUN_FOLDERS = ("masks", "probs", "parts", "instances", "objects", "report", "ledger")
_TRAINING_FOLDERS = ("ledger", "bundle", "candidate", "val", "events", "ray")


def _is_own_output(path: str, root: str, output: str) -> bool:
    """Whether a path below ``root`` belongs to the output of the run, or to that of any training.

    ``root`` is searched for images; it may lie in the output folder, or the output folder in it.
    """
    relative = Path(path).relative_to(root)
    if any(part.name in _TRAINING_FOLDERS and _is_training(Path(root, part.parent)) for part in (relative, *relative.parents)):
        return True
    holds_root = f"{os.path.realpath(root)}/".startswith(f"{output}/")
    own = [f"{output}/{name}/" for name in _RUN_FOLDERS] if holds_root else [f"{output}/"]
    return f"{os.path.realpath(path)}/".startswith(tuple(own))


def _is_training(folder: Path) -> bool:
    with suppress(OSError, ValueError):
        recorded = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return isinstance(recorded, dict) and recorded.get("kind") == "training"
    return False


@dataclass(frozen=True)
class NameCandidate:
    """The name of an image before collisions are resolved."""

    full: str  # with its suffix, `/` between folders
    fixed: bool = False  # whether the user chose it, so that it stays as it is

    def short(self, suffixes: Sequence[str]) -> str:
        """Return the name without its longest known suffix."""
        last = self.full.rpartition("/")[2].lower()
        known = [] if self.fixed else [suffix for suffix in suffixes if last.endswith(suffix) and last != suffix]
        return self.full[: len(self.full) - max(map(len, known), default=0)]


def resolve_names(candidates: Sequence[NameCandidate], suffixes: Sequence[str]) -> list[str]:
    """Return a name for each image, without the suffix unless names then collide.

    Names that collide with their suffix as well stay equal: the caller refuses them.
    """
    names = [candidate.short(suffixes) for candidate in candidates]
    while True:
        # A name that got its suffix back may equal another that lost one, so the names are compared again.
        times = Counter(names)
        resolved = [candidate.full if times[name] > 1 else name for candidate, name in zip(candidates, names, strict=True)]
        if resolved == names:
            return names
        names = resolved


def name_flaw(name: str) -> str:
    """Return why a name cannot be a path below the output folder; empty where it can."""
    parts = name.split("/")
    if not all(parts):
        return "an empty part"
    for part in parts:
        if part in (".", ".."):
            return f"a part {part!r}"
    if "\\" in name:
        return "a backslash"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        return "a control character or a byte that is not UTF-8"
    stores = [part for part in parts[:-1] if part.lower().endswith(".zarr")]
    return f"a folder {stores[0]!r}, which is where a mask may lie" if stores else ""
