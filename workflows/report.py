"""Write the report of a run again, from its ledger alone."""

from __future__ import annotations

from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.records import CommittedReceipts, RunFolder
from pipeline.report import report_of
from pipeline.scheduling import Tally
from pipeline.storage import StorageLike
from workflows.pictured_report import rewrite_report
from workflows.run import print_result

__all__ = ["plan_of", "report", "report_now", "require_segmentation"]


def report(output: StorageLike) -> int:
    """Write the report of a run into its output and print the result; no mask is read. Returns 0.

    Raises:
        InputError: no run is here, or it ended before its first block.
    """
    folder = RunFolder(output)
    recorded = require_segmentation(folder)
    content = report_now(folder, recorded.get("state", "running"))
    rewrite_report(folder, plan_of(folder), content)
    print_result(folder, content, masks=recorded.get("identity", {}).keys().isdisjoint(("evaluate", "convert")))
    return 0


def require_segmentation(folder: RunFolder) -> dict[str, Any]:
    """Return the content of run.json; raises InputError where no run has begun, or it is a training."""
    recorded = folder.require()
    if recorded.get("kind") == "training":
        scores = f"{folder.storage}/val"
        way_out = f"Its scores are in {scores}: gigaseg report {scores}"
        raise InputError(Problem(str(folder.storage), "the output of a training", "that of a run", way_out))
    return recorded


def report_now(folder: RunFolder, state: str) -> dict[str, Any]:
    """Return the content of report.json for what the ledger holds now; raises as :func:`plan_of`."""
    plan = plan_of(folder)
    return report_of(plan, Tally(plan, CommittedReceipts(folder.ledger)), state)


def plan_of(folder: RunFolder) -> dict[str, Any]:
    """Return the plan that the ledger of a run holds.

    Raises:
        InputError: the run ended before its first block.
    """
    plan = folder.last_plan()
    if not plan:
        found = "a run that ended before it had begun with any block"
        raise InputError(Problem(str(folder.storage), found, "one that has", "Run it again; a report follows."))
    return plan
