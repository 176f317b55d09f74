"""The end of a run: prove that no block is missing, remove what is no longer needed, record the state."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import GigasegError
from pipeline.records import Receipt
from pipeline.scheduling.run_spec import RunSpec

__all__ = ["EXIT_PARTIAL", "conclude"]

EXIT_PARTIAL = 3


def conclude(spec: RunSpec, receipts: Mapping[tuple[str, str], Receipt]) -> int:
    """Audit a run that has nothing left to do, and record its state.

    Args:
        spec: what was executed.
        receipts: of this plan's blocks, by (phase, block id).

    Returns:
        The exit code.

    Raises:
        GigasegError: a block has no receipt.
    """
    folder, before = spec.folder, spec.folder.read().get("state")
    missing = [block.id for block in spec.blocks if (block.phase, block.id) not in receipts]
    if missing:
        raise GigasegError(f"audit: {len(missing)} blocks have no receipt, the first is {missing[0]}; this is a fault of gigaseg")
    count_keys = spec.count_keys
    uncounted = [receipt for receipt in receipts.values() if receipt.truth_error and receipt.count_key == count_keys[receipt.image]]
    is_partial = uncounted or spec.plan["rejected"] or not all(receipt.ok for receipt in receipts.values())
    state = "partial" if is_partial else "done"
    _discard_temporary_files(spec, receipts)
    if state != before:
        # Numbers may differ from another run's of the same recipe where a backend had to change its batch.
        changes = sorted({note for receipt in receipts.values() for note in receipt.notes})
        folder.write(state=state, recipe_kept=not changes, recipe_changes=changes)
        folder.log(f"end: {state}")
    return EXIT_PARTIAL if is_partial else 0


def _discard_temporary_files(spec: RunSpec, receipts: Mapping[tuple[str, str], Receipt]) -> None:
    """Remove what an execution that was killed may have left; a retry of a failed block needs its image's files."""
    failed = {receipt.image for receipt in receipts.values() if not receipt.ok}
    temporary_files = spec.temporary_files
    for name, files in temporary_files.items():
        if name not in failed:
            files.discard()
