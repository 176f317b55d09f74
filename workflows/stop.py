"""Ask a run or a training to end."""

from __future__ import annotations

import sys

from pipeline.records import RunFolder
from pipeline.storage import StorageLike

__all__ = ["stop"]


def stop(output: StorageLike) -> int:
    """Ask a run or a training to end after what it is doing; it can be resumed. Returns 0, whether or not a process runs.

    Raises:
        InputError: no run is here.
    """
    folder = RunFolder(output)
    recorded = folder.require()
    folder.ask_to_stop()
    print(f"asked to stop: {folder.storage} ({recorded['state']})", file=sys.stderr)
    return 0
