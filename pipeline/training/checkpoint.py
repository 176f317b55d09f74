"""What a training continues from after a crash: one file, written completely or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.storage import Storage

__all__ = ["CHECKPOINT", "Checkpoint", "read_checkpoint", "write_checkpoint"]

CHECKPOINT = "checkpoint.pt"
_STATE_KEY = "learner"  # of `state` in files, so that checkpoints of earlier versions can be read


@dataclass
class Checkpoint:
    """How far a training is.

    Attributes:
        step: number of batches learnt.
        seconds: spent on them, without validation.
        best: mean IoU of the bundle that is kept; None: there is none yet.
        stale: validations since then.
        state: of network, optimizer and averaged weights.
    """

    step: int = 0
    seconds: float = 0.0
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
