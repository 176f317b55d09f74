"""Phases: what is done to the blocks of an image, one after the other. One file = one phase.

::

    segment    skip, tissue ──▶ fit ──▶ score ──▶ predict ──▶ objects ──▶ finish ──▶ count_areas
               appearance
    evaluate                                      count, truth objects ──▶ count_areas, count_change
    convert                                       copy ───────────────────▶ finish

    objects        label ──▶ match ──▶ join ──▶ measure ──▶ tabulate
    truth objects  label_truth ──▶ match_truth ──▶ join_truth ──▶ pair ──▶ count_objects

``skip`` runs only if the YAML asks for it, ``fit`` only with global statistics, ``tissue`` before it only for colours, ``score`` only
if blocks blend.

A phase says how it fits in (:class:`Phase`), and plan, queue, execution, deadline, progress and report read what it says:
no other module asks for a phase by its name. A file put here is a phase of every run that it applies to.

Owns: what each phase reads, computes and writes, and what it depends on. May import: the engine's other modules and below.
Never touches: the queue, the ledger, other phases.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from graphlib import TopologicalSorter
from typing import Any, ClassVar, Generic, Protocol, TypedDict, TypeVar

import numpy as np

from pipeline.engine.job import Job
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image
from pipeline.records import Block, Blocks, Receipt
from pipeline.statistics import Counts, ObjectCounts, Summary, encode_summary

__all__ = ["OneFinding", "Phase", "ReceiptFields", "Reduction", "all_phases", "finding", "phase", "rests_on"]

Loaded = TypeVar("Loaded")
Worked = TypeVar("Worked")


class ReceiptFields(TypedDict, total=False):
    """What a phase puts on the receipt of a block: see :class:`pipeline.records.Receipt`."""

    digest: str
    files: Mapping[str, int]
    counts: Counts
    objects: Mapping[int, ObjectCounts]
    truth_error: str
    payload: str
    numbers: Mapping[str, int]
    written: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


class Reduction(Protocol):
    """How the payloads of an image's blocks become one result, in the driver: a sum, then a pure function of it."""

    def merge(self, one: Summary, other: Summary) -> Summary:
        """Add two summaries; the order never matters."""

    def conclude(self, total: Summary) -> dict[str, Any]:
        """Turn the sum over an image into plain JSON, for the blocks of the phases that read it."""


class OneFinding:
    """The reduction of a phase that runs once an image: its one payload, made by :func:`finding`, is the result."""

    def merge(self, one: Summary, other: Summary) -> Summary:
        """Keep the first: there is no other."""
        del other
        return one

    def conclude(self, total: Summary) -> dict[str, Any]:
        """Return what was found."""
        found: dict[str, Any] = json.loads(total["found"].tobytes())
        return found


def finding(found: Mapping[str, Any]) -> str:
    """Pack the finding of a phase (plain JSON) as the payload of its receipt."""
    return encode_summary({"found": np.frombuffer(json.dumps(found).encode(), np.uint8)})


class Phase(ABC, Generic[Loaded, Worked]):
    """One phase. Its class attributes and planning methods say how it fits in; its three steps do the work on a block.

    The steps run inside an actor, each in a thread of its own: ``load`` reads, ``work`` computes, ``save`` writes. A phase
    holds no state: what an actor holds open comes as ``resources``.

    Attributes:
        after: phases that come before this one, where an image has them.
        before: phases that come after this one, for a phase that is put between two others.
        reads: the phases whose reduced results each block gets, merged into ``block.fit``: their keys must differ. The report shows
            ``numbers`` alone.
        prepares: the phase that makes the results of a block from what this one predicts of it.
        follows: the phases that a block needs: if one of them failed, only that failure is reported.
        is_per_image: whether it runs once for the whole image, with a deadline that grows with the image, instead of once a block.
        keeps_mask: whether the payload of its receipts says which file holds the mask instead of its blocks
            (:class:`pipeline.engine.job.KeptMask` as JSON); empty: the blocks are there.
        is_result: its blocks are what the run is for: status counts them, and the report counts their pixels.
    """

    after: ClassVar[tuple[str, ...]] = ()
    before: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = ()
    prepares: ClassVar[str] = ""
    follows: ClassVar[tuple[str, ...]] = ()
    is_per_image: ClassVar[bool] = False
    keeps_mask: ClassVar[bool] = False
    is_result: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The name of its file: what blocks, receipts and messages call the phase."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def applies(self, job: Job, image: Image) -> bool:
        """Whether an image goes through this phase."""

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """What its result depends on besides pixels, recipe and model, such as the writers; plain values."""
        return ()

    def reduction(self, job: Job) -> Reduction | None:
        """How the payloads on its receipts are reduced over an image; None: they are not."""
        return None

    def takes_time(self, job: Job, image: Image) -> bool:
        """Whether its work counts as progress."""
        return True

    def arrays(self, job: Job, image: Image) -> Sequence[str]:
        """The keys of the arrays that it writes block by block, and of files made of them; removed if all blocks are computed anew."""
        return ()

    def stored_digest(self, job: Job, block: Block, receipt: Receipt) -> str | None:
        """The digest of what is stored of a committed block now; None: it cannot be told.

        Raises:
            StoreError, BlockError: what is stored is damaged.
        """
        return None

    def recounts(self, job: Job, masks: Blocks, count_key: str) -> Sequence[Block]:
        """The blocks to count again, as their masks stay but their truth, classes or ``ignore`` have changed.

        Args:
            job: what every actor is told.
            masks: blocks of the phase that makes the mask of one image, which were counted under another key.
            count_key: what the image's counts depend on now, besides its mask.
        """
        return ()

    def discard(self, job: Job, block: Block) -> None:
        """Remove what an attempt may have written of a block that is quarantined now: its pixels have no prediction."""

    def reads_parts_of(self, job: Job, image: Image) -> Sequence[str]:
        """The phases whose temporary files (:mod:`pipeline.engine.parts`) its blocks read."""
        return ()

    def needs_pixels_of(self, job: Job, image: Image) -> Sequence[str]:
        """The phases whose results it reads, which are temporary files, or were when they were written."""
        return self.reads_parts_of(job, image)

    def left_by_failure(self, job: Job, block: Block) -> str:
        """The payload of the receipt of a block that failed: what an earlier execution has left and still holds."""
        return ""

    @abstractmethod
    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> Loaded:
        """Read; runs in the reading thread."""

    @abstractmethod
    def work(self, resources: Resources, block: Block, loaded: Loaded, watch: Stopwatch) -> Worked:
        """Compute; runs in the caller's thread, where the network lives."""

    @abstractmethod
    def save(self, resources: Resources, block: Block, worked: Worked, watch: Stopwatch) -> ReceiptFields:
        """Write; runs in the writing thread."""


@cache
def phase(name: str) -> Phase[Any, Any]:
    """Return the phase of a name."""
    module = importlib.import_module(f"{__name__}.{name}")
    made: Phase[Any, Any] = getattr(module, module.__all__[0])()
    return made


@cache
def all_phases() -> tuple[Phase[Any, Any], ...]:
    """Return every phase, each one behind those that it comes after."""
    return tuple(phase(name) for name in TopologicalSorter(_predecessors()).static_order())


def rests_on(name: str, present: Sequence[str]) -> tuple[str, ...]:
    """Return the phases that a phase's blocks depend on directly, of those that an image goes through.

    A phase that another of them depends on is left out: the digest of the later one covers it.
    """
    before = _closure()
    found = [other for other in present if other in before[name]]
    return tuple(other for other in found if not any(other in before[later] for later in found))


@cache
def _predecessors() -> dict[str, set[str]]:
    """The phases that come before each one, as their files say."""
    names = sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_"))
    before = {name: {other for other in phase(name).after if other in names} for name in names}
    for name in names:
        for later in phase(name).before:
            before[later].add(name)
    return before


@cache
def _closure() -> dict[str, set[str]]:
    """All phases that come before each one, at any distance."""
    closed: dict[str, set[str]] = {}
    direct = _predecessors()
    for name in TopologicalSorter(direct).static_order():
        closed[name] = direct[name].union(*(closed[other] for other in direct[name]))
    return closed
