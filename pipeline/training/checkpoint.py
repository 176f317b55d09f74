"""What a training goes on from after a crash: one file, written whole or not at all."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.storage import store_errors

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint"]


@dataclass
class Checkpoint:
    """Where a training stands.

    Attributes:
        step: batches learnt.
        seconds: spent on them, validation apart.
        best: mean IoU of the bundle that is kept; None: none yet.
        stale: validations since then.
        learner: state of network, optimizer and averages.
    """

    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    stale: int = 0
    learner: dict[str, Any] = field(default_factory=dict)

    @property
    def is_new(self) -> bool:
        """Whether nothing has been learnt or scored yet."""
        return self.step == 0 and self.best is None


def write_checkpoint(path: Path, at: Checkpoint) -> None:
    """Replace the file; whoever looks sees the old one or the new one.

    Raises:
        StoreError: it cannot be written.
    """
    import torch

    part = path.with_suffix(".part")
    with store_errors(path):
        with part.open("wb") as file:
            torch.save(asdict(at), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Read it, tensors and plain values only; None: there is none.

    Raises:
        InputError: the file is damaged.
    """
    from pipeline.models.networks.weights import read_pickle

    if not path.is_file():
        return None
    found = read_pickle(path)
    try:
        return Checkpoint(**found)
    except TypeError as error:
        raise InputError(Problem(str(path), "no checkpoint of a training", "", "Start over with --fresh.")) from error
