"""Compare the ledger with the output folder: before an execution, which receipts still hold; after it, whether any is missing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

from pipeline.engine import PART_FOLDER, part_folder, phase
from pipeline.errors import BlockError, GigasegError, StoreError
from pipeline.records import Block, Receipt
from pipeline.scheduling.block_queue import receipts_that_hold
from pipeline.scheduling.plan import RunSpec

__all__ = ["EXIT_PARTIAL", "conclude", "remove_outdated_arrays", "still_valid"]

EXIT_PARTIAL = 3
REREAD = 256  # last committed blocks whose pixels are compared with their digest: a power cut may have lost them

ROWS_A_TIME = 10_000  # receipts whose files are looked for together

Key = tuple[str, str]
"""(phase, block id)."""


def still_valid(spec: RunSpec, known: Mapping[Key, Receipt]) -> dict[Key, Receipt]:
    """Return the receipts of planned blocks whose files are there, and whose last pixels are those that were written."""
    planned = {(block.phase, block.id) for block in spec.blocks}
    outdated = "for other writers, or classes of other names or colours"
    again = [(row, outdated) for row in known.values() if row.written not in ("", spec.plan["written"])]
    kept = {key: row for key, row in known.items() if key in planned and row.written in ("", spec.plan["written"])}
    again += _lost(spec, kept.values())
    for row, _ in again:
        kept.pop((row.phase, row.block), None)
    last = set(_last_pixels(spec, kept))
    for block in spec.blocks if last else ():
        key = block.phase, block.id
        if key in last and not _is_intact(spec, block, kept[key]):
            again.append((kept.pop(key), "its pixels are not those that were written"))
    spec.folder.log(*(f"do again {row.phase} {row.block}: {why}" for row, why in again))
    for stages in spec.stages.values():
        readers = {stage.phase: phase(stage.phase).reads_parts_of(spec.job, stage.blocks[0].image) for stage in stages}
        held = receipts_that_hold(stages, kept) if any(readers.values()) else kept
        for stage in reversed(stages):
            # Temporary files are needed only if a block that reads them must be computed.
            left_by = readers[stage.phase]
            if left_by and any((block.phase, block.id) not in held for block in stage.blocks):
                makers = (block for other in stages if other.phase in left_by for block in other.blocks)
                rows = [held[key] for block in makers if (key := (block.phase, block.id)) in held]
                lost = list(_lost(spec, rows, temporary=True))
                for row, _ in lost:
                    del kept[row.phase, row.block], held[row.phase, row.block]
                spec.folder.log(*(f"do again {row.phase} {row.block}: {why}" for row, why in lost))
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


def _lost(spec: RunSpec, rows: Iterable[Receipt], *, temporary: bool = False) -> Iterator[tuple[Receipt, str]]:
    """Yield the receipts whose ``temporary`` or permanent files are not all there with their size, and why. A failure has no files."""
    rest = (row for row in rows if row.ok)
    while some := list(islice(rest, ROWS_A_TIME)):
        files = [{key: size for key, size in row.files.items() if key.startswith(f"{PART_FOLDER}/") == temporary} for row in some]
        sizes = spec.folder.storage.sizes([key for one in files for key in one])
        lost = (row for row, one in zip(some, files, strict=True) if any(sizes[key] != size for key, size in one.items()))
        yield from ((row, "its files are gone") for row in lost)


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
        folder.log(f"end: {state}", event="run ends", level="warning" if is_partial else "info", state=state)
    return EXIT_PARTIAL if is_partial else 0


def _remove_temporary_files(spec: RunSpec, failed: Collection[str]) -> None:
    """Remove what killed executions left, also those of other phases, except for ``failed`` images: a retry needs their files."""
    storage = spec.folder.storage
    for name, stages in spec.stages.items() if storage.has(PART_FOLDER) else ():  # a kill may leave empty folders
        if name not in failed:
            storage.delete_tree(part_folder(stages[0].blocks[0].image))
    storage.below(PART_FOLDER).remove_if_empty()
