"""Make the list of images from ``images`` and ``truth`` by names and existence; only files that may hold several images are opened."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pipeline.config import (
    Config,
    Mosaic,
    TruthSpec,
    as_spelled,
    check_exists,
    expand_glob,
    is_glob,
    is_sample,
    is_url,
    normal_form,
    split_glob,
)
from pipeline.errors import InputError, Problem
from pipeline.inputs.csv_list import Row, read_csv_list
from pipeline.inputs.file_groups import FoundImage, ReaderCache, first_of, merge_duplicates, merge_side_files, split_members
from pipeline.inputs.left_out import NO_FILE, OF_RUN, ImageFiles, LeftOut, describe_left_out, is_litter, is_special, outputs_in
from pipeline.inputs.names import SHORT, NameCandidate, cut_name, is_path_too_long, long_part, name_flaw, resolve_names
from pipeline.inputs.pairing import pair_truth
from pipeline.inputs.samples import resolve_sample
from pipeline.inputs.truth import TRUTH_READER
from pipeline.inputs.truth_sources import mosaic_reader, template_of, truth_reader
from pipeline.readers import array_name, exists_at, expand_url, has_file, is_array_path, is_remote, is_web, walk_url
from pipeline.validation import join_keys

__all__ = ["ImageList", "ListedImage", "image_paths", "list_images"]

NOT_ACCEPTED = "still being written, or refused"


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
    overrides: Mapping[str, Any] = field(default_factory=dict)  # reader options of this image, from a CSV list or a file of several
    beside: Sequence[str] | None = None  # files that belong to it; they need not exist; None: ask its reader
    fault: str = ""  # why its outputs cannot be written; empty if they can
    truth_reader: Mapping[str, Any] = field(default_factory=lambda: TRUTH_READER)  # name and options of the reader of its truth


@dataclass(frozen=True)
class ImageList:
    """All images of a run in the order of the YAML (folders and globs sorted), the files left out, and the problems."""

    images: tuple[ListedImage, ...] = ()
    left_out: tuple[LeftOut, ...] = ()  # files and folders in searched folders and globs, by path
    notes: tuple[str, ...] = ()
    problems: tuple[Problem | str, ...] = ()


def list_images(config: Config, accepted: Collection[str] | None = None) -> ImageList:
    """List the images of a run and the truth of each; problems are returned, to be reported with those of the headers.

    ``accepted`` are the paths below folders that may be taken; others, and folders that cannot be read, are left out. None: all.
    """
    search = _Search(config, accepted)
    for index, entry in enumerate(config.images):
        where = config.where(join_keys("images", index))
        try:
            if isinstance(entry, Mosaic):
                search.add_mosaic(entry, where)
            else:
                search.add(as_spelled(entry), where)
        except InputError as error:
            search.problems += error.problems
    readers = ReaderCache(config.reader)
    found, notes = merge_duplicates(search.images)
    found, left_out, more = merge_side_files(found, search.left_out.values(), readers)
    notes += more
    found, more, wrong = split_members(found, readers)
    notes += more
    problems = [*search.problems, *wrong]
    suffixes = search.files.suffixes
    rows = [image.row for image in found]
    names = resolve_names([image.candidate for image in found], suffixes)
    truths = [row.truth for row in rows]
    try:
        pairs = [(name, row.image) for name, row in zip(names, rows, strict=True)]
        truths = pair_truth(template_of(config.truth), pairs, truths, config.where("truth"), suffixes)
    except InputError as error:
        problems += error.problems
    sources = [_truth_source(truth, config.truth) for truth in truths]
    cut = [name if image.candidate.fixed else cut_name(name) for name, image in zip(names, found, strict=True)]
    problems += _bad_names(cut, rows, config.output, [image.direct for image in found])
    notes += [f"left out: {describe_left_out(left_out)}"] if left_out else []
    images = [
        ListedImage(name, image.row.image, image.direct, truth, image.row.overrides, image.beside, _too_long(name, config.output), reader)
        for name, image, (truth, reader) in zip(cut, found, sources, strict=True)
    ]
    left_out.sort(key=lambda one: one.path)
    return ImageList(tuple(images), tuple(left_out), (*notes, *_name_notes(names, cut)), tuple(problems))


def _truth_source(path: str | None, truth: TruthSpec | str | None) -> tuple[str | None, Mapping[str, Any]]:
    """Return the truth of one image and its reader; an image without a file of its own has the mosaic of masks."""
    if path is None and isinstance(truth, TruthSpec) and truth.mosaic is not None:
        folder, reader = mosaic_reader(truth.mosaic)
        return folder, {**TRUTH_READER, **reader}
    return path, TRUTH_READER if path is None else truth_reader(path, truth)


def image_paths(config: Config, folder: str) -> list[str]:
    """Return the paths of the images below a folder or URL, sorted, by their names alone; folders that cannot be read are passed over."""
    return sorted(_Search(config, ()).walk(as_spelled(folder), "images"))


def _too_long(name: str, output: str) -> str:
    """Say that the outputs of an image would have names or paths that are too long; empty where they would not."""
    if flaw := long_part(name):
        return f"the name {name!r} with {flaw}"
    return f"the name {name!r}, too long below {output}" if not is_url(output) and is_path_too_long(output, name) else ""


def _bad_names(names: Sequence[str], rows: Sequence[Row], output: str, direct: Sequence[bool]) -> Iterator[Problem]:
    """Yield a problem for each name that is no path below the output folder, or that two images have.

    A name that is only too long is a problem where the YAML names the image (``direct``); otherwise it is the fault of this image.
    """
    owners: dict[str, Row] = {}
    for name, row, is_direct in zip(names, rows, direct, strict=True):
        is_mosaic = row.overrides.get("name") == "mosaic"
        fix = "Give it another `name`." if is_mosaic else "Give it another name in a CSV list: image,name."
        if flaw := name_flaw(name):
            expected = "folders and a name, such as slides/a, below the output folder"
            yield Problem(row.where, f"the name {name!r} with {flaw}", expected, fix)
        elif name in owners:
            other = owners[name].image
            alike = ", in another Unicode form" if other != row.image and normal_form(other) == normal_form(row.image) else ""
            yield Problem(row.where, f"the name {name!r} of {row.image}, which {other} has already{alike}", "each name once", fix)
        elif is_direct and (fault := _too_long(name, output)):
            yield Problem(row.where, fault, SHORT, fix)
        owners.setdefault(name, row)


def _name_notes(names: Sequence[str], cut: Sequence[str]) -> Iterator[str]:
    """Yield notes on names that were cut, and on names that differ only in case."""
    for name, short in zip(names, cut, strict=True):
        if name != short:
            yield f"{name} is too long for file names: its outputs are named {short}"
    alike: dict[str, list[str]] = {}
    for name in cut:
        alike.setdefault(name.casefold(), []).append(name)
    groups = [" and ".join(dict.fromkeys(group)) for group in alike.values() if len(set(group)) > 1]
    if groups:
        yield f"names differ only in case: masks copied to Windows or macOS would replace each other: {first_of(groups, 3)}"


class _Search:
    """Collects the images that the entries of ``images`` stand for, and the files left out."""

    def __init__(self, config: Config, accepted: Collection[str] | None = None) -> None:
        self.accepted = accepted
        self.images: list[FoundImage] = []
        self.left_out: dict[str, LeftOut] = {}  # by path: two entries may lead to one file
        self.problems: list[Problem | str] = []
        self.files = ImageFiles(config.reader)
        self.output = _real(config.output)

    def add(self, text: str, where: str) -> None:
        """Add the images of one entry; an InputError says that there is no such sample, or that a CSV list has mistakes."""
        problem = check_exists(text, where)
        text = text if is_url(text) else text.rstrip("/") or "/"
        if problem:
            self.problems.append(problem)
        elif is_sample(text):
            sample = resolve_sample(text, where)
            self._take(sample.name, Row(where, str(sample.image)), direct=True)
        elif is_array_path(text):
            self._take("", Row(where, text, array_name(text)), direct=True)
        elif is_remote(text) and not text.lower().endswith(".csv"):
            self._add_url(text, where)
        elif is_url(text) and not text.lower().endswith(".csv"):
            self._take(_last_component(text), Row(where, text), direct=True)
        elif not is_url(text) and is_glob(text):
            root, rest = split_glob(text)
            self._take_all(self._glob(expand_glob(text), root, rest), root, where, f"{text!r}, which matches no image")
        elif text.lower().endswith(".csv"):
            self._list(text)
        elif Path(text).is_dir() and not self.files.is_image_folder(text):
            self._take_all(self.walk(text, where), text, where, f"{text!r}, a folder without images")
        else:
            self._take(Path(text).name, Row(where, text), direct=True)

    def add_mosaic(self, mosaic: Mosaic, where: str) -> None:
        """Add the one image that the tiles of a mosaic make."""
        folder, reader = mosaic_reader(mosaic.mosaic, overlap=mosaic.overlap, warp=mosaic.warp)
        self._take(PurePosixPath(folder).name, Row(where, folder, mosaic.name or "", overrides=reader), direct=True)

    def _add_url(self, text: str, where: str) -> None:
        """Add the images of a URL: a file, a Zarr store, a folder or a glob; a web server has files and stores alone."""
        url, is_pattern = text.rstrip("/"), glob.has_magic(text) and not has_file(text)
        is_image = url.lower().endswith(self.files.suffixes)
        if is_web(url) and ("*" in url or (text != url and not is_image)):
            fix = "Name each file, or list their URLs in a CSV: a web server does not say which files it has."
            self.problems.append(
                Problem(where, f"{text!r}, a {'glob' if '*' in url else 'folder'} of a web server", "the URL of a file", fix)
            )
        elif is_pattern and not is_web(url):
            root, rest = split_glob(url)
            self._take_all(self._glob(expand_url(root, rest), root, rest), root, where, f"{text!r}, which matches no image")
        elif is_image or is_web(url) or has_file(url):
            self._take(_last_component(url), Row(where, url), direct=True)
        elif not exists_at(url):
            self.problems.append(Problem(where, f"{text!r}, which does not exist", "a file, a folder, a glob, a URL or a CSV list"))
        elif self.files.is_image_folder(url):
            self._take(_last_component(url), Row(where, url), direct=True)
        else:
            self._take_all(self.walk(url, where), url, where, f"{text!r}, a folder without images")

    def _take(self, name: str, row: Row, *, direct: bool = False) -> None:
        if is_special(row.image):
            self.problems.append(Problem(row.where, f"{row.image!r}, {NO_FILE}", "a file or a folder"))
            return
        self.images.append(FoundImage(NameCandidate(row.name or name, fixed=bool(row.name)), row, direct))

    def _take_all(self, paths: Iterable[str], root: str, where: str, otherwise: str) -> None:
        """Add images named by their path below a folder; if there are none, report ``otherwise`` and the files left out."""
        before = len(self.images)
        for path in sorted(paths):
            if self.accepted is not None and path not in self.accepted:
                self._leave_out(path, NOT_ACCEPTED)
                continue
            self._take(path.removeprefix(root.rstrip("/") + "/"), Row(where, path))
        if len(self.images) == before:
            below = [one for one in self.left_out.values() if f"{one.path}/".startswith(f"{root.rstrip('/')}/")]
            there = f"; it holds {describe_left_out(below)}" if below else ""
            self.problems.append(Problem(where, otherwise + there, f"files ending in {', '.join(sorted(self.files.suffixes))}"))

    def _list(self, path: str) -> None:
        for row in read_csv_list(path):
            if is_sample(row.image):
                sample = resolve_sample(row.image, row.where)
                self._take(sample.name, replace(row, image=str(sample.image)))
            else:
                self._take(_last_component(row.image) if is_url(row.image) else Path(row.image).name, row)

    def _leave_out(self, path: str, reason: str) -> None:
        self.left_out.setdefault(path, LeftOut(path, reason))

    def _is_image(self, path: str) -> bool:
        """Whether a file of a folder or a glob is an image; other files are recorded as left out, except those of operating systems."""
        if is_litter(path.rpartition("/")[2]):
            return False
        reason = self.files.why_not(path)
        if reason:
            self._leave_out(path, reason)
        return not reason

    def _glob(self, paths: Iterable[str], root: str, rest: str) -> Iterator[str]:
        """Yield the images among the paths that a glob matches; those of earlier runs only if it names their folder, such as ``masks``."""
        is_store, outputs, named = cache(self.files.is_image_folder), cache(outputs_in), set(rest.split("/"))
        own = self._own_outputs(root)
        for path in paths:
            below = PurePosixPath(path.removeprefix(root.rstrip("/") + "/"))
            parts = [f"{root.rstrip('/')}/{part}" for part in below.parents if part.name]
            parts = [path, *parts, root]
            if any(is_store(folder) for folder in parts[1:-1]) or f"{_real(path)}/".startswith(own):
                continue
            written = None
            for folder in parts[1:]:
                made, what = outputs(folder, is_named=folder == parts[-1])
                if any(part in made and Path(part).name not in named for part in parts):
                    written = LeftOut(f"{folder}/", what)
            if written:
                self.left_out.setdefault(written.path, written)
            elif is_store(path) or ((is_remote(path) or Path(path).is_file()) and self._is_image(path)):
                yield path

    def walk(self, folder: str, where: str) -> Iterator[str]:
        """Yield the images below a folder, except hidden files and outputs of runs; a Zarr store is one image."""
        seen: set[str] = set()
        own = self._own_outputs(folder)
        made: set[str] = set()

        def unreadable(error: OSError) -> None:
            if self.accepted is not None:
                self._leave_out(f"{error.filename}/", str(error.strerror))
                return
            self.problems.append(Problem(where, f"{error.filename!r}: {error.strerror}", "a folder that can be read"))

        walked = walk_url(folder) if is_remote(folder) else os.walk(folder, followlinks=True, onerror=unreadable)
        for parent, folders, files in walked:
            real = _real(parent)
            if real in seen:  # a link to a folder above
                folders.clear()
                continue
            seen.add(real)
            written, what = outputs_in(parent, is_named=parent == folder) if {"run.json", "model.yaml"} & set(files) else (frozenset(), "")
            made |= written
            if written and not f"{real}/".startswith(own) and real != self.output:
                self._leave_out(f"{parent}/", what)
            below = [name for name in folders if not is_litter(name) and f"{parent}/{name}" not in made]
            below = [name for name in below if not f"{_real(f'{parent}/{name}')}/".startswith(own)]
            stores = [name for name in below if self.files.is_image_folder(f"{parent}/{name}")]
            folders[:] = [name for name in below if name not in stores]
            yield from (f"{parent}/{name}" for name in stores)
            for name in files:
                path = f"{parent}/{name}"
                if path not in made and not f"{real}/{name}/".startswith(own) and self._is_image(path):
                    yield path

    def _own_outputs(self, root: str) -> tuple[str, ...]:
        """Return the real path prefixes of this run's outputs: its folder, or its files if the searched folder lies inside it."""
        real = f"{_real(root)}/"
        if not real.startswith(f"{self.output}/"):
            return (f"{self.output}/",)
        # The user may not name a training's output folder: the run would overwrite it.
        recorded = [path for path in outputs_in(self.output)[0] if not real.startswith(f"{path}/")]
        return tuple(f"{path}/" for path in {*recorded, *(f"{self.output}/{name}" for name in OF_RUN)})


def _real(path: str) -> str:
    """Return a path without links; a URL without a slash at its end."""
    return path.rstrip("/") if is_url(path) else os.path.realpath(path)


def _last_component(url: str) -> str:
    """Return the last component of a URL."""
    parts = urlsplit(url)
    path = parts.path if parts.scheme in ("http", "https") else url.partition("://")[2]
    return path.rstrip("/").rpartition("/")[2] or parts.netloc
