"""How many objects an image has, and how many of them are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
"""Ids in rising order, and the class id of each."""
Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]
"""Rows (predicted id, true id, pixels), and the true ids with their classes."""
Counted = dict[int, ObjectCounts]


class CountObjects(Phase[Counted, Counted]):
    """Count the objects of an image by class, and match them with the true ones."""

    after = ("pair", "tabulate")
    is_per_image = True

    def applies(self, job: Job, image: Image) -> bool:
        """Where there are objects, or objects are scored."""
        return job.instances is not None or (job.scores_objects and image.truth is not None)

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """The format of the counts; the rest follows from the pairs."""
        return ("counts",)

    def reads_parts_of(self, job: Job, image: Image) -> Sequence[str]:
        """Pairs."""
        return ("pair",) if self._has_pairs(job, image) else ()

    def _has_pairs(self, job: Job, image: Image) -> bool:
        return job.scores_objects and image.truth is not None

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> Counted:
        """Read pairs and the table of objects, and count."""
        job, image = resources.job, block.image
        table = _Table.of(job, image) if job.goal == "segment" else None
        counted = _count_pairs(job, block, table) if self._has_pairs(job, image) else None
        if counted is not None or table is None:
            # A class without objects in this image counts as well: it has none.
            return {one: ObjectCounts(matches=ObjectMatches()) for one in job.object_classes} | (counted or {})
        pairs_N3 = np.stack([table.ids, np.zeros_like(table.ids), table.areas], axis=1)
        return {one: ObjectCounts() for one in job.object_classes} | count_objects(pairs_N3, (table.ids, table.classes), None)

    def work(self, resources: Resources, block: Block, loaded: Counted, watch: Stopwatch) -> Counted:
        """Nothing is left to compute."""
        return loaded

    def save(self, resources: Resources, block: Block, worked: Counted, watch: Stopwatch) -> ReceiptFields:
        """Write nothing: the counts travel on the receipt."""
        return {"objects": worked}


def _count_pairs(job: Job, block: Block, table: _Table | None) -> Counted | None:
    """Count the objects of an image block by block; None where its truth cannot be used.

    Objects that several blocks have, and all that touch them, are counted together at the end: memory follows them.
    """
    parts = PartFiles(job, block.image)
    predicted, truth = [], []
    for _, file in parts.each("pairs", block.lost):
        if "problem" in file:
            return None
        predicted.append(_ids(file["pairs"][:, 0]))
        truth.append(file["truth_ids"])
    shared = repeated_ids(predicted), repeated_ids(truth)
    total, waiting = Counted(), list[Pairs]()
    for _, file in parts.each("pairs", block.lost):
        pairs_N3, true_ids, true_classes = file["pairs"], file["truth_ids"], file["truth_classes"]
        whole_N = rows_of_whole_objects(pairs_N3, *shared)
        _add(total, _count(job, table, pairs_N3[whole_N], (true_ids, true_classes)))
        is_open = np.isin(true_ids, pairs_N3[~whole_N, 1])
        waiting.append((pairs_N3[~whole_N], true_ids[is_open], true_classes[is_open]))
    if waiting:
        true_ids, first = np.unique(np.concatenate([ids for _, ids, _ in waiting]), return_index=True)
        true_classes = np.concatenate([classes for _, _, classes in waiting])[first]
        _add(total, _count(job, table, sum_pairs([pairs_N3 for pairs_N3, _, _ in waiting]), (true_ids, true_classes)))
    return total


def _count(job: Job, table: _Table | None, pairs_N3: NDArray[np.int64], truth: Objects) -> Counted:
    """Count the objects of these pairs; ``truth`` may list others."""
    ids, true_ids = _ids(pairs_N3[:, 0]), _ids(pairs_N3[:, 1])
    classes = np.full(len(ids), job.object_classes[0], np.int32) if table is None else table.classes[np.searchsorted(table.ids, ids)]
    return count_objects(pairs_N3, (ids, classes), (true_ids, truth[1][np.searchsorted(truth[0], true_ids)]))


def _add(total: Counted, more: Counted) -> None:
    for class_id, counts in more.items():
        total[class_id] = total[class_id] + counts if class_id in total else counts


def _ids(ids_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ids that occur, sorted; 0 is none."""
    found: NDArray[np.int64] = np.unique(ids_N[ids_N != 0])
    return found


@dataclass(frozen=True)
class _Table:
    """Id in rising order, class id and area of every object of an image."""

    ids: NDArray[np.int64]
    classes: NDArray[np.int32]
    areas: NDArray[np.int64]

    @classmethod
    def of(cls, job: Job, image: Image) -> _Table:
        """Read the table that the run wrote."""
        numbers = {spec["name"]: spec["id"] for spec in job.classes}
        ids, classes, areas = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for table in open_objects(job, image):
            column = table["class"].combine_chunks()
            of_index = np.array([numbers[name] for name in column.dictionary.to_pylist()], np.int32)
            ids.append(table["id"].to_numpy())
            classes.append(of_index[column.indices.to_numpy()])
            areas.append(table["area_px"].to_numpy())
        return cls(np.concatenate(ids), np.concatenate(classes), np.concatenate(areas))
