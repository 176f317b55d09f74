"""What the ledger of a run says of every block, as it grows: which are done, how many of their pixels are wrong, when they changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import checked_colors
from pipeline.errors import GigasegError
from pipeline.records import RESTART, Holder, LedgerTail, Receipt, RunFolder, current_holder, place_of
from pipeline.scheduling import RESULTS, num_blocks
from pipeline.statistics import Counts

__all__ = ["BlockRows", "Progress"]

LOOK_S = 1.0  # between two looks at the ledger
OPEN, DONE, FAILED = range(3)
FINISH = "finish"  # the phase that writes the pyramids of an image


class BlockRows:
    """The blocks of one image, in the plan's order: plane by plane, row by row.

    Attributes:
        grid: planes, rows and columns of blocks.
        versions: when each block got its last result, as the number of its row in the ledger; 0: never.
        wrong, counted: pixels of each block whose class is not that of the truth, and that have both.
        unequal, overlap: pixels of each block on which two tiles disagree, and that two tiles predict.
        version: when anything changed last.
        finished: when the image was finished; 0: not since its last block changed.
    """

    def __init__(self, grid: tuple[int, int, int]) -> None:
        self.grid = grid
        size = grid[0] * grid[1] * grid[2]
        self.versions = np.zeros(size, np.int64)
        self.wrong, self.counted, self.unequal, self.overlap = (np.zeros(size, np.int64) for _ in range(4))
        self.states: dict[str, NDArray[np.uint8]] = {}
        self.version = self.finished = 0

    @property
    def is_done(self) -> NDArray[np.bool_]:
        """Whether each block has a result."""
        done = np.zeros(len(self.versions), np.bool_)
        for states in self.states.values():
            done |= states == DONE
        return done

    @property
    def state(self) -> str:
        """``done``, ``running``, ``failed`` or ``waiting``."""
        done = self.is_done
        if done.all():
            return "done"
        if any((states == FAILED).any() for states in self.states.values()):
            return "failed"
        return "running" if done.any() else "waiting"

    def settle(self, receipt: Receipt, number: int) -> None:
        """Take the receipt of one of the blocks, the row of this number."""
        index = place_of(receipt.block, self.grid)
        if index is None:
            return
        self.version = number
        if receipt.phase in RESULTS:
            states = self.states.setdefault(receipt.phase, np.zeros(len(self.versions), np.uint8))
            states[index] = DONE if receipt.ok else FAILED
            self.versions[index] = number
            self._count(index, receipt.counts)
            self.finished = 0
            if receipt.ok and len(self.versions) == 1:  # an image of one block is exported with it
                self.finished = number
        elif receipt.phase == FINISH and receipt.ok:
            self.finished = number

    def _count(self, index: int, counts: Counts | None) -> None:
        if counts is None:
            return
        self.unequal[index], self.overlap[index] = counts.overlap_pixels - counts.overlap_equal, counts.overlap_pixels
        if counts.confusion is not None:
            self.counted[index] = counts.confusion.sum()
            self.wrong[index] = self.counted[index] - np.trace(counts.confusion)


class Progress:
    """A run that may go on: each look reads what is new in its ledger. Several threads may ask.

    Attributes:
        plan: the last plan row; empty before the first.
        blocks: of each image of the plan.
        number: rows read so far.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.plan: Mapping[str, Any] = {}
        self.blocks: dict[str, BlockRows] = {}
        self.number = 0
        self.recorded: dict[str, Any] = {}
        self._folder, self._tail = folder, LedgerTail(folder.ledger)
        self._lock, self._looked = threading.Lock(), float("-inf")
        self._state = ""

    @property
    def state(self) -> str:
        """The state of run.json; ``interrupted`` where a run that was killed could not record it."""
        return self._state

    @property
    def goes_on(self) -> bool:
        """Whether more may be done."""
        return self._state == "running"

    def look(self) -> None:
        """Take what is new; at most once a second.

        Raises:
            GigasegError: the ledger cannot be read.
        """
        with self._lock:
            if time.monotonic() - self._looked < LOOK_S:
                return
            self.recorded = self._folder.read() or self.recorded
            self._state = self._life(str(self.recorded.get("state", "running")))
            for kind, row in self._tail.new_rows():
                self.number += 1
                self._take(kind, row)
            self._looked = time.monotonic()

    def _life(self, state: str) -> str:
        if state != "running":
            return state
        holder = current_holder(self._folder.ledger) if self._folder.ledger.exists() else None
        return "interrupted" if holder is None or holder.is_gone(Holder.here()) is True else state

    def _take(self, kind: str, row: Mapping[str, Any]) -> None:
        if kind == RESTART:
            self.plan, self.blocks = {}, {}
        elif kind == "plan":
            self._replan(row)
        elif kind == "receipt":
            receipt = Receipt.from_json(row)
            if receipt.image in self.blocks:
                self.blocks[receipt.image].settle(receipt, self.number)

    def _replan(self, plan: Mapping[str, Any]) -> None:
        """Take a plan; the blocks of an image that is cut in another way begin anew."""
        colors = checked_colors([one.get("color") for one in plan.get("classes", ())])
        classes = [{**one, "color": color} for one, color in zip(plan.get("classes", ()), colors, strict=True)]
        before, self.blocks, self.plan = self.blocks, {}, {**plan, "classes": classes}
        for name, grid in num_blocks(plan).items():
            old = before.get(name)
            self.blocks[name] = old if old is not None and old.grid == grid else BlockRows(grid)
            self.blocks[name].version = self.number

    def of(self, name: str) -> BlockRows:
        """Return the blocks of an image; raises GigasegError for a name that the plan does not hold."""
        try:
            return self.blocks[name]
        except KeyError as error:
            raise GigasegError("no such image in this run") from error
