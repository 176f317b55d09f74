"""Say how far a run or a training is, from its output alone: any machine that sees the output may ask."""

from __future__ import annotations

import json

from pipeline.errors import printable
from pipeline.records import Holder, RunFolder, current_holder
from pipeline.storage import StorageLike
from workflows.live_status import watch_run
from workflows.run_view import LOOK_S, RunView, describe

__all__ = ["state_of", "status"]


def status(output: StorageLike, *, as_json: bool = False, watch: bool = False, every: float | None = None) -> int:
    """Print how far the run or the training of an output is, as text or one JSON object.

    Args:
        output: its folder or URL.
        as_json: print JSON: one object, or with ``watch`` one a line.
        watch: print again whenever something changes, until the run ends.
        every: seconds between two looks; None: 2 on a terminal, 10 elsewhere.

    Returns:
        0; with ``watch`` the exit code that the run ended with.

    Raises:
        InputError: no run is here.
    """
    view = RunView(RunFolder(output))
    if watch:
        return watch_run(view, as_json=as_json, every=every)
    summary = view.look(wait_s=LOOK_S)
    print(json.dumps(summary, indent=1) if as_json else "\n".join(map(printable, describe(summary))))
    return 0


def state_of(folder: RunFolder) -> str:
    """Return the recorded state; ``interrupted`` where it is ``running`` and the process is gone, as a killed one cannot record it."""
    recorded: str = folder.require()["state"]
    holder = current_holder(folder.ledger) if recorded == "running" else None
    is_dead = recorded == "running" and (holder is None or holder.is_gone(Holder.here()) is True)
    return "interrupted" if is_dead else recorded
