"""The files of a training in its output folder: which are its own, and the checkpoint from which it continues after a crash."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import records
from pipeline.config import Mosaic
from pipeline.errors import InputError, Problem
from pipeline.records import Ledger, RunFolder
from pipeline.storage import Storage
from pipeline.training.plan import TrainPlan
from pipeline.training.val_regions import regions_geojson
from pipeline.training.weight_averaging import weights_file

__all__ = [
    "CHECKPOINT",
    "OUTPUTS",
    "Checkpoint",
    "is_begun",
    "read_checkpoint",
    "refuse_overwriting",
    "region_skip",
    "remove_outputs",
    "write_checkpoint",
    "write_regions",
]

CHECKPOINT = "checkpoint.pt"
_STATE_KEY = "learner"  # of `state` in files, so that checkpoints of earlier versions can be read

_REGIONS = "val_regions"
_FOLDERS = ("ledger", "bundle", "candidate", "val", _REGIONS, "events", "ray")
_FILES = (CHECKPOINT, "history.csv", "val.csv", "worst.csv", "training.html", "config.yaml", "run.json")
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
    yield from (entry.mosaic if isinstance(entry, Mosaic) else entry for entry in config.images)
    yield from config.val if isinstance(config.val, tuple) else ()
    yield from map(str, plan.network.files())
    yield from (str(weights_file(Path(text))) for text in config.mean_of)
    yield from (path for image in (*plan.train, *plan.val) for path in (image.path, image.truth) if path)


def write_regions(plan: TrainPlan) -> None:
    """Write the validation regions of each image as GeoJSON; a file that holds them already keeps its time of change."""
    for image in plan.val:
        if regions := plan.regions_of(image):
            key, data = f"{_REGIONS}/{image.name}.geojson", regions_geojson(image, regions).encode()
            if plan.storage.get(key) != data:
                plan.storage.put(key, data)


def region_skip(plan: TrainPlan) -> dict[str, Any] | None:
    """Return the ``skip`` of a run over the validation images that leaves all but their regions out; None: they have none."""
    return {"name": "regions", "path": f"{plan.storage}/{_REGIONS}/{{name}}.geojson"} if plan.regions else None


@dataclass
class Checkpoint:
    """How far a training is.

    Attributes:
        step: number of batches learnt.
        seconds: spent on them, without validation.
        spent_s: seconds of the whole training until now, with reading and validation, in all its processes.
        validation_s: seconds of the last validation.
        validated_at: share of the training at which it was, where ``minutes`` says its length.
        best: mean IoU of the bundle that is kept; None: there is none yet.
        stale: validations since then.
        state: of network, optimizer and averaged weights.
    """

    step: int = 0
    seconds: float = 0.0
    spent_s: float = 0.0
    validation_s: float = 0.0
    validated_at: float = 0.0
    best: float | None = None
    stale: int = 0
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def is_new(self) -> bool:
        """Whether nothing has been learnt or scored yet."""
        return self.step == 0 and self.best is None


def write_checkpoint(output: Storage, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint in the output folder at once: a reader sees the old one or the new one.

    Raises:
        StoreError: the file cannot be written.
    """
    import torch

    content = dict(vars(checkpoint))
    content[_STATE_KEY] = content.pop("state")
    with output.local_file(CHECKPOINT) as path, path.open("wb") as file:
        torch.save(content, file)


def read_checkpoint(output: Storage) -> Checkpoint | None:
    """Read the checkpoint of an output folder, tensors and plain values only; None if there is none.

    Raises:
        InputError: the file is damaged or no checkpoint.
    """
    from pipeline.models.networks import read_pickle

    if output.size(CHECKPOINT) is None:
        return None
    where = f"{output}/{CHECKPOINT}"
    with output.open(CHECKPOINT) as file:
        content = read_pickle(file, where)
    try:
        return Checkpoint(state=content.pop(_STATE_KEY), **content)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(Problem(where, "no checkpoint of a training", "", "Start over with --fresh.")) from error
