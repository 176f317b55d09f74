"""From ``images`` and ``truth`` to the list of images: by name and existence alone, no image is opened."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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

_RUN_FOLDERS = ("masks", "probs", "parts", "instances", "objects", "report", "ledger")
_TRAINING_FOLDERS = ("ledger", "bundle", "candidate", "val", "events", "ray")
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
    """One image, before it has its final name; images of folders and globs get a row like those of a CSV list."""

    candidate: NameCandidate
    row: Row
    direct: bool


def list_images(config: Config) -> ImageList:
    """List the images of a run and the truth of each; problems are returned, to be reported with those of the headers."""
    search = _Search(config)
    for index, entry in enumerate(config.images):
        where = config.where(join_keys("images", index))
        try:
            search.add(entry, where)
        except InputError as error:
            search.problems += error.problems
    rows = [image.row for image in search.images]
    names = resolve_names([image.candidate for image in search.images], search.suffixes)
    problems = [*search.problems, *_bad_names(names, rows)]
    truths = [row.truth for row in rows]
    try:
        truths = pair_truth(config.truth, [(name, row.image) for name, row in zip(names, rows, strict=True)], truths, config.where("truth"))
    except InputError as error:
        problems += error.problems
    images = [
        ListedImage(name, image.row.image, image.direct, truth, image.row.overrides)
        for name, image, truth in zip(names, search.images, truths, strict=True)
    ]
    return ImageList(tuple(images), search.ignored, tuple(problems))


def _bad_names(names: Sequence[str], rows: Sequence[Row]) -> Iterator[Problem]:
    """Yield a problem for each name that is no path below the output folder, or that two images have."""
    owners: dict[str, Row] = {}
    fix = "Give it another name in a CSV list: image,name."
    for name, row in zip(names, rows, strict=True):
        if flaw := name_flaw(name):
            expected = "folders and a name, such as slides/a, below the output folder"
            yield Problem(row.where, f"the name {name!r} with {flaw}", expected, fix)
        elif name in owners:
            yield Problem(row.where, f"the name {name!r} of {row.image}, which {owners[name].image} has already", "each name once", fix)
        owners.setdefault(name, row)


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
            self._take(sample.name, Row(where, str(sample.image)), direct=True)
        elif is_array_path(text):
            self._take("", Row(where, text, array_name(text)), direct=True)
        elif is_url(text) and not text.lower().endswith(".csv"):
            self._take(_last_component(text), Row(where, text), direct=True)
        elif not is_url(text) and is_glob(text):
            root = split_glob(text)[0]
            self._take_all(self._glob(text, root), root, where, f"{text!r}, which matches no image")
        elif text.lower().endswith(".csv"):
            self._list(text)
        elif Path(text).is_dir() and not self._is_store(Path(text)):
            self._take_all(self._walk(text, where), text, where, f"{text!r}, a folder without images")
        else:
            self._take(Path(text).name, Row(where, text), direct=True)

    def _take(self, name: str, row: Row, *, direct: bool = False) -> None:
        self.images.append(_FoundImage(NameCandidate(row.name or name, fixed=bool(row.name)), row, direct))

    def _take_all(self, paths: Iterable[str], root: str, where: str, otherwise: str) -> None:
        """Add images named by their path below a folder; report ``otherwise`` where there is none."""
        before = len(self.images)
        for path in sorted(paths):
            self._take(os.path.relpath(path, root), Row(where, path))
        if len(self.images) == before:
            self.problems.append(Problem(where, otherwise, f"files ending in {', '.join(self.suffixes)}"))

    def _list(self, path: str) -> None:
        for row in read_csv_list(path):
            if is_sample(row.image):
                sample = resolve_sample(row.image, row.where)
                self._take(sample.name, replace(row, image=str(sample.image)))
            else:
                self._take(_last_component(row.image) if is_url(row.image) else Path(row.image).name, row)

    def _glob(self, pattern: str, root: str) -> Iterator[str]:
        is_store = cache(self._is_store)
        for path in expand_glob(pattern):
            inside = any(is_store(Path(root, parent)) for parent in Path(path).relative_to(root).parents if parent.name)
            if inside or _is_own_output(path, root, self.output):
                continue
            if self._is_store(Path(path)) or (Path(path).is_file() and path.lower().endswith(tuple(self.suffixes))):
                yield path
            elif Path(path).is_file():
                self.ignored += 1

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


def _last_component(url: str) -> str:
    """Return the last component of a URL."""
    parts = urlsplit(url)
    path = parts.path if parts.scheme in ("http", "https") else url.partition("://")[2]
    return path.rstrip("/").rpartition("/")[2] or parts.netloc


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
