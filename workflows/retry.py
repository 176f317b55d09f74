"""Try quarantined blocks again."""

from __future__ import annotations

from pipeline.errors import InputError, Problem, one_of
from pipeline.records import CommittedReceipts, RunFolder
from pipeline.storage import StorageLike
from workflows.run import run_config

__all__ = ["retry"]


def retry(output: StorageLike, block: str | None = None) -> int:
    """Run quarantined blocks of an output again, or the one block of a name in failures.csv; what is done stays as it is.

    Returns:
        The exit code, as :func:`workflows.run.run` does.

    Raises:
        GigasegError: no run with such a block is here, or the run could not go on.
    """
    folder = RunFolder(output)
    recorded = folder.require()
    if recorded.get("kind") == "training":
        way_out = f"Did you mean `gigaseg train {folder.storage}/config.yaml`?"
        raise InputError(Problem(str(folder.storage), "the output of a training", "that of a run", way_out))
    if command := next((name for name in ("evaluate", "convert") if name in recorded.get("identity", {})), None):
        found, way_out = f"the output of `gigaseg {command}`", f"Run gigaseg {command} again."
        raise InputError(Problem(str(folder.storage), found, "that of a run", way_out))
    failed = [receipt.block for receipt in CommittedReceipts(folder.ledger).last if not receipt.ok]
    if block is not None and block not in failed:
        names = one_of(list(dict.fromkeys(failed))) or "no block, as none is quarantined"
        raise InputError(Problem("--block", repr(block), names))
    return run_config(folder.read_config(), retried=lambda receipt: block is None or receipt.block == block)
