"""The files that a training writes into its output folder: it writes over no others and removes no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipeline import records
from pipeline.errors import InputError
from pipeline.records import Ledger, RunFolder
from pipeline.training.plan import TrainPlan
from pipeline.training.weight_averaging import weights_file

__all__ = ["OUTPUTS", "is_begun", "refuse_overwriting", "remove_outputs"]

_FOLDERS = ("ledger", "bundle", "candidate", "val", "events", "ray")
_FILES = ("checkpoint.pt", "history.csv", "val.csv", "training.html", "config.yaml", "run.json")
OUTPUTS = (*_FOLDERS, *_FILES)
"""In the order of removal: run.json, which marks the others as a training's, is the last."""


def is_begun(folder: RunFolder) -> bool:
    """Whether a training has begun in a folder, so that files with the names of outputs are its own."""
    with suppress(InputError):
        return folder.read().get("kind") == "training"
    return False


def refuse_overwriting(plan: TrainPlan, folder: RunFolder) -> None:
    """Refuse a training that would write over what it reads, or over what was in the output folder before any training.

    Raises:
        InputError: the first few problems.
    """
    where = plan.config.where("output")
    reads = _inputs(plan)
    records.refuse_overwriting(folder.storage, where, reads=reads, outputs=OUTPUTS, command="training", is_begun=is_begun(folder))


def remove_outputs(folder: RunFolder, *, take_over: bool = False) -> None:
    """Remove what an earlier training wrote; a folder without one stays as it is.

    Raises:
        InputError: a live process holds the training.
        StoreError: something cannot be removed.
    """
    if not is_begun(folder):
        return
    if folder.ledger.exists():
        with Ledger.open(folder.ledger, take_over=take_over):
            pass
    for name in OUTPUTS:
        with suppress(InputError):  # a link that leads out of the folder is none of its files
            folder.storage.delete(name)
            folder.storage.delete_tree(name)


def _inputs(plan: TrainPlan) -> Iterator[str]:
    """Yield all that the training reads: as the YAML names it, and as it was found."""
    config = plan.config
    yield from config.images
    yield from config.val if isinstance(config.val, tuple) else ()
    yield from map(str, plan.network.files())
    yield from (str(weights_file(Path(text))) for text in config.mean_of)
    yield from (path for image in (*plan.train, *plan.val) for path in (image.path, image.truth) if path)
