"""Ask a run to stop."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.records import RunFolder

__all__ = ["stop"]


def stop(folder_path: Path) -> int:
    """Ask a run to finish the blocks in flight and end; it can be resumed.

    Args:
        folder_path: the output folder of a run or of a training.

    Returns:
        0, whether or not a process runs.

    Raises:
        InputError: no run is here.
    """
    folder = RunFolder(folder_path.absolute())
    recorded = folder.require()
    folder.ask_to_stop()
    print(f"asked to stop: {folder.path} ({recorded['state']})", file=sys.stderr)
    return 0
