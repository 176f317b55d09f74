"""Blocks that are run a second time because their actor is silent or slow while others have nothing to do. The first receipt counts.

Two actors may then write one block, also when the first one has long been given up. That is safe: every write replaces a file as
a whole, in an object store as well, and the same block has the same bytes wherever it is done. Phases that do an image in one
piece are not run twice: such work is long by nature, and exports are written to many files.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from pipeline.engine import phase
from pipeline.records import Block, Receipt
from pipeline.scheduling.block_queue import BlockQueue

__all__ = ["Held", "Key", "SecondRuns", "key_of"]

Key = tuple[str, str]
"""Phase and id of a block."""

LOOK_S = 1.0  # between two looks for silent and slow actors
SILENT_S = 5.0  # without a message, before an actor is asked to answer, and then without an answer
SLOW_S = 10.0  # a block that runs for less is never slow
SLOW_TIMES = 3.0  # the median time of its phase's blocks
NUM_TIMES = 99  # the last blocks of a phase, whose median counts
FEWEST_TIMES = 5


@dataclass
class Held:
    """The blocks of one actor, and when it was heard of.

    Attributes:
        held: blocks that it was given and has returned no receipt for, in order.
        since: when it last sent a message, seconds of the monotonic clock.
        is_late: its blocks are offered to others; until its next message it gets no more.
        asked: a call that an actor answers at once if it can be reached, and when it was made; None: it was not asked.
    """

    held: dict[Key, Block] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    is_late: bool = False
    asked: tuple[Any, float] | None = None


class SecondRuns:
    """Chooses blocks to run again.

    Args:
        queue: of the run.
        log: writes one line of the run's log.
        ask: asks an actor to answer, and returns the call.
        has_answered: whether a call was answered.
    """

    def __init__(
        self, queue: BlockQueue, log: Callable[[str], None], ask: Callable[[Any], Any], has_answered: Callable[[Any], bool]
    ) -> None:
        self._queue, self._log, self._ask, self._has_answered = queue, log, ask, has_answered
        self._offered: dict[Key, Block] = {}  # in the queue, and held by an actor as well
        self._times: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=NUM_TIMES))  # seconds a pixel
        self._looked = 0.0

    def measure(self, block: Block, receipt: Receipt) -> None:
        """Note how long a block took."""
        self._times[block.phase].append(sum(receipt.seconds.values()) / max(1, block.box.area))

    def is_open(self, block: Block, actors: Iterable[Held]) -> bool:
        """Whether a block that an actor failed to do has to be done still, and nobody else has it."""
        key = key_of(block)
        return self._queue.awaits(block) and key not in self._offered and not any(key in actor.held for actor in actors)

    def lease(self, pixels: int, blocks: int) -> list[Block]:
        """Take the next blocks from the queue, without those that were done while they were offered."""
        return [block for block in self._queue.lease(pixels, blocks) if self._is_wanted(block)]

    def suspect(self) -> Block | None:
        """Take a block that must run alone, if there is one that is not done."""
        while (block := self._queue.suspect()) and not self._is_wanted(block):
            pass
        return block

    def _is_wanted(self, block: Block) -> bool:
        return self._offered.pop(key_of(block), None) is None or self._queue.awaits(block)

    def offer(self, actors: Sequence[Any]) -> None:
        """Where actors are idle and the queue is empty, give back the blocks of those that are silent or slow."""
        now = time.monotonic()
        if now - self._looked < LOOK_S or self._queue.num_ready or self._queue.has_suspects:
            return
        self._looked = now
        if all(actor.held or not actor.ready for actor in actors):
            return
        for actor in actors:
            blocks = [block for block in actor.held.values() if not phase(block.phase).is_per_image]
            if not blocks or actor.is_late or not actor.ready:
                continue
            if self._is_silent(actor, now):
                self._give_back(actor, blocks, f"has not answered for {now - actor.since:.0f} s")
            elif now - actor.since > self._limit(blocks[0]):
                self._give_back(actor, blocks, f"has run {blocks[0].phase} {blocks[0].id} for {now - actor.since:.0f} s")

    def _is_silent(self, actor: Any, now: float) -> bool:
        """Ask an actor that has sent nothing for some seconds; return whether it has not answered for some more."""
        if actor.asked is not None:
            call, asked = actor.asked
            if not self._has_answered(call):
                return bool(now - asked > SILENT_S)
            actor.asked = None
        elif now - actor.since > SILENT_S:
            actor.asked = self._ask(actor), now
        return False

    def _limit(self, block: Block) -> float:
        """Return the seconds after which a block is slow."""
        times = self._times[block.phase]
        return max(SLOW_S, SLOW_TIMES * median(times) * block.box.area) if len(times) >= FEWEST_TIMES else float("inf")

    def _give_back(self, actor: Any, blocks: list[Block], why: str) -> None:
        self._log(f"actor {actor.number} {why}: {len(blocks)} of its blocks run a second time, and the first result counts")
        actor.is_late, actor.asked = True, None
        self._offered.update((key_of(block), block) for block in blocks)
        self._queue.give_back(blocks, alone=actor.alone)


def key_of(block: Block) -> Key:
    """Return the key of a block in the tables of a run."""
    return block.phase, block.id
