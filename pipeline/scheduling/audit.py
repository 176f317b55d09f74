"""Compare the ledger with the output folder: before an execution, which receipts still hold; after it, whether any is missing."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice

from pipeline.engine import MASK_STORE_NAME, PART_FOLDER, KeptMask, discard_parts, phase
from pipeline.errors import BlockError, GigasegError, StoreError
from pipeline.inputs import Image, hash_values
from pipeline.records import Block, CommittedReceipts, Receipt
from pipeline.scheduling.block_queue import keep_valid
from pipeline.scheduling.plan import RunSpec
from pipeline.scheduling.stage_state import WAITING, KnownStages, Stage, StageState
from pipeline.scheduling.tally import Tally

__all__ = ["EXIT_PARTIAL", "conclude", "outdated_files", "still_valid"]

EXIT_PARTIAL = 3
REREAD = 256  # last committed blocks whose pixels are compared with their digest: a power cut may have lost them

ROWS_A_TIME = 10_000  # receipts whose files are looked for together

PARTS, MASK = 1, 2  # flags: some temporary file of a block is gone, and it is one of the blocks of a mask
MASK_STORE = f"/{MASK_STORE_NAME}/0/c/"

Key = tuple[str, str]
"""(phase, block id)."""


def still_valid(spec: RunSpec, receipts: Iterable[Receipt]) -> KnownStages:
    """Return what is known of planned blocks whose files are there, and whose last pixels are those that were written.

    ``receipts`` hold one of each block, in the order of commit.
    """
    known, last, again = KnownStages(spec.stages), _LastPixels(spec), _Log(spec)
    kept: dict[str, str] = {}
    hashes: dict[str, str] = {}

    def written(image: Image) -> str:
        return hashes.get(image.name) or hashes.setdefault(image.name, hash_values(*spec.job.exports_of(image)))

    for receipt, state, place, missing in _with_missing_files(spec, known, receipts):
        if phase(receipt.phase).keeps_mask:
            kept[receipt.image] = receipt.payload
        if receipt.written and receipt.written != written(state.stage.blocks[0].image):
            again.tell(receipt, "for other writers, or classes of other names or colours")
        elif any(not _is_temporary(key) for key in missing):
            again.tell(receipt, "its files are gone")
        elif receipt.ok or not spec.forgets(receipt):
            state.add(place, receipt)
            state.lacks_parts[place] = PARTS * bool(missing) | MASK * any(MASK_STORE in key for key in missing)
            last.add(receipt)
    for receipt, (state, place) in ((one, found) for one in last.receipts() if (found := known.find(one))):
        if not _is_intact(spec, state.stage.blocks[place], receipt):
            again.tell(receipt, "its pixels are not those that were written")
            state.drop(place)
    again.flush()
    for name, stages in spec.stages.items():
        if holder := _drop_without_parts(spec, stages, known.of(name, stages), kept.get(name, "")):
            known.kept[name] = holder
    return known


def _with_missing_files(
    spec: RunSpec, known: KnownStages, receipts: Iterable[Receipt]
) -> Iterator[tuple[Receipt, StageState, int, list[str]]]:
    """Yield the receipts of planned blocks, where each belongs, and which of its files are not there with their size."""
    storage = spec.folder.storage
    has_parts = storage.has(PART_FOLDER)
    planned = ((receipt, *found) for receipt in receipts if (found := known.find(receipt)))
    while some := list(islice(planned, ROWS_A_TIME)):
        files = [key for receipt, _, _ in some if receipt.ok for key in receipt.files]  # a failure has none
        arrays = {array for key in files if has_parts and (array := _temporary_array(key))}
        gone = {array for array, size in storage.sizes(sorted(arrays)).items() if size is None}
        sizes = storage.sizes([key for key in files if (has_parts or not _is_temporary(key)) and _temporary_array(key) not in gone])
        for receipt, state, place in some:
            state.has_files[place] = bool(receipt.files)
            yield receipt, state, place, [key for key, size in receipt.files.items() if receipt.ok and sizes.get(key) != size]
        some.clear()  # before the next ones are read


def _is_temporary(key: str) -> bool:
    return key.startswith(f"{PART_FOLDER}/")


def _temporary_array(key: str) -> str:
    """Return the metadata of the temporary array that a shard belongs to, without which it is no pixels; empty for other files."""
    array, is_shard, _ = key.partition("/0/c/")
    return f"{array}/0/zarr.json" if is_shard and _is_temporary(key) else ""


class _Log:
    """Lines about blocks that are done again, many written at once."""

    def __init__(self, spec: RunSpec) -> None:
        self._folder, self._lines = spec.folder, list[str]()

    def tell(self, receipt: Receipt, why: str) -> None:
        """Add a line."""
        self._lines.append(f"do again {receipt.phase} {receipt.block}: {why}")
        if len(self._lines) >= ROWS_A_TIME:
            self.flush()

    def flush(self) -> None:
        """Write the lines."""
        self._folder.log(*self._lines)
        self._lines = []


class _LastPixels:
    """The last committed receipts whose pixels must be read again: none of an image that was finished, as finishing read them."""

    def __init__(self, spec: RunSpec) -> None:
        last = {name: stages[-1].phase for name, stages in spec.stages.items()}
        self._finishing = {name: one for name, one in last.items() if phase(one).is_per_image}
        self._finished: set[str] = set()
        self._number = 0
        self._of_image: dict[str, deque[tuple[int, Receipt]]] = {}

    def add(self, receipt: Receipt) -> None:
        """Take a receipt that holds, in the order of commit."""
        name = receipt.image
        self._number += 1
        if self._finishing.get(name) == receipt.phase:
            self._finished.add(name)
            self._of_image.pop(name, None)
        elif receipt.digest and name not in self._finished:
            self._of_image.setdefault(name, deque(maxlen=REREAD)).append((self._number, receipt))

    def receipts(self) -> list[Receipt]:
        """Return them."""
        rows = sorted((row for some in self._of_image.values() for row in some), key=lambda row: row[0])
        return [receipt for _, receipt in rows[-REREAD:]]


def _drop_without_parts(spec: RunSpec, stages: Sequence[Stage], known: Mapping[str, StageState], payload: str) -> KeptMask | None:
    """Drop the receipts of one image whose temporary files are gone, if a block that reads them must be computed.

    Those of a mask hold if a file of an earlier execution has the same pixels (``payload`` of the receipt that says so): it is returned.
    """
    if not any(any(state.lacks_parts) for state in known.values()):
        return None
    image, found = stages[0].blocks[0].image, None
    keep_valid(stages, known)
    for stage in reversed(stages):
        reader = known.get(stage.phase)
        if reader is not None and WAITING not in reader.states:
            continue
        for state in (known[maker] for maker in phase(stage.phase).needs_pixels_of(spec.job, image) if maker in known):
            kind = MASK if phase(stage.phase).keeps_mask else PARTS
            lost = [place for place, lacks in enumerate(state.lacks_parts) if lacks & kind and state.states[place]]
            if lost and kind == MASK:
                if found := _kept(spec, state, payload):
                    continue
                lost = [place for place, settled in enumerate(state.states) if settled]  # what is left of the array may be no array
            spec.folder.log(*(f"do again {state.stage.phase} {state.stage.blocks[place].id}: its files are gone" for place in lost))
            for place in lost:
                state.drop(place)
    return found


def _kept(spec: RunSpec, state: StageState, payload: str) -> KeptMask | None:
    """Return the file that holds the pixels of every block of a stage; None if there is none, or it holds others."""
    kept = KeptMask(**json.loads(payload)) if payload else None
    if kept is None or WAITING in state.states or state.hash() != kept.digest:
        return None
    storage = spec.folder.storage
    if storage.size(kept.key) == kept.size:
        return kept
    shards = [key for key in storage.list(f"{kept.key}/0/c/") if storage.size(key)]
    return kept if storage.size(f"{kept.key}/zarr.json") == kept.size and len(shards) == len(state.states) else None


def outdated_files(spec: RunSpec, known: KnownStages, committed: CommittedReceipts) -> dict[Key, list[str]]:
    """Return the files that an earlier execution wrote of blocks that are done again, by (phase, block id).

    The arrays of stages that are done again as a whole are removed: what is there may have another shape, or be of another mask.
    """
    removed: set[str] = set()
    for state in (one for one in known.states.values() if any(one.has_files) and not any(one.states)):
        for array in phase(state.stage.phase).arrays(spec.job, state.stage.blocks[0].image):
            spec.folder.storage.delete_tree(array)
            spec.folder.storage.delete(array)  # if it is a file, not a folder
            removed.add(array)
    outdated: dict[Key, list[str]] = {}
    is_any = any(state.has_outdated_files for state in known.states.values())
    for receipt in committed.last if is_any else ():
        if (found := known.find(receipt)) and found[0].states[found[1]] == WAITING:
            spared = {*removed, known.kept[receipt.image].key} if receipt.image in known.kept else removed
            files = [key for key in receipt.files if spared.isdisjoint(accumulate(key.split("/"), "{}/{}".format))]
            if files:
                outdated[receipt.phase, receipt.block] = files
    return outdated


def _is_intact(spec: RunSpec, block: Block, receipt: Receipt) -> bool:
    try:
        stored = phase(block.phase).stored_digest(spec.job, block, receipt)
    except (StoreError, BlockError):
        return False
    return stored in (None, receipt.digest)


def conclude(spec: RunSpec, done: Tally) -> int:
    """Audit a run that has nothing left to do, remove temporary files, record the state, and return the exit code.

    Raises:
        GigasegError: a block has no receipt.
    """
    folder, before = spec.folder, spec.folder.read().get("state")
    missing = {(name, one.phase): len(one.blocks) - done.settled[one.phase, name] for name, stages in spec.stages.items() for one in stages}
    if any(missing.values()):
        name, first = next(key for key, number in missing.items() if number)
        told = f"audit: {sum(missing.values())} blocks have no receipt, the first are of {first} {name}"
        raise GigasegError(f"{told}; this is a fault of gigaseg")
    count_keys, troubled = spec.count_keys, done.troubled.values()
    failed = {receipt.image for receipt in troubled if not receipt.ok}
    is_uncounted = any(receipt.truth_error and receipt.count_key == count_keys[receipt.image] for receipt in troubled)
    is_partial = bool(failed or is_uncounted or spec.plan["rejected"])
    state = "partial" if is_partial else "done"
    _remove_temporary_files(spec, failed)
    if state != before:
        # Numbers may differ from another run's of the same recipe where a backend had to change its batch.
        changes = sorted({note for receipt in troubled for note in receipt.notes})
        folder.write(state=state, recipe_kept=not changes, recipe_changes=changes)
        folder.log(f"end: {state}", event="run ends", level="warning" if is_partial else "info", state=state)
    return EXIT_PARTIAL if is_partial else 0


def _remove_temporary_files(spec: RunSpec, failed: Collection[str]) -> None:
    """Remove what killed executions left, also those of other phases, except for ``failed`` images: a retry needs their files."""
    storage = spec.folder.storage
    for name, stages in spec.stages.items() if storage.has(PART_FOLDER) else ():  # a kill may leave empty folders
        if name not in failed:
            discard_parts(storage, stages[0].blocks[0].image)
    storage.below(PART_FOLDER).remove_if_empty()
