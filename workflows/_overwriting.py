"""What a run may not write over: its own input, and files in its output folder that no run has made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import InputError, Problem
from pipeline.inputs import Catalogue
from pipeline.records import RunFolder

__all__ = ["refuse_overwriting"]

SHOWN = 3


def refuse_overwriting(found: Catalogue, folder: RunFolder, outputs: Iterable[str]) -> None:
    """Refuse a run that would write over an image, a truth, or what was in the output folder before any run.

    Args:
        found: what is read.
        folder: where the run writes.
        outputs: what it writes there, relative paths.

    Raises:
        InputError: with the first few.
    """
    root, where = folder.path.resolve(), found.config.place("output")
    if root.is_file():
        raise InputError(Problem(where, f"{root}, a file", "a folder"))
    written = {root / name for name in outputs}
    read = {Path(path).resolve() for image in found.images for path in (image.path, image.truth) if path}
    lost = sorted(path for path in read if not written.isdisjoint([path, *path.parents]) or _holds(path, root, written))
    problems = [Problem(where, f"{path}, which is read, where masks would be written", "a folder without it") for path in lost]
    if not (folder.path / "run.json").exists() and not folder.ledger.exists():
        names = [root / "log.txt", *sorted(path for path in written if path.parent.is_dir())]
        there = [path for path in names if path.exists() and path not in lost]
        problems += [Problem(where, f"{path}, which no run has written", "a folder without it") for path in there]
    if problems:
        raise InputError([*problems[:SHOWN], "Choose another output folder."])


def _holds(path: Path, root: Path, written: set[Path]) -> bool:
    """Whether an input is a folder in which an output lies, such as a Zarr group that masks would be written into."""
    return path.suffix == ".zarr" and path.is_relative_to(root) and any(one.is_relative_to(path) for one in written)
