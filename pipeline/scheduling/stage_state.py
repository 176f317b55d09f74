"""What is known of each block of a stage, in a few bytes a block: a run may have a million."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.engine import KeptMask, Reduction
from pipeline.records import Block, Blocks, Receipt
from pipeline.statistics import Summary, decode_summary, encode_summary

__all__ = ["DONE", "FAILED", "WAITING", "KnownStages", "Stage", "StageState", "hash_digests"]

WAITING, DONE, FAILED = range(3)
DIGEST = 32  # characters of the longest digest
PIECE = 1000  # blocks whose digests are hashed together


@dataclass(frozen=True)
class Stage:
    """One phase of one image: blocks that may run in any order.

    Attributes:
        blocks: their keys hold everything known before the run; findings of other phases are added when the stage begins.
        rests_on: earlier phases of this image whose digests are part of the key; None: the key is complete.
        reads: the earlier phases whose reduced results the blocks get, and which are part of the key.
        reduction: how the payloads of this stage's receipts are reduced; None: they are not.
    """

    phase: str
    blocks: Sequence[Block]
    rests_on: tuple[str, ...] | None = None
    reads: tuple[str, ...] = ()
    reduction: Reduction | None = None

    @property
    def area(self) -> int:
        """Pixels of all blocks."""
        return self.blocks.area if isinstance(self.blocks, Blocks) else sum(block.box.area for block in self.blocks)

    def finder(self) -> Callable[[str], int | None]:
        """Return what finds the place of a block among the blocks by its id; it returns None where there is none."""
        return self.blocks.index_of if isinstance(self.blocks, Blocks) else {block.id: at for at, block in enumerate(self.blocks)}.get


class StageState:
    """State, digest and key of the last receipt of each block of a stage, in 38 bytes a block, and the sum of their payloads.

    Attributes:
        states: WAITING, DONE or FAILED, a byte a block.
        has_files: whether the last receipt names files, a byte a block, also where it does not hold.
        lacks_parts: which temporary files of the last receipt are gone, a byte of flags a block; 0: none.
        totals: sums of the payloads by the key of the receipts, packed (:func:`pipeline.statistics.encode_summary`) or not.
    """

    __slots__ = ("_digests", "_keys", "_names", "find", "has_files", "lacks_parts", "stage", "states", "totals")

    def __init__(self, stage: Stage) -> None:
        number = len(stage.blocks)
        self.stage, self.find = stage, stage.finder()
        self.states, self.has_files, self.lacks_parts = bytearray(number), bytearray(number), bytearray(number)
        self._digests = bytearray(number * DIGEST)
        self._keys, self._names = array("I", bytes(4 * number)), list[str]()
        self.totals: dict[str, Summary | str] = {}

    def add(self, place: int, receipt: Receipt) -> None:
        """Take the receipt of a block over."""
        digest = receipt.digest.encode().ljust(DIGEST, b"\0")
        self._digests[place * DIGEST : place * DIGEST + DIGEST] = digest
        self.states[place] = DONE if receipt.ok else FAILED
        if receipt.key not in self._names:
            self._names.append(receipt.key)
        self._keys[place] = self._names.index(receipt.key)
        if receipt.ok and receipt.payload and (reduction := self.stage.reduction):
            total = self.totals.get(receipt.key)
            self.totals[receipt.key] = receipt.payload if total is None else reduction.merge(_unpacked(total), _unpacked(receipt.payload))

    def pack(self) -> None:
        """Pack the sums: a histogram takes 512 KiB, and thousands of images may have one."""
        self.totals = {key: total if isinstance(total, str) else encode_summary(total) for key, total in self.totals.items()}

    def drop(self, place: int) -> None:
        """Forget the receipt of a block, and of every block where a sum holds its share."""
        self.states[place] = WAITING
        if self.totals:
            self.drop_all()

    def drop_all(self) -> None:
        """Forget all receipts."""
        self.states[:] = bytes(len(self.states))
        self.totals = {}

    def keep(self, complete: Callable[[Block], Block]) -> bool:
        """Forget the receipts whose key is not that of the ``complete`` block; return whether every block has a receipt."""
        blocks = self.stage.blocks
        one_key = complete(blocks[0]).key if isinstance(blocks, Blocks) else None
        wanted = {one_key}
        for place, block in enumerate(blocks) if one_key is None else ():
            wanted.add(key := complete(block).key)
            if self.states[place] and self._names[self._keys[place]] != key:
                self.states[place] = WAITING
        if one_key is not None and self._names != [one_key]:
            for place, number in enumerate(self._keys):
                if self.states[place] and self._names[number] != one_key:
                    self.states[place] = WAITING
        self.totals = {key: total for key, total in self.totals.items() if key in wanted}
        return WAITING not in self.states

    def digest(self, place: int) -> str | None:
        """Return the digest of a block's receipt; None: it failed."""
        digest = self._digests[place * DIGEST : place * DIGEST + DIGEST]
        return None if self.states[place] == FAILED else digest.rstrip(b"\0").decode()

    @property
    def failed(self) -> Iterator[int]:
        """Places of the blocks that failed."""
        return (place for place, state in enumerate(self.states) if state == FAILED) if FAILED in self.states else iter(())

    @property
    def has_outdated_files(self) -> bool:
        """Whether a block that must be done has files of an earlier execution."""
        return any(has and not state for has, state in zip(self.has_files, self.states, strict=True))

    @property
    def reduced(self) -> dict[str, Any] | None:
        """The result of the reduction; None: there is none."""
        total: Summary | None = None
        if reduction := self.stage.reduction:
            for one in map(_unpacked, self.totals.values()):
                total = one if total is None else reduction.merge(total, one)
        return None if reduction is None or total is None else reduction.conclude(total)

    def hash(self) -> str:
        """Return one digest of all blocks' digests."""
        blocks = self.stage.blocks
        order = blocks.sorted_by_id() if isinstance(blocks, Blocks) else sorted(range(len(blocks)), key=lambda place: blocks[place].id)
        id_of = blocks.id_of if isinstance(blocks, Blocks) else lambda place: blocks[place].id
        return hash_digests((id_of(place), self.digest(place)) for place in order if self.states[place])


class KnownStages:
    """What the ledger holds of the blocks of a plan: the states of stages that have receipts, by (image, phase).

    Attributes:
        kept: the file that holds the mask of an image whose temporary blocks are gone and are needed, by image.
    """

    def __init__(self, images: Mapping[str, Sequence[Stage]]) -> None:
        self._stages = {(name, stage.phase): stage for name, stages in images.items() for stage in stages}
        self._finders: dict[tuple[str, str], Callable[[str], int | None]] = {}
        self._summed: StageState | None = None
        self.states: dict[tuple[str, str], StageState] = {}
        self.kept: dict[str, KeptMask] = {}

    def find(self, receipt: Receipt) -> tuple[StageState, int] | None:
        """Return the state of a receipt's stage and the place of its block; None where the plan has no such block."""
        key = receipt.image, receipt.phase
        state = self.states.get(key)
        if state is None and (stage := self._stages.get(key)):
            state = self.states[key] = StageState(stage)
        if state is not None and state.stage.reduction and state is not self._summed:
            if self._summed:
                self._summed.pack()
            self._summed = state
        place = None if state is None else state.find(receipt.block)
        return None if state is None or place is None else (state, place)

    def plans(self, receipt: Receipt) -> bool:
        """Whether the plan has the block of a receipt, which lies inside its image, in the receipt's phase."""
        key = receipt.image, receipt.phase
        stage = self._stages.get(key)
        if stage is None or (isinstance(stage.blocks, Blocks) and stage.blocks.chosen is None):
            return stage is not None
        if key not in self._finders:
            self._finders[key] = stage.finder()
        return self._finders[key](receipt.block) is not None

    def add(self, receipts: Iterable[Receipt]) -> KnownStages:
        """Take receipts over, one a block; return itself."""
        for receipt in receipts:
            if found := self.find(receipt):
                found[0].add(found[1], receipt)
        return self

    def of(self, image: str, stages: Iterable[Stage]) -> dict[str, StageState]:
        """Return the states of an image by phase."""
        return {one.phase: state for one in stages if (state := self.states.get((image, one.phase)))}


def _unpacked(total: Summary | str) -> Summary:
    return decode_summary(total) if isinstance(total, str) else total


def hash_digests(digests: Iterable[tuple[str, str | None]]) -> str:
    """Return one digest of (id, digest) pairs, which come in the order of the ids."""
    total, pairs = hashlib.blake2b(b"[", digest_size=16), iter(digests)
    between = b""
    while some := list(islice(pairs, PIECE)):
        total.update(between + ", ".join(map(repr, some)).encode())
        between = b", "
    total.update(b"]")
    return total.hexdigest()
