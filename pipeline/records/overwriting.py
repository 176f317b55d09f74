"""What a command may not write over: what it reads, and files that were in its output folder before it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.config import is_sample, is_url
from pipeline.errors import InputError, Problem

__all__ = ["refuse_overwriting"]

SHOWN = 3  # problems


def refuse_overwriting(folder: Path, where: str, *, reads: Iterable[str], outputs: Sequence[str], command: str, is_begun: bool) -> None:
    """Refuse a command that would write over what it reads, or over what was in its output folder before.

    Args:
        folder: the output folder; it need not exist.
        where: the key of the YAML that names it, for messages.
        reads: paths, URLs and samples that the command reads.
        outputs: names of files and folders that it writes in the output folder.
        command: what writes them, for messages: run, training.
        is_begun: whether such a command has begun in the folder before, so that outputs in it are its own.

    Raises:
        InputError: the folder is a file, or something would be lost; the first few are named.
    """
    if folder.is_file():
        raise InputError(Problem(where, f"{folder}, a file", "a folder", "Choose another output folder."))
    existing = [name for name in outputs if os.path.lexists(folder / name)]
    names = {root / name: name for name in outputs for root in (folder.absolute(), folder.resolve())}
    names |= {(folder / name).resolve(): name for name in existing}
    lost: dict[str, str] = {}
    for path in sorted(set(_local_paths(reads))):
        if name := next(_replaced_by(path, folder, names), None):
            lost.setdefault(name, f"{path}, which is read, where the {command} would write {name}")
    if not is_begun:
        for name in existing:
            lost.setdefault(name, f"{folder / name}, which no {command} has written")
    if lost:
        expected, way_out = "a folder without it", "Choose another output folder."
        raise InputError([Problem(where, found, expected, way_out) for found in list(lost.values())[:SHOWN]])


def _local_paths(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts that are paths of this machine."""
    for text in texts:
        path = text.removeprefix("file://")
        if not is_url(path) and not is_sample(path):
            yield path


def _replaced_by(path: str, folder: Path, names: Mapping[Path, str]) -> Iterator[str]:
    """Yield the outputs that would replace an input: they lie there or above, or inside a Zarr store in the output folder.

    Links count both as they are named and as what they lead to: either may be what is lost.
    """
    for form in (Path(path).absolute(), Path(path).resolve()):
        yield from (names[parent] for parent in (form, *form.parents) if parent in names)
        if form.suffix == ".zarr" and form.is_relative_to(folder.resolve()):
            yield from (name for output, name in names.items() if output.is_relative_to(form))
