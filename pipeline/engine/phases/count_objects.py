"""Counts of an image's objects, and of those that match the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.exports import open_objects
from pipeline.engine.job import Job
from pipeline.engine.parts import PartFiles
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image
from pipeline.records import Block
from pipeline.statistics import ObjectCounts, ObjectMatches, count_objects, repeated_ids, rows_of_whole_objects, sum_pairs

__all__ = ["CountObjects"]

Objects = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Ids in rising order, and the class id of each object."""
Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]
"""Rows (predicted id, truth id, pixels), and the truth ids with their classes."""
Counted = dict[int, ObjectCounts]


class CountObjects(Phase[Counted, Counted]):
    """Count the objects of an image by class, and match them with the truth objects."""

    after = ("pair", "tabulate")
    follows = ("tabulate",)
    is_per_image = True

    def applies(self, job: Job, image: Image) -> bool:
        """Where objects are told apart, or scored."""
        return job.instances is not None or (job.scores_objects and image.truth is not None)

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """The format of the counts; the rest follows from the pairs."""
        return ("counts",)

    def takes_time(self, job: Job, image: Image) -> bool:
        """Its work grows with the objects, not with the pixels."""
        return False

    def reads_parts_of(self, job: Job, image: Image) -> Sequence[str]:
        """The pairs, where there are any."""
        return ("pair",) if self._has_pairs(job, image) else ()

    def _has_pairs(self, job: Job, image: Image) -> bool:
        return job.scores_objects and image.truth is not None

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> Counted:
        """Count, from the pairs and the table of objects; with truth, memory grows with the ids of the objects."""
        job, image, has_pairs = resources.job, block.image, self._has_pairs(resources.job, block.image)
        every, table = _count_table(job, image, is_kept=has_pairs) if job.goal == "segment" else ({}, None)
        matched = _count_pairs(job, block, table) if has_pairs else None
        # A class without objects in this image has counts of zero.
        counts = {one: ObjectCounts(matches=None if matched is None else ObjectMatches()) for one in job.object_classes} | (matched or {})
        if table is None:
            return counts if matched is not None else counts | _count_predicted(job, block)
        # The number of predicted objects includes those where no truth is counted.
        return {one: replace(every.get(one, ObjectCounts()), matches=found.matches) for one, found in counts.items()}

    def work(self, resources: Resources, block: Block, loaded: Counted, watch: Stopwatch) -> Counted:
        """Nothing is left to compute."""
        return loaded

    def save(self, resources: Resources, block: Block, worked: Counted, watch: Stopwatch) -> ReceiptFields:
        """Write nothing: the counts travel on the receipt."""
        return {"objects": worked}


def _count_pairs(job: Job, block: Block, table: _Table | None) -> Counted | None:
    """Count the objects of an image plane by plane, as planes of a truth may share ids; None: the truth cannot be used."""
    rows, total = job.grid(block.image).num_blocks[0], None
    for plane in range(block.image.header.num_planes):
        files = partial(PartFiles(job, block.image).each, "pairs", block.lost, range(plane * rows, (plane + 1) * rows))
        if any("problem" in file for _, file in files()):
            return None
        if (counted := _count_plane(job, files, table)) is not None:
            total = _sum(total or {}, counted)
    return total


def _count_predicted(job: Job, block: Block) -> Counted:
    """Count the objects of a label image whose truth cannot be used; memory grows with their number."""
    rows, total = job.grid(block.image).num_blocks[0], Counted()
    for plane in range(block.image.header.num_planes):
        files = PartFiles(job, block.image).each("pairs", block.lost, range(plane * rows, (plane + 1) * rows))
        pairs_N3 = sum_pairs([file["pairs"] * [1, 0, 1] for _, file in files])
        ids = _ids(pairs_N3[:, 0])
        total = _sum(total, count_objects(pairs_N3, (ids, np.full(len(ids), job.object_classes[0], np.int32)), None))
    return total


def _count_plane(job: Job, files: Callable[[], Iterator[tuple[Any, Mapping[str, Any]]]], table: _Table | None) -> Counted | None:
    """Count the objects of a plane block by block; None: every block failed.

    Objects in several blocks, and the objects that overlap them, are counted together at the end: memory grows with their number.
    """
    predicted, truth = [], []
    for _, file in files():
        predicted.append(_ids(file["pairs"][:, 0]))
        truth.append(file["truth_ids"])
    shared = repeated_ids(predicted), repeated_ids(truth)
    total, waiting = Counted(), list[Pairs]()
    for _, file in files():
        pairs_N3, true_ids, true_classes = file["pairs"], file["truth_ids"], file["truth_classes"]
        whole_N = rows_of_whole_objects(pairs_N3, *shared)
        total = _sum(total, _count(job, table, pairs_N3[whole_N], (true_ids, true_classes)))
        is_open = np.isin(true_ids, pairs_N3[~whole_N, 1])
        waiting.append((pairs_N3[~whole_N], true_ids[is_open], true_classes[is_open]))
    if not waiting:
        return None
    true_ids, first = np.unique(np.concatenate([ids for _, ids, _ in waiting]), return_index=True)
    true_classes = np.concatenate([classes for _, _, classes in waiting])[first]
    return _sum(total, _count(job, table, sum_pairs([pairs_N3 for pairs_N3, _, _ in waiting]), (true_ids, true_classes)))


def _count(job: Job, table: _Table | None, pairs_N3: NDArray[np.int64], truth: Objects) -> Counted:
    """Count the objects of these pairs; ``truth`` may list more objects."""
    ids, true_ids = _ids(pairs_N3[:, 0]), _ids(pairs_N3[:, 1])
    classes = np.full(len(ids), job.object_classes[0], np.int32) if table is None else table.classes[np.searchsorted(table.ids, ids)]
    return count_objects(pairs_N3, (ids, classes), (true_ids, truth[1][np.searchsorted(truth[0], true_ids)]))


def _sum(one: Counted, other: Counted) -> Counted:
    return one | {class_id: one[class_id] + counts if class_id in one else counts for class_id, counts in other.items()}


def _ids(ids_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ids that occur, sorted, without 0."""
    found: NDArray[np.int64] = np.unique(ids_N[ids_N != 0])
    return found


@dataclass(frozen=True)
class _Table:
    """The ids of all objects of an image, in rising order, and their class ids."""

    ids: NDArray[np.int64]
    classes: NDArray[np.int32]


def _count_table(job: Job, image: Image, *, is_kept: bool) -> tuple[Counted, _Table]:
    """Count the objects of the run's table, part by part; return also their ids and classes, which are empty unless ``is_kept``."""
    numbers = {spec["name"]: spec["id"] for spec in job.classes}
    ids, classes, total = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], Counted()
    for table in open_objects(job, image):
        column = table["class"].combine_chunks()
        of_index = np.array([numbers[name] for name in column.dictionary.to_pylist()], np.int32)
        part = table["id"].to_numpy(), of_index[column.indices.to_numpy()]
        pairs_N3 = np.stack([part[0], np.zeros_like(part[0]), table["area_px"].to_numpy()], axis=1)
        total = _sum(total, count_objects(pairs_N3, part, None))
        if is_kept:
            ids.append(part[0])
            classes.append(part[1])
    return total, _Table(np.concatenate(ids), np.concatenate(classes))
