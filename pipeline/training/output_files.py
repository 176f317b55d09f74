"""What a training writes into its output folder: over nothing that is not its own, and nothing else is ever removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.config import is_remote, is_sample
from pipeline.errors import InputError, Problem
from pipeline.records import Ledger, RunFolder
from pipeline.storage import store_errors
from pipeline.training.plan import TrainPlan
from pipeline.training.weight_averaging import weights_file

__all__ = ["clear", "is_begun", "refuse_overwriting"]

_FOLDERS = ("ledger", "bundle", "candidate", "val", "events", "ray")
_FILES = ("checkpoint.pt", "history.csv", "val.csv", "training.html", "config.yaml", "run.json")
OWN = (*_FOLDERS, *_FILES)
"""In the order in which they are removed: run.json, which says whose they are, is the last."""


def is_begun(folder: RunFolder) -> bool:
    """Whether a training has begun in a folder, so that what has its names there is its own."""
    with suppress(InputError):
        return folder.read().get("kind") == "training"
    return False


def refuse_overwriting(plan: TrainPlan, folder: RunFolder) -> None:
    """Refuse a training that would write over what it reads, or over what was in the output folder before any training.

    Raises:
        InputError: one problem for each name that would be lost.
    """
    written = {form: name for name in OWN for form in _forms(folder.path / name)}
    lost: dict[str, str] = {}
    for path in _read(plan):
        for name in (written[one] for form in _forms(path) for one in (form, *form.parents) if one in written):
            lost.setdefault(name, f"{path}, which is read, where the training would write {name}")
    if not is_begun(folder):
        for name in (name for name in OWN if os.path.lexists(folder.path / name)):
            lost.setdefault(name, f"{folder.path / name}, which no training has written")
    if lost:
        where, way_out = plan.config.place("output"), "Choose another output folder."
        raise InputError([Problem(where, found, "a folder without it", way_out) for found in lost.values()])


def clear(folder: RunFolder, *, take_over: bool = False) -> None:
    """Remove what an earlier training wrote; a folder that holds none stays as it is.

    Raises:
        InputError: a live process holds the training.
        StoreError: something cannot be removed.
    """
    if not is_begun(folder):
        return
    if folder.ledger.is_dir():
        with Ledger.open(folder.ledger, take_over=take_over):
            pass
    with store_errors(folder.path):
        for path in (folder.path / name for name in OWN):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _read(plan: TrainPlan) -> Iterator[str]:
    """Every path of this machine that the training reads: as the YAML says, and as was found there."""
    config = plan.config
    texts = [*config.images, *(config.val if isinstance(config.val, tuple) else ()), *map(str, plan.network.files())]
    texts += [str(weights_file(Path(text))) for text in config.mean_of]
    texts += [path for image in (*plan.train, *plan.val) for path in (image.path, image.truth) if path]
    for text in texts:
        local = text.removeprefix("file://")
        if not is_remote(local) and not is_sample(local):
            yield local


def _forms(path: str | Path) -> set[Path]:
    """A path as it was written, and where it leads: either may be what is lost."""
    return {Path(path).absolute(), Path(path).resolve()}
