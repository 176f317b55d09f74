"""What a training continues from after a crash: one file, written completely or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.storage import store_errors

__all__ = ["Checkpoint", "checkpoint_file", "read_checkpoint", "write_checkpoint"]

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


def checkpoint_file(output: Path) -> Path:
    """Return where the checkpoint of an output folder lies."""
    return output / "checkpoint.pt"


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file at once: a reader sees the old one or the new one.

    Raises:
        StoreError: the file cannot be written.
    """
    import torch

    content = dict(vars(checkpoint))
    content[_STATE_KEY] = content.pop("state")
    part = path.with_suffix(".part")
    with store_errors(path):
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Read a checkpoint, tensors and plain values only.

    Returns:
        The checkpoint; None if there is no such file.

    Raises:
        InputError: the file is damaged or no checkpoint.
    """
    from pipeline.models.networks import read_pickle

    if not path.is_file():
        return None
    content = read_pickle(path)
    try:
        return Checkpoint(state=content.pop(_STATE_KEY), **content)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(Problem(str(path), "no checkpoint of a training", "", "Start over with --fresh.")) from error
