"""What of an earlier execution still holds: receipts whose files and pixels are there, and arrays that must go."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pipeline.engine import phase
from pipeline.errors import BlockError, StoreError
from pipeline.records import Block, Receipt
from pipeline.scheduling.run_spec import RunSpec

__all__ = ["remove_outdated_arrays", "still_valid"]

REREAD = 256  # last committed blocks whose pixels are compared with their digest: a power cut may have lost them

Key = tuple[str, str]
"""(phase, block id)."""


def still_valid(spec: RunSpec, known: Mapping[Key, Receipt]) -> dict[Key, Receipt]:
    """Return the receipts of planned blocks whose files are there, and whose last pixels are those that were written.

    Args:
        spec: what is executed.
        known: receipts that the ledger holds.
    """
    blocks = {(block.phase, block.id): block for block in spec.blocks}
    kept = {key: receipt for key, receipt in known.items() if key in blocks}
    temporary = {key for key in kept if phase(key[0]).temporary_files(spec.job, blocks[key].image)}
    kept = {key: receipt for key, receipt in kept.items() if key in temporary or _is_there(spec, receipt)}
    for key in _last_pixels(kept, temporary):
        if not _is_intact(spec, blocks[key], kept[key]):
            spec.folder.log(f"do again {key[0]} {key[1]}: its pixels are not those that were written")
            del kept[key]
    # Temporary files are needed only where a block that is made from them is missing.
    prepared = {phase(name).prepares for name, _ in temporary}
    needed = {block.image.name for key, block in blocks.items() if key not in kept and key[0] in prepared}
    needed |= {name for name, files in spec.temporary_files.items() if files.exist}  # the image was not finished
    return {key: row for key, row in kept.items() if key not in temporary or row.image not in needed or _is_there(spec, row)}


def remove_outdated_arrays(spec: RunSpec, waiting: Collection[Key], outdated: Mapping[Key, Mapping[str, int]]) -> None:
    """Remove the arrays of images that are begun anew: what is there may have another shape.

    Args:
        spec: what is executed.
        waiting: blocks that are to be done.
        outdated: files that an earlier execution wrote of these, by (phase, block id).
    """
    if not outdated:
        return
    for stages in spec.stages.values():
        for stage in stages:
            keys = [(block.phase, block.id) for block in stage.blocks]
            if any(key in outdated for key in keys) and all(key in waiting for key in keys):
                for array in phase(stage.phase).arrays(spec.job, stage.blocks[0].image):
                    spec.folder.storage.delete_tree(array)


def _last_pixels(kept: Mapping[Key, Receipt], temporary: Collection[Key]) -> list[Key]:
    """Return the last committed blocks whose pixels must be read again: none of an image that was finished, as finishing read them."""
    finished = {receipt.image for (name, _), receipt in kept.items() if phase(name).is_per_image and receipt.ok}
    return [key for key, row in kept.items() if row.digest and key not in temporary and row.image not in finished][-REREAD:]


def _is_there(spec: RunSpec, receipt: Receipt) -> bool:
    """Whether all files of a receipt are there with their size, and are what is asked for now; a failure has no files."""
    if receipt.written not in ("", spec.plan["written"]):
        spec.folder.log(f"do again {receipt.phase} {receipt.block}: for other writers, or classes of other names or colours")
        return False
    if not receipt.ok or all(spec.folder.storage.size(key) == size for key, size in receipt.files.items()):
        return True
    spec.folder.log(f"do again {receipt.phase} {receipt.block}: its files are gone")
    return False


def _is_intact(spec: RunSpec, block: Block, receipt: Receipt) -> bool:
    """Whether the stored pixels of a block are those that its receipt describes."""
    try:
        stored = phase(block.phase).stored_digest(spec.job, block, receipt)
    except (StoreError, BlockError):
        return False
    return stored in (None, receipt.digest)
