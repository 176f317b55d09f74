"""What is to be done next: blocks go out, receipts come in, and each image moves from phase to phase.

A phase of an image begins when the one before it is settled. There is no clock, no process and no pixel here: the same queue
drives the serial runner and Ray, and a resumed run replays its ledger into it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.engine import Reduction
from pipeline.inputs import Image, hash_values
from pipeline.records import Block, Receipt
from pipeline.statistics import Summary, decode_summary

__all__ = ["BlockQueue", "Stage", "receipts_that_hold"]


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


@dataclass
class _Outcome:
    """What a settled stage left: a digest of all its blocks' digests, and the ids of those that failed."""

    digest: str
    lost: tuple[str, ...]


@dataclass
class _ImageProgress:
    """Where one image stands: stages to begin, the stage that goes on, and what settled stages left, by phase."""

    stages: deque[Stage]
    stage: Stage | None = None
    waiting: set[str] = field(default_factory=set)  # ids of the stage's blocks that have no receipt yet
    digests: dict[str, str | None] = field(default_factory=dict)  # of the stage's receipts, by block id; None: failed
    total: Summary | None = None  # of the stage's payloads so far
    outcomes: dict[str, _Outcome] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)


class BlockQueue:
    """The queue of a run: the stages of each image, by name, in the plan's order."""

    def __init__(self, images: Mapping[str, Sequence[Stage]]) -> None:
        self._images = {name: _ImageProgress(deque(stages)) for name, stages in images.items()}
        self._ready = _Ready()
        self._alone: deque[Block] = deque()
        self._known: dict[tuple[str, str], Receipt] = {}  # receipts that hold, of stages that have not begun
        self.total_blocks = sum(len(stage.blocks) for stages in images.values() for stage in stages)
        self._num_booked = 0
        self.failed: set[str] = set()  # ids of blocks, in whatever phase
        self._unfinished = len(self._images)

    def begin(self, known: Mapping[tuple[str, str], Receipt]) -> None:
        """Start every image, taking over the receipts, by (phase, block id), that hold (:func:`receipts_that_hold`)."""
        for progress in self._images.values():
            self._known |= receipts_that_hold(progress.stages, known)
        for name in self._images:
            self._advance(name, last=True)

    @property
    def is_finished(self) -> bool:
        """Whether every block has a receipt."""
        return self._unfinished == 0

    def is_image_finished(self, image: str) -> bool:
        """Whether every block of an image has a receipt."""
        progress = self._images[image]
        return not progress.stages and not progress.waiting

    def has_failed(self, image: str) -> bool:
        """Whether a block of an image is quarantined, in a stage that is settled or goes on."""
        progress = self._images[image]
        return None in progress.digests.values() or any(outcome.lost for outcome in progress.outcomes.values())

    def lease(self, pixels: int, blocks: int) -> list[Block]:
        """Take the next blocks, across images: at least one if any is ready, no more than these pixels or blocks.

        Blocks that may have killed their process are not among them (:meth:`suspect`).
        """
        taken: list[Block] = []
        size = 0
        while len(taken) < blocks and (block := self._ready.take(pixels - size if taken else None)):
            size += block.box.area
            taken.append(block)
        return taken

    def suspect(self) -> Block | None:
        """Take a block that must run alone, if there is one."""
        return self._alone.popleft() if self._alone else None

    @property
    def waiting(self) -> set[tuple[str, str]]:
        """(phase, id) of every block that has no receipt yet."""
        later = {(b.phase, b.id) for progress in self._images.values() for stage in progress.stages for b in stage.blocks}
        now = {(one.stage.phase, block) for one in self._images.values() if one.stage is not None for block in one.waiting}
        return (later - self._known.keys()) | now

    @property
    def num_settled(self) -> int:
        """Number of blocks that have a receipt."""
        return self._num_booked + len(self._known)

    @property
    def num_ready(self) -> int:
        """Blocks that may be leased now."""
        return len(self._ready)

    @property
    def has_suspects(self) -> bool:
        """Whether a block waits to run alone."""
        return bool(self._alone)

    @property
    def images(self) -> Iterator[Image]:
        """Every image that has blocks without a receipt."""
        for progress in self._images.values():
            stage = progress.stages[0] if progress.stage is None and progress.stages else progress.stage
            if stage is not None:
                yield stage.blocks[0].image

    def awaits(self, one: Block | Receipt) -> bool:
        """Whether a block that was leased, or that a receipt is of, has no receipt yet."""
        image, block = (one.image, one.block) if isinstance(one, Receipt) else (one.image.name, one.id)
        progress = self._images[image]
        return progress.stage is not None and progress.stage.phase == one.phase and block in progress.waiting

    def give_back(self, blocks: Sequence[Block], *, alone: bool = False) -> None:
        """Return blocks that were taken and not done, in the order they were taken.

        Where one of them may have ended its process, each must now run ``alone``.
        """
        if alone:
            self._alone.extendleft(reversed(blocks))
        else:
            self._ready.put(blocks, len(blocks), first=True)

    def settle(self, receipt: Receipt) -> None:
        """Book a receipt; the last one of a stage begins the next stage."""
        if not self.awaits(receipt):
            return  # the same block done twice: the first receipt was booked
        progress = self._images[receipt.image]
        self._book(progress, receipt)
        if not progress.waiting:
            self._advance(receipt.image)

    def _book(self, progress: _ImageProgress, receipt: Receipt) -> None:
        progress.waiting.discard(receipt.block)
        self._num_booked += 1
        if not receipt.ok:
            self.failed.add(receipt.block)
        _add(progress, receipt)

    def _advance(self, name: str, *, last: bool = False) -> None:
        """Begin the stages of an image until one has work left."""
        progress = self._images[name]
        while not progress.waiting:
            _conclude(progress)
            if not progress.stages:
                self._unfinished -= 1
                return
            # An image that has begun is ended before the next one begins: its files stay open and its state small.
            blocks = self._open(progress, progress.stages.popleft())
            self._ready.put(blocks, len(progress.waiting), first=not last)

    def _open(self, progress: _ImageProgress, stage: Stage) -> Iterator[Block]:
        """Begin a stage; return its blocks that are not known to be settled, which are made when they are taken."""
        progress.stage = stage
        progress.waiting = {block.id for block in stage.blocks}
        for block_id in [block.id for block in stage.blocks] if self._known else ():
            receipt = self._known.pop((stage.phase, block_id), None)
            if receipt is not None:
                self._book(progress, receipt)
        complete, waiting = _completion(stage, progress), progress.waiting
        return (complete(block) for block in stage.blocks if block.id in waiting)


class _Ready:
    """Blocks in the order in which they go out; those of a stage that has just begun are not made before they are taken."""

    def __init__(self) -> None:
        self._sources: deque[Iterator[Block]] = deque()
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def put(self, blocks: Iterable[Block], number: int, *, first: bool) -> None:
        """Put so many blocks before all others, or behind them."""
        if number:
            (self._sources.appendleft if first else self._sources.append)(iter(blocks))
            self._number += number

    def take(self, pixels: int | None) -> Block | None:
        """Take the next block; None where there is none, or where it is larger than so many pixels."""
        while self._sources:
            block = next(self._sources[0], None)
            if block is None:
                self._sources.popleft()
            elif pixels is not None and block.box.area > pixels:
                self._sources.appendleft(iter((block,)))
                return None
            else:
                self._number -= 1
                return block
        self._number = 0  # a block that was settled before it was taken is not given out
        return None


def receipts_that_hold(stages: Sequence[Stage], known: Mapping[tuple[str, str], Receipt]) -> dict[tuple[str, str], Receipt]:
    """Return the receipts of one image, by (phase, block id), that hold: their key is still the block's.

    If a phase has work left, no receipt of the phases that depend on it holds.
    """
    progress, held, open_phases = _ImageProgress(deque()), dict[tuple[str, str], Receipt](), set[str]()
    for stage in stages:
        progress.stage = stage
        is_certain = open_phases.isdisjoint([*(stage.rests_on or ()), *stage.reads])
        complete = _completion(stage, progress) if is_certain else None
        for block in stage.blocks if complete else ():
            key = stage.phase, block.id
            receipt = known.get(key)
            if receipt is None or (complete and receipt.key != complete(block).key):
                is_certain = False
            else:
                held[key] = receipt
                _add(progress, receipt)
        if not is_certain:
            open_phases.add(stage.phase)
        _conclude(progress)
    return held


def _add(progress: _ImageProgress, receipt: Receipt) -> None:
    """Add a block's receipt to the digests and the reduction of its stage."""
    progress.digests[receipt.block] = receipt.digest if receipt.ok else None
    if receipt.ok and receipt.payload and progress.stage and (reduction := progress.stage.reduction):
        summary = decode_summary(receipt.payload)
        progress.total = summary if progress.total is None else reduction.merge(progress.total, summary)


def _conclude(progress: _ImageProgress) -> None:
    """Keep what the stage that is settled leaves for later ones."""
    if (stage := progress.stage) is None:
        return
    lost = tuple(sorted(block for block, digest in progress.digests.items() if digest is None))
    progress.outcomes[stage.phase] = _Outcome(_hash(progress.digests), lost)
    if stage.reduction and progress.total is not None:
        progress.results[stage.phase] = stage.reduction.conclude(progress.total)
    progress.stage, progress.digests, progress.total = None, {}, None


def _completion(stage: Stage, progress: _ImageProgress) -> Callable[[Block], Block]:
    """Return what gives a block of the stage the result that it reads, and makes all that it depends on part of its key."""
    fit: dict[str, Any] | None = None
    lost: tuple[str, ...] = ()
    found: Any = None
    if stage.rests_on is not None:
        outcomes = [progress.outcomes[phase] for phase in stage.rests_on]
        digest = outcomes[0].digest if len(outcomes) == 1 else _hash({phase: progress.outcomes[phase].digest for phase in stage.rests_on})
        lost = tuple(sorted({block_id for outcome in outcomes for block_id in outcome.lost}))
        fit = {key: value for phase in stage.reads for key, value in progress.results.get(phase, {}).items()}
        found = [fit, digest] if stage.reads else digest
    keys: dict[str, str] = {}  # nearly always one for all blocks, made once

    def complete(block: Block) -> Block:
        key = keys.get(block.key) or keys.setdefault(block.key, hash_values(block.key, block.phase, found))
        return replace(block, key=key) if fit is None else replace(block, key=key, fit=fit, lost=lost)

    return complete


def _hash(digests: Mapping[str, str | None]) -> str:
    """Return one digest of all, whatever their order."""
    return hashlib.blake2b(repr(sorted(digests.items())).encode(), digest_size=16).hexdigest()
