"""What is to be done next: blocks go out, receipts come in, and each image moves from phase to phase.

``fit`` (all blocks of an image) -> ``score`` -> ``predict`` -> ``finish`` (once). No clock, no process, no
pixel: the same schedule drives the serial runner and Ray, and a resumed run replays the ledger into it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.records import Block, Receipt
from pipeline.statistics import Summary, decode

__all__ = ["BlockQueue", "ImageProgress", "Stage"]


@dataclass(frozen=True)
class Stage:
    """One phase of one image: blocks that may run in any order.

    Attributes:
        phase: as the blocks'.
        blocks: without their fit, which is known only when the stage begins.
    """

    phase: str
    blocks: Sequence[Block]


@dataclass
class ImageProgress:
    """Where one image stands.

    Attributes:
        stages: phases still to begin.
        waiting: (phase, id) of the current stage's blocks that have no receipt yet.
        fit: what the fit phase found.
        digests: of the current stage's receipts, by block id; None for those that failed.
    """

    stages: deque[Stage]
    waiting: set[tuple[str, str]] = field(default_factory=set)
    summary: Summary | None = None
    fit: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str | None] = field(default_factory=dict)


class BlockQueue:
    """The queue of a run.

    Args:
        images: the stages of each image, by name, in the plan's order.
        merge: adds two fit summaries.
        conclude: turns the sum over an image into its fit.
        rekey: gives a block its fit and its key, once what it depends on is known: the fit of its image,
            and what the stage before has left.
    """

    def __init__(
        self,
        images: Mapping[str, Sequence[Stage]],
        merge: Callable[[Summary, Summary], Summary],
        conclude: Callable[[Summary], dict[str, Any]],
        rekey: Callable[[Block, Mapping[str, Any], str], Block] = lambda block, fit, _: replace(block, fit=fit),
    ) -> None:
        self._merge, self._conclude, self._rekey = merge, conclude, rekey
        self._images = {name: ImageProgress(deque(stages)) for name, stages in images.items()}
        self._ready: deque[Block] = deque()
        self._alone: deque[Block] = deque()
        self._known: dict[tuple[str, str], Receipt] = {}
        self.total_blocks = sum(len(stage.blocks) for stages in images.values() for stage in stages)
        self.num_settled = 0
        self.failed: set[str] = set()  # ids of blocks, in whatever phase
        self._unfinished = len(self._images)

    def begin(self, known: Mapping[tuple[str, str], Receipt]) -> None:
        """Start every image, taking over what an earlier execution has committed.

        Args:
            known: receipts by (phase, block id); one counts only if its key is still the block's.
        """
        self._known = dict(known)
        for name in self._images:
            self._advance(name, last=True)
        self._known = {}

    @property
    def is_finished(self) -> bool:
        """Whether every block has a receipt."""
        return self._unfinished == 0

    def fit_of(self, image: str) -> Mapping[str, Any]:
        """What the fit phase found for an image; empty before that."""
        return self._images[image].fit

    def lease(self, pixels: int, blocks: int) -> list[Block]:
        """Take the next blocks, across images: at least one if any is ready, no more than these pixels or blocks.

        Blocks that may have killed their process are not among them (:meth:`suspect`).
        """
        taken: list[Block] = []
        size = 0
        while self._ready and len(taken) < blocks and (not taken or size + self._ready[0].box.area <= pixels):
            block = self._ready.popleft()
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
        return later.union(*(progress.waiting for progress in self._images.values()))

    @property
    def num_ready(self) -> int:
        """Blocks that may be leased now."""
        return len(self._ready)

    @property
    def has_suspects(self) -> bool:
        """Whether a block waits to run alone."""
        return bool(self._alone)

    def give_back(self, blocks: Sequence[Block], *, alone: bool = False) -> None:
        """Return blocks that were taken and not done.

        Args:
            blocks: in the order they were taken.
            alone: whether one of them may have ended its process, so that each must now run by itself.
        """
        (self._alone if alone else self._ready).extendleft(reversed(blocks))

    def settle(self, receipt: Receipt) -> None:
        """Book a receipt; the last one of a stage begins the next stage."""
        progress = self._images[receipt.image]
        if (receipt.phase, receipt.block) not in progress.waiting:
            return  # the same block done twice: the first receipt was booked
        self._book(progress, receipt)
        if not progress.waiting:
            self._advance(receipt.image)

    def _book(self, progress: ImageProgress, receipt: Receipt) -> None:
        progress.waiting.discard((receipt.phase, receipt.block))
        progress.digests[receipt.block] = receipt.digest if receipt.ok else None
        self.num_settled += 1
        if not receipt.ok:
            self.failed.add(receipt.block)
        elif receipt.payload:
            summary = decode(receipt.payload)
            progress.summary = summary if progress.summary is None else self._merge(progress.summary, summary)

    def _advance(self, name: str, *, last: bool = False) -> None:
        """Begin the stages of an image until one has work left."""
        progress = self._images[name]
        while not progress.waiting:
            if progress.summary is not None:
                progress.fit, progress.summary = self._conclude(progress.summary), None
            if not progress.stages:
                self._unfinished -= 1
                return
            todo = list(self._open(progress, progress.stages.popleft()))
            # An image that has begun is ended before the next one is: its files stay warm and its state small.
            (self._ready.extend if last else self._ready.extendleft)(todo if last else reversed(todo))

    def _open(self, progress: ImageProgress, stage: Stage) -> Iterator[Block]:
        """Give the blocks of a stage that are not known to be settled."""
        before, progress.digests = progress.digests, {}
        left, lost = _hash(before), tuple(sorted(block for block, digest in before.items() if digest is None))
        blocks = [replace(self._rekey(block, progress.fit, left), lost=lost) for block in stage.blocks]
        progress.waiting = {(block.phase, block.id) for block in blocks}
        for block in blocks:
            receipt = self._known.get((stage.phase, block.id))
            if receipt is not None and receipt.key == block.key:
                self._book(progress, receipt)
            else:
                yield block


def _hash(digests: Mapping[str, str | None]) -> str:
    """One digest of all, whatever their order."""
    return hashlib.blake2b(repr(sorted(digests.items())).encode(), digest_size=16).hexdigest()
