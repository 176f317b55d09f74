"""Try quarantined blocks again."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import load_written_config
from pipeline.errors import InputError, Problem, one_of
from pipeline.records import RunFolder, latest, read_rows
from workflows.run import run_config

__all__ = ["retry"]


def retry(folder_path: Path, block: str | None = None) -> int:
    """Run quarantined blocks again; what is done stays as it is.

    Args:
        folder_path: the output folder of a run.
        block: the only block to try, as failures.csv names it; None: all.

    Returns:
        The exit code of the run.

    Raises:
        GigasegError: no run with such a block is here, or the run could not go on.
    """
    folder = RunFolder(folder_path.absolute())
    recorded = folder.require()
    if recorded.get("kind") == "training":
        way_out = f"Did you mean `gigaseg train {folder.path / 'config.yaml'}`?"
        raise InputError(Problem(str(folder.path), "the output of a training", "that of a run", way_out))
    if command := next((name for name in ("evaluate", "convert") if name in recorded.get("identity", {})), None):
        way_out = f"Run gigaseg {command} again."
        raise InputError(Problem(str(folder.path), f"the output of `gigaseg {command}`", "that of a run", way_out))
    failed = [receipt for receipt in latest(read_rows(folder.ledger)).values() if not receipt.ok]
    if block is not None and block not in {receipt.block for receipt in failed}:
        names = one_of(list(dict.fromkeys(receipt.block for receipt in failed))) or "no block, as none is quarantined"
        raise InputError(Problem("--block", repr(block), names))
    config = load_written_config(folder.path / "config.yaml").model_copy(update={"output": folder.path})  # the folder may have been moved
    return run_config(config, retried=lambda receipt: block is None or receipt.block == block)
