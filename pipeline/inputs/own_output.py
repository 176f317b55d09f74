"""Which files are the output of the run itself or of a training, where output and images share a folder."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["is_own_output"]

_RUN_FOLDERS = ("masks", "probs", "parts", "instances", "objects", "report", "ledger")
_TRAINING_FOLDERS = ("ledger", "bundle", "candidate", "val", "events", "ray")


def is_own_output(path: str, root: str, output: str) -> bool:
    """Whether a path belongs to the output of the run, or to that of any training.

    Args:
        path: of a file or folder below ``root``.
        root: folder that is searched for images; it may lie in the output folder, or the output folder in it.
        output: real path of the run's output folder.
    """
    relative = Path(path).relative_to(root)
    if any(part.name in _TRAINING_FOLDERS and _is_training(Path(root, part.parent)) for part in (relative, *relative.parents)):
        return True
    holds_root = f"{os.path.realpath(root)}/".startswith(f"{output}/")
    own = [f"{output}/{name}/" for name in _RUN_FOLDERS] if holds_root else [f"{output}/"]
    return f"{os.path.realpath(path)}/".startswith(tuple(own))


def _is_training(folder: Path) -> bool:
    """Whether a folder is the output of a training, whose pictures and masks are no images to segment."""
    with suppress(OSError, ValueError):
        recorded = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return isinstance(recorded, dict) and recorded.get("kind") == "training"
    return False
