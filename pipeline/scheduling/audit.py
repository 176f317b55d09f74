"""Compare the ledger with the output folder: before an execution, which receipts still hold; after it, whether any is missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pipeline.engine import PART_FOLDER, part_folder, phase
from pipeline.errors import BlockError, GigasegError, StoreError
from pipeline.records import Block, Receipt
from pipeline.scheduling.block_queue import receipts_that_hold
from pipeline.scheduling.plan import RunSpec

__all__ = ["EXIT_PARTIAL", "conclude", "remove_outdated_arrays", "still_valid"]

EXIT_PARTIAL = 3
REREAD = 256  # last committed blocks whose pixels are compared with their digest: a power cut may have lost them

Key = tuple[str, str]
"""(phase, block id)."""


def still_valid(spec: RunSpec, known: Mapping[Key, Receipt]) -> dict[Key, Receipt]:
    """Return the receipts of planned blocks whose files are there, and whose last pixels are those that were written."""
    blocks = {(block.phase, block.id): block for block in spec.blocks}
    kept = {key: receipt for key, receipt in known.items() if key in blocks and _is_there(spec, receipt)}
    for key in _last_pixels(spec, kept):
        if not _is_intact(spec, blocks[key], kept[key]):
            spec.folder.log(f"do again {key[0]} {key[1]}: its pixels are not those that were written")
            del kept[key]
    for stages in spec.stages.values():
        readers = {stage.phase: phase(stage.phase).reads_parts_of(spec.job, stage.blocks[0].image) for stage in stages}
        held = receipts_that_hold(stages, kept) if any(readers.values()) else kept
        for stage in reversed(stages):
            # Temporary files are needed only if a block that reads them must be computed.
            left_by = readers[stage.phase]
            if left_by and any((block.phase, block.id) not in held for block in stage.blocks):
                makers = (block for other in stages if other.phase in left_by for block in other.blocks)
                for key in ((block.phase, block.id) for block in makers):
                    if key in held and not _is_there(spec, held[key], temporary=True):
                        del kept[key], held[key]
    return kept


def remove_outdated_arrays(spec: RunSpec, waiting: Collection[Key], outdated: Mapping[Key, Mapping[str, int]]) -> None:
    """Remove the arrays of phases whose blocks are all ``waiting``: what is there may have another shape, or be of another mask.

    ``outdated`` are the files that an earlier execution wrote of such blocks.
    """
    if not outdated:
        return
    for stages in spec.stages.values():
        for stage in stages:
            keys = [(block.phase, block.id) for block in stage.blocks]
            if any(key in outdated for key in keys) and all(key in waiting for key in keys):
                for array in phase(stage.phase).arrays(spec.job, stage.blocks[0].image):
                    spec.folder.storage.delete_tree(array)
                    spec.folder.storage.delete(array)  # if it is a file, not a folder


def _last_pixels(spec: RunSpec, kept: Mapping[Key, Receipt]) -> list[Key]:
    """Return the last committed blocks whose pixels must be read again: none of an image that was finished, as finishing read them."""
    last = {name: stages[-1] for name, stages in spec.stages.items()}
    finished = {name for name, stage in last.items() if phase(stage.phase).is_per_image and (stage.phase, stage.blocks[0].id) in kept}
    return [key for key, row in kept.items() if row.digest and row.image not in finished][-REREAD:]


def _is_there(spec: RunSpec, receipt: Receipt, *, temporary: bool = False) -> bool:
    """Whether the files of a receipt, either the ``temporary`` or the permanent ones, exist with their size and are what is asked for now.

    A failure has no files.
    """
    if receipt.written not in ("", spec.plan["written"]):
        spec.folder.log(f"do again {receipt.phase} {receipt.block}: for other writers, or classes of other names or colours")
        return False
    files = {key: size for key, size in receipt.files.items() if key.startswith(f"{PART_FOLDER}/") == temporary}
    if not receipt.ok or all(spec.folder.storage.size(key) == size for key, size in files.items()):
        return True
    spec.folder.log(f"do again {receipt.phase} {receipt.block}: its files are gone")
    return False


def _is_intact(spec: RunSpec, block: Block, receipt: Receipt) -> bool:
    try:
        stored = phase(block.phase).stored_digest(spec.job, block, receipt)
    except (StoreError, BlockError):
        return False
    return stored in (None, receipt.digest)


def conclude(spec: RunSpec, receipts: Mapping[Key, Receipt]) -> int:
    """Audit a run that has nothing left to do, remove temporary files, record the state, and return the exit code.

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
    _remove_temporary_files(spec, {receipt.image for receipt in receipts.values() if not receipt.ok})
    if state != before:
        # Numbers may differ from another run's of the same recipe where a backend had to change its batch.
        changes = sorted({note for receipt in receipts.values() for note in receipt.notes})
        folder.write(state=state, recipe_kept=not changes, recipe_changes=changes)
        folder.log(f"end: {state}")
    return EXIT_PARTIAL if is_partial else 0


def _remove_temporary_files(spec: RunSpec, failed: Collection[str]) -> None:
    """Remove what killed executions left, also those of other phases, except for ``failed`` images: a retry needs their files."""
    storage = spec.folder.storage
    for name, stages in spec.stages.items() if storage.has(PART_FOLDER) else ():  # a kill may leave empty folders
        if name not in failed:
            storage.delete_tree(part_folder(stages[0].blocks[0].image))
    storage.below(PART_FOLDER).remove_if_empty()
