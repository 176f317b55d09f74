"""What the receipts of a run amount to: sums over the blocks of each image, in a few bytes a block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import all_phases
from pipeline.records import Receipt, place_of
from pipeline.statistics import Counts, ObjectCounts
from pipeline.tiling import Grid

__all__ = ["RESULTS", "ActorWork", "Tally", "num_blocks", "without_truth"]

RESULTS = tuple(one.name for one in all_phases() if one.is_result)
"""Names of the phases whose pixels are counted, each behind those that it comes after."""
NUMBERS = [one.name for one in fields(Counts) if one.name not in ("predicted", "confusion", "cross_entropy", "confidence")]
FRESH, STALE, FAILED = range(1, 4)


class Tally:
    """All that a report needs of the receipts of a plan, in 10 bytes a block and phase that counts.

    Args:
        plan: the plan row of the ledger; receipts of other blocks add nothing but their seconds.
        receipts: in the order of commit, each with whether it is the last one of its phase and block; they may be gone over twice.
        is_planned: whether the plan's phases have the block of a receipt; None: every block of its images in any phase.

    Attributes:
        settled: blocks that are done or failed, by (phase, image).
        failed: blocks that failed, by phase.
        troubled: the brief receipt of each block that failed, whose truth could not be counted, or that has notes or warnings, by
            (phase, block id).
        numbers: sums of the receipts' numbers, by image, phase and name.
        seconds: of all blocks, by stage; work that was done again counts again.
        phase_seconds: the same, by phase.
        actors: blocks and seconds of each actor, by its name; work that was done again counts again.
        peak_bytes: of the largest process.
    """

    def __init__(
        self, plan: Mapping[str, Any], receipts: Iterable[tuple[Receipt, bool]], is_planned: Callable[[Receipt], bool] | None = None
    ) -> None:
        self._receipts, self._grids = receipts, num_blocks(plan)
        self._num_classes = len(plan.get("classes", ()))
        self._count_keys = {one["name"]: one["count_key"] for one in plan.get("images", ())}
        self._is_planned = is_planned or (lambda _: True)
        self._sums: dict[str, dict[str, _Sum]] = {}  # by image and phase
        self._objects: dict[str, dict[tuple[str, int], Mapping[int, ObjectCounts]]] = {}
        self._chosen: dict[str, _Sum] | None = None
        self.settled, self.failed = Counter[tuple[str, str]](), Counter[str]()
        self.troubled: dict[tuple[str, str], Receipt] = {}
        self.numbers: dict[str, dict[str, Counter[str]]] = {}
        self.seconds: dict[str, float] = {}
        self.phase_seconds: dict[str, float] = {}
        self.actors: dict[str, ActorWork] = {}
        self.peak_bytes = 0
        for receipt, is_last in receipts:
            self._add_work(receipt)
            if is_last and (place := self._place(receipt)) is not None:
                self._add(receipt, place)

    @property
    def blocks(self) -> Counter[str]:
        """Blocks that are done or failed, by phase."""
        found = Counter[str]()
        for (phase, _), number in self.settled.items():
            found[phase] += number
        return found

    def counts(self, image: str) -> Counts:
        """Return the sum over the blocks of an image that are done; cross-entropy is added in the plan's order.

        A block is counted by the first phase that gives a result; where its truth or classes have changed since, by a later one.
        """
        one = self._sum_of(image)
        return Counts(np.zeros(self._num_classes, np.int64)) if one is None else one.total()

    def _sum_of(self, image: str) -> _Sum | None:
        sums = self._sums.get(image, {})
        if len(sums) < 2:
            return next(iter(sums.values()), None)
        if self._chosen is None:
            self._chosen = self._choose()
        return self._chosen[image]

    def worst_block(self, image: str) -> tuple[int, int, int] | None:
        """Return the block of an image with the most wrong pixels: its place in the plan's order, wrong pixels and pixels with truth.

        None: no block has truth.
        """
        one = self._sum_of(image)
        return None if one is None else one.worst

    def objects(self, image: str) -> Mapping[int, ObjectCounts] | None:
        """Return the objects of an image by class id; None: they are not told apart, or could not be counted."""
        found = self._objects.get(image)
        return found[min(found)] if found else None

    def is_counted(self, receipt: Receipt) -> bool:
        """Whether the pixels of a block are counted by the phase of a receipt."""
        place = self._place(receipt)
        return place is not None and self._phase_of(receipt.image, place) == receipt.phase

    def _place(self, receipt: Receipt) -> int | None:
        grid = self._grids.get(receipt.image)
        return None if grid is None or not self._is_planned(receipt) else place_of(receipt.block, grid)

    def _add_work(self, receipt: Receipt) -> None:
        self.peak_bytes = max(self.peak_bytes, receipt.peak_bytes)
        actor = self.actors.setdefault(receipt.actor, ActorWork()) if receipt.actor else ActorWork()
        actor.blocks += 1
        for stage, seconds in receipt.seconds.items():
            actor.seconds[stage] = actor.seconds.get(stage, 0.0) + seconds
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
            self.phase_seconds[receipt.phase] = self.phase_seconds.get(receipt.phase, 0.0) + seconds

    def _add(self, receipt: Receipt, place: int) -> None:
        name, phase = receipt.image, receipt.phase
        self.settled[phase, name] += 1
        self.failed[phase] += not receipt.ok
        if not receipt.ok or receipt.truth_error or receipt.notes or receipt.warnings:
            self.troubled[phase, receipt.block] = receipt.brief()
        if receipt.numbers:
            self.numbers.setdefault(name, {}).setdefault(phase, Counter()).update(receipt.numbers)
        if receipt.ok and receipt.objects is not None:
            self._objects.setdefault(name, {})[phase, place] = receipt.objects
        if phase in RESULTS:
            sums = self._sums.setdefault(name, {})
            if phase not in sums:
                sums[phase] = self._empty(name)
            self._count(sums[phase], receipt, place)

    def _empty(self, image: str) -> _Sum:
        planes, rows, cols = self._grids[image]
        return _Sum(planes * rows * cols, self._num_classes)

    def _count(self, one: _Sum, receipt: Receipt, place: int) -> None:
        is_fresh = receipt.count_key == self._count_keys[receipt.image]
        one.states[place] = FAILED if not receipt.ok else FRESH if is_fresh else STALE
        if receipt.ok and receipt.counts is not None:
            one.add(place, receipt.counts if is_fresh else without_truth(receipt.counts))

    def _phase_of(self, image: str, place: int) -> str | None:
        """Return the phase that counts the pixels of a block; None: none has a receipt."""
        found = [(name, one.states[place]) for name in RESULTS if (one := self._sums.get(image, {}).get(name)) and one.states[place]]
        later = (name for name, state in found[1:] if state == FRESH)  # not where the first is fresh: it may be of an earlier mask
        return None if not found else next(later, found[0][0]) if found[0][1] == STALE else found[0][0]

    def _choose(self) -> dict[str, _Sum]:
        """Go over the receipts again, and count each block of images that several phases count by one of these."""
        chosen = {name: self._empty(name) for name, sums in self._sums.items() if len(sums) > 1}
        for receipt, is_last in self._receipts:
            if not is_last or receipt.image not in chosen or not receipt.ok or receipt.counts is None:
                continue
            place = self._place(receipt)
            if place is None or receipt.phase not in RESULTS:
                continue
            one, by = chosen[receipt.image], self._phase_of(receipt.image, place)
            first = next(name for name in RESULTS if name in self._sums[receipt.image] and self._sums[receipt.image][name].states[place])
            if by == first == receipt.phase:
                self._count(one, receipt, place)
            elif by == receipt.phase:
                self._count(one, replace(receipt, counts=replace(receipt.counts, skipped=0)), place)
            elif first == receipt.phase:
                # A recount from the mask cannot tell which pixels were skipped.
                one.numbers["skipped"] += receipt.counts.skipped
        return chosen


@dataclass
class ActorWork:
    """What one actor did: blocks, and seconds by stage."""

    blocks: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class _Sum:
    """Counts that are added up block by block, as :class:`Counts` are added, but floats in the order of the blocks."""

    def __init__(self, num_blocks: int, num_classes: int) -> None:
        self.states = bytearray(num_blocks)
        self.predicted = np.zeros(num_classes, np.int64)
        self.confusion: NDArray[np.int64] | None = None
        self.numbers = dict.fromkeys(NUMBERS, 0)
        self.confidence: NDArray[np.int64] | None = None
        self.worst: tuple[int, int, int] | None = None  # place, wrong pixels and pixels with truth of the block with the most wrong ones
        self._nats: NDArray[np.float64] | None = None

    def add(self, place: int, counts: Counts) -> None:
        """Add the counts of a block."""
        self.predicted += counts.predicted
        for name in NUMBERS:
            self.numbers[name] += getattr(counts, name)
        if counts.confusion is not None:
            self.confusion = np.zeros_like(counts.confusion) if self.confusion is None else self.confusion
            self.confusion += counts.confusion
            pixels = int(counts.confusion.sum())
            wrong = pixels - int(counts.confusion.trace())
            if pixels and (self.worst is None or (wrong, -place) > (self.worst[1], -self.worst[0])):
                self.worst = place, wrong, pixels
        if counts.confidence is not None:
            self.confidence = counts.confidence + (0 if self.confidence is None else self.confidence)
        if counts.cross_entropy is not None:
            self._nats = np.full(len(self.states), -0.0) if self._nats is None else self._nats  # -0.0 changes no sum
            self._nats[place] = counts.cross_entropy

    def total(self) -> Counts:
        """Return the sum."""
        nats = None if self._nats is None else float(np.add.accumulate(self._nats)[-1])  # one after the other, unlike `sum`
        return Counts(self.predicted, confusion=self.confusion, cross_entropy=nats, confidence=self.confidence, **self.numbers)


def without_truth(counts: Counts) -> Counts:
    """Return counts of the mask alone."""
    return replace(counts, confusion=None, cross_entropy=None, cross_entropy_pixels=0, confidence=None)


def num_blocks(plan: Mapping[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Return planes, rows and columns of the blocks of each image of a plan, by name."""
    block = plan.get("block", 1)
    return {one["name"]: (one["planes"], *Grid(tuple(one["shape"]), block, 0, block).num_blocks) for one in plan.get("images", ())}
