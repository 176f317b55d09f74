"""Ask a run or a training to end."""

from __future__ import annotations

import sys

from pipeline.records import Pulse, RunFolder, current_holder
from pipeline.storage import StorageLike

__all__ = ["stop"]


def stop(output: StorageLike) -> int:
    """Ask a run, a training or a watch to end after what it is doing; it can be resumed. Returns 0, whether or not a process runs.

    Raises:
        InputError: no run is here.
    """
    folder = RunFolder(output)
    is_watched = folder.watch.exists() and current_holder(folder.watch) is not None
    state = "watching" if is_watched else folder.require()["state"]
    sign = Pulse(folder.ledger).look() if state == "running" else None
    if state == "running" and (sign is None or sign.is_alive is False):  # a process that is killed cannot record it
        state = "interrupted"
    folder.ask_to_stop()
    print(f"asked to stop: {folder.storage} ({state})", file=sys.stderr)
    return 0
