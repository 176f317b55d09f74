"""How far a run is, from the rows of its ledger as they come, in a few bytes a block: a run may be watched for a night."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.engine import all_phases
from pipeline.records import RESTART, Receipt, place_of
from pipeline.report.content import failures_of, in_order
from pipeline.scheduling import ImageRow, ImageRows, Position, num_blocks
from pipeline.statistics import Counts

__all__ = ["RunState"]

OPEN, DONE, FAILED = range(3)
COUNTED = {"scored": {one.name for one in all_phases() if one.prepares}, "done": {one.name for one in all_phases() if one.is_result}}
"""Phases whose blocks are counted together, by the word that is printed."""
MOST_COUNTS = 1 << 23  # pixel counts of all images, class by class, above which the IoU of an image is not kept
PER_IMAGE = {one.name for one in all_phases() if one.is_per_image}


class _Image:
    """Blocks of one image of a plan: what became of each in every phase, and how many pixels of each were predicted."""

    def __init__(self, planes: int, rows: int, cols: int) -> None:
        self.grid = planes, rows, cols
        self.num_blocks = planes * rows * cols
        self.states: dict[str, bytearray] = {}  # of each block, by phase
        self.phases_done = {word: bytearray(self.num_blocks) for word in COUNTED}  # in how many of these phases each block is done
        self.predicted = np.zeros(self.num_blocks, np.int64)


class RunState:
    """What the rows of a ledger say, the last row of a block being the one that holds.

    Attributes:
        plan: the last plan; empty before the first.
        num_rows: rows taken so far: as long as it stays, nothing else has changed.
        done, failed: blocks of each phase.
        blocks: blocks that are scored, and blocks that have a result, by the words of COUNTED.
        predicted: pixels that have a prediction.
        seconds: of all blocks, by stage; work that was done again counts again.
        phase_seconds: the same, by phase.
        written_bytes: of the files that blocks wrote; written again counts again.
        retries: tries of blocks beyond the first.
        peak_bytes: of the largest process.
        last: phase and image of the last block; None before the first.
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self._begin()

    def _begin(self) -> None:
        self.plan: Mapping[str, Any] = {}
        self.done, self.failed, self.blocks = Counter[str](), Counter[str](), Counter[str]()
        self.predicted = self.written_bytes = self.retries = self.peak_bytes = 0
        self.seconds: dict[str, float] = defaultdict(float)
        self.phase_seconds: dict[str, float] = defaultdict(float)
        self.last: tuple[str, str] | None = None
        self._seen: dict[str, _Image] = {}  # images of every plan: one that left may come back
        self._images: dict[str, _Image] = {}
        self._troubled: dict[tuple[str, str], Receipt] = {}
        self._rows, self._count_keys, self._has_scores = ImageRows(), dict[str, str](), False

    def take(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> RunState:
        """Take rows of the ledger, (kind, row) each, as :meth:`pipeline.records.LedgerTail.new_rows` yields them; returns itself."""
        for kind, row in rows:
            self.num_rows += 1
            if kind == RESTART:
                self._begin()
            elif kind == "plan":
                self._replan(row)
            elif kind == "receipt":
                self._settle(Receipt.from_json(row))
        return self

    @property
    def num_images(self) -> int:
        """Images of the plan, those that could not be opened included."""
        return len(self._images) + len(self.plan.get("rejected", ()))

    @property
    def pixels(self) -> int:
        """Pixels of all images of the plan."""
        return sum(one["planes"] * math.prod(one["shape"]) for one in self.plan.get("images", ()))

    @property
    def num_blocks(self) -> int:
        """Blocks that get a result."""
        return sum(image.num_blocks for image in self._images.values())

    @property
    def num_settled(self) -> int:
        """Blocks of all phases that are done or failed."""
        return self.done.total() + self.failed.total()

    @property
    def phases(self) -> dict[str, dict[str, float]]:
        """How many blocks of each phase are done or failed, and their seconds, in the order of the phases."""
        return {
            name: {"blocks": self.done[name], "failed": self.failed[name], "seconds": round(self.phase_seconds[name], 3)}
            for name in in_order({*(+self.done), *(+self.failed)})
        }

    @property
    def current(self) -> tuple[str, str, int, int] | None:
        """Phase and image of the last block, how many blocks of these are settled, and of how many."""
        if self.last is None or self.last[1] not in self._images:
            return None
        phase, name = self.last
        image = self._images[name]
        states = image.states[phase]
        return phase, name, image.num_blocks - states.count(OPEN), 1 if phase in PER_IMAGE else image.num_blocks

    def failures(self) -> list[dict[str, Any]]:
        """Return the failures as report.json lists them."""
        kept = (receipt for receipt in self._troubled.values() if self._find(receipt.image, receipt.block) is not None)
        return failures_of(self.plan, kept) if self.plan else []

    def newest(self, totals: Mapping[str, int | None], most: int) -> list[ImageRow]:
        """Return at most so many images: those in work, the last begun first, then the last finished ones.

        ``totals`` are the blocks of each phase of the run. Of a phase that not every image has, an image is not known to have it
        before its first block.
        """
        common = [name for name, total in totals.items() if total == sum(self._size(name, one) for one in self._images.values())]
        for name in self._rows.open:
            if name not in self._images:
                self._rows.forget(name)
            elif self._is_finished(self._images[name], common):
                self._rows.finish(name)
        rows = self._rows.newest(self._position, most)
        return [replace(row, failed=sum(states.count(FAILED) for states in self._images[row.name].states.values())) for row in rows]

    def _is_finished(self, image: _Image, common: Iterable[str]) -> bool:
        settled = {name: image.num_blocks - states.count(OPEN) for name, states in image.states.items()}
        return all(settled.get(name, 0) >= self._size(name, image) for name in {*common, *settled})

    def _position(self, name: str) -> Position | None:
        """Return the phase of an image that began last, and how far it is."""
        image = self._images[name]
        phase = list(image.states)[-1]
        return Position(phase, image.num_blocks - image.states[phase].count(OPEN), self._size(phase, image))

    @staticmethod
    def _size(phase: str, image: _Image) -> int:
        return 1 if phase in PER_IMAGE else image.num_blocks

    def _find(self, name: str, block_id: str) -> int | None:
        image = self._images.get(name)
        return None if image is None else place_of(block_id, image.grid)

    def _replan(self, plan: Mapping[str, Any]) -> None:
        """Take a plan, and count what is done of its images; the blocks of an image of another size begin anew."""
        self.plan, self._images = plan, {}
        self._count_keys = {one["name"]: one["count_key"] for one in plan.get("images", ())}
        self._has_scores = len(plan.get("classes", ())) ** 2 * len(self._count_keys) <= MOST_COUNTS
        self.done, self.failed, self.blocks, self.predicted = Counter(), Counter(), Counter(), 0
        for name, grid in num_blocks(plan).items():
            image = self._seen.get(name)
            if image is None or image.grid != grid:
                image = self._seen[name] = _Image(*grid)
                self._rows.forget(name)
            self._images[name] = image
            for phase, states in image.states.items():
                self.done[phase] += states.count(DONE)
                self.failed[phase] += states.count(FAILED)
            for word, numbers in image.phases_done.items():
                self.blocks[word] += image.num_blocks - numbers.count(0)
            self.predicted += int(image.predicted.sum())

    def _settle(self, receipt: Receipt) -> None:
        self._add(receipt)
        index = self._find(receipt.image, receipt.block)
        if index is None:
            return
        phase, image, is_done = receipt.phase, self._images[receipt.image], receipt.ok
        states = image.states.setdefault(phase, bytearray(image.num_blocks))
        before, states[index] = states[index], DONE if is_done else FAILED
        is_known = self._has_scores and before == OPEN and receipt.count_key == self._count_keys[receipt.image]
        self._rows.add(receipt, is_known=is_known)
        self.done[phase] += is_done - (before == DONE)
        self.failed[phase] += (not is_done) - (before == FAILED)
        for word, phases in COUNTED.items():
            if phase in phases:
                numbers = image.phases_done[word]
                self.blocks[word] -= numbers[index] > 0
                numbers[index] += is_done - (before == DONE)
                self.blocks[word] += numbers[index] > 0
        if phase in COUNTED["done"]:
            self._predict(image, index, receipt.counts if is_done else None)
        if is_done and not receipt.truth_error:
            self._troubled.pop((phase, receipt.block), None)
        else:
            self._troubled[phase, receipt.block] = receipt.brief()
        self.last = phase, receipt.image

    def _predict(self, image: _Image, index: int, counts: Counts | None) -> None:
        """Keep how many pixels of a block are predicted: none where no phase has given it a result."""
        if counts is not None or not image.phases_done["done"][index]:
            predicted = 0 if counts is None else int(counts.predicted.sum())
            self.predicted += predicted - int(image.predicted[index])
            image.predicted[index] = predicted

    def _add(self, receipt: Receipt) -> None:
        """Add what only grows."""
        for stage, seconds in receipt.seconds.items():
            self.seconds[stage] += seconds
        self.phase_seconds[receipt.phase] += sum(receipt.seconds.values())
        self.written_bytes += sum(receipt.files.values())
        self.retries += receipt.attempts - 1
        self.peak_bytes = max(self.peak_bytes, receipt.peak_bytes)
