"""What is to be done next: blocks go out, receipts come in, and each image moves from phase to phase.

A phase of an image begins when the one before it is settled. There is no clock, no process and no pixel here: the same queue
drives the serial runner and Ray, and a resumed run replays its ledger into it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pipeline.inputs import Image, hash_values
from pipeline.records import Block, Receipt
from pipeline.scheduling.stage_state import DONE, FAILED, WAITING, KnownStages, Stage, StageState, hash_digests

__all__ = ["BlockQueue", "Position", "keep_valid"]


class Position(NamedTuple):
    """Where an image stands: its phase, and how many of the blocks of that phase are settled."""

    phase: str
    settled: int
    blocks: int


@dataclass
class _Outcome:
    """What a settled stage left: a digest of all its blocks' digests, and the ids of those that failed."""

    digest: str
    lost: tuple[str, ...]


@dataclass
class _ImageProgress:
    """Where one image stands: stages to begin, the stage that goes on, and what settled stages left, by phase."""

    stages: deque[Stage]
    known: dict[str, StageState] = field(default_factory=dict)  # of stages that have not begun, by phase: receipts that hold
    state: StageState | None = None  # of the stage that goes on
    num_waiting: int = 0  # blocks of the stage that have no receipt yet
    outcomes: dict[str, _Outcome] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)


class BlockQueue:
    """The queue of a run: the stages of each image, by name, in the plan's order."""

    def __init__(self, images: Mapping[str, Sequence[Stage]]) -> None:
        self._images = {name: _ImageProgress(deque(stages)) for name, stages in images.items()}
        self._ready = _Ready()
        self._alone: deque[Block] = deque()
        self.total_blocks = sum(len(stage.blocks) for stages in images.values() for stage in stages)
        self.num_images, self.num_settled = len(images), 0
        self.failed: set[str] = set()  # ids of blocks, in whatever phase
        self._unfinished = len(self._images)

    def begin(self, known: KnownStages | None = None) -> None:
        """Start every image, taking over the receipts that hold (:func:`keep_valid`); the others are dropped from ``known``."""
        for name, progress in self._images.items():
            progress.known = known.of(name, progress.stages) if known else {}
            keep_valid(progress.stages, progress.known)
            self.num_settled += sum(len(state.states) - state.states.count(WAITING) for state in progress.known.values())
        for name in self._images:
            self._advance(name, last=True)

    @property
    def is_finished(self) -> bool:
        """Whether every block has a receipt."""
        return self._unfinished == 0

    def is_image_finished(self, image: str) -> bool:
        """Whether every block of an image has a receipt."""
        progress = self._images[image]
        return not progress.stages and not progress.num_waiting

    def position(self, image: str) -> Position | None:
        """Return where an image stands; None: every block of it has a receipt. Another thread than the driver's may ask."""
        progress = self._images[image]
        state = progress.state
        if state is None:
            return None
        return Position(state.stage.phase, len(state.states) - progress.num_waiting, len(state.states))

    @property
    def begun(self) -> set[str]:
        """Names of the images of which a block has a receipt."""
        some = self._images.items()
        return {name for name, one in some if one.outcomes or (one.state is not None and one.num_waiting < len(one.state.states))}

    def has_failed(self, image: str) -> bool:
        """Whether a block of an image is quarantined, in a stage that is settled or goes on."""
        progress = self._images[image]
        is_open_failed = progress.state is not None and FAILED in progress.state.states
        return is_open_failed or any(outcome.lost for outcome in progress.outcomes.values())

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

    def state_of(self, block: Block) -> int:
        """Return WAITING, DONE or FAILED for a block, of whatever stage."""
        progress = self._images[block.image.name]
        if outcome := progress.outcomes.get(block.phase):
            return FAILED if block.id in self.failed and block.id in outcome.lost else DONE
        state = progress.known.get(block.phase)
        if progress.state is not None and progress.state.stage.phase == block.phase:
            state = progress.state
        place = None if state is None else state.find(block.id)
        return WAITING if state is None or place is None else state.states[place]

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
            if progress.state is not None:
                yield progress.state.stage.blocks[0].image
            elif progress.stages:
                yield progress.stages[0].blocks[0].image

    def awaits(self, one: Block | Receipt) -> bool:
        """Whether a block that was leased, or that a receipt is of, has no receipt yet."""
        image, block_id = (one.image, one.block) if isinstance(one, Receipt) else (one.image.name, one.id)
        return self._find(image, one.phase, block_id) is not None

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
        found = self._find(receipt.image, receipt.phase, receipt.block)
        if found is None:
            return  # the same block done twice: the first receipt was booked
        state, place = found
        state.add(place, receipt)
        self.num_settled += 1
        if not receipt.ok:
            self.failed.add(receipt.block)
        progress = self._images[receipt.image]
        progress.num_waiting -= 1
        if not progress.num_waiting:
            self._advance(receipt.image)

    def _find(self, image: str, phase: str, block_id: str) -> tuple[StageState, int] | None:
        """Return the state of the open stage of an image, and the place of a block there; None where it does not wait for this block."""
        state = self._images[image].state
        if state is None or state.stage.phase != phase:
            return None
        place = state.find(block_id)
        return None if place is None or state.states[place] else (state, place)

    def _advance(self, name: str, *, last: bool = False) -> None:
        """Begin the stages of an image until one has work left."""
        progress = self._images[name]
        while not progress.num_waiting:
            _conclude(progress)
            if not progress.stages:
                self._unfinished -= 1
                return
            # An image that has begun is ended before the next one begins: its files stay open and its state small.
            blocks = self._open(progress, progress.stages.popleft())
            self._ready.put(blocks, progress.num_waiting, first=not last)

    def _open(self, progress: _ImageProgress, stage: Stage) -> Iterator[Block]:
        """Begin a stage; return its blocks that are not known to be settled, which are made when they are taken."""
        progress.state = state = progress.known.pop(stage.phase, None) or StageState(stage)
        self.failed.update(stage.blocks[place].id for place in state.failed)
        progress.num_waiting = state.states.count(WAITING)
        complete, states = _completion(stage, progress), state.states
        return (complete(block) for place, block in enumerate(stage.blocks) if not states[place])


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


def keep_valid(stages: Iterable[Stage], known: Mapping[str, StageState]) -> None:
    """Drop the receipts of one image, by phase, that do not hold: their key is no longer the block's.

    If a phase has work left, no receipt of the phases that depend on it holds.
    """
    progress, open_phases = _ImageProgress(deque()), set[str]()
    for stage in stages:
        state = known.get(stage.phase)
        is_certain = open_phases.isdisjoint([*(stage.rests_on or ()), *stage.reads])
        if state is not None and not is_certain:
            state.drop_all()
        if state is None or not is_certain or not state.keep(_completion(stage, progress)):
            open_phases.add(stage.phase)
        else:
            progress.state = state
            _conclude(progress)


def _conclude(progress: _ImageProgress) -> None:
    """Keep what the stage that is settled leaves for later ones."""
    if (state := progress.state) is None:
        return
    lost = tuple(sorted(state.stage.blocks[place].id for place in state.failed))
    progress.outcomes[state.stage.phase] = _Outcome(state.hash(), lost)
    if (result := state.reduced) is not None:
        progress.results[state.stage.phase] = result
    progress.state = None


def _completion(stage: Stage, progress: _ImageProgress) -> Callable[[Block], Block]:
    """Return what gives a block of the stage the result that it reads, and makes all that it depends on part of its key."""
    fit: dict[str, Any] | None = None
    lost: tuple[str, ...] = ()
    digest, found = "", None
    if stage.rests_on is not None:
        outcomes = [progress.outcomes[phase] for phase in stage.rests_on]
        digest = (
            outcomes[0].digest
            if len(outcomes) == 1
            else hash_digests((phase, progress.outcomes[phase].digest) for phase in sorted(stage.rests_on))
        )
        lost = tuple(sorted({block_id for outcome in outcomes for block_id in outcome.lost}))
        fit = {key: value for phase in stage.reads for key, value in progress.results.get(phase, {}).items()}
        found = [fit, digest] if stage.reads else digest
    keys: dict[str, str] = {}  # nearly always one for all blocks, made once

    def complete(block: Block) -> Block:
        key = keys.get(block.key) or keys.setdefault(block.key, hash_values(block.key, block.phase, found))
        return replace(block, key=key) if fit is None else replace(block, key=key, fit=fit, lost=lost, rests_on=digest)

    return complete
