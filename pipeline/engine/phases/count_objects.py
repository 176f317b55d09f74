"""How many objects an image has, and how many of them are right."""

from __future__ import annotations

from collections.abc import Sequence
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
from pipeline.statistics import ObjectCounts, count_objects, sum_pairs

__all__ = ["CountObjects"]

Objects = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Ids in rising order, and the class id of each."""
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
        found = _read_pairs(job, block) if self._has_pairs(job, image) else None
        if found is None:
            ids, classes, areas = _table(job, image)
            pairs_N3 = np.stack([ids, np.zeros_like(ids), areas], axis=1)
            return count_objects(pairs_N3, (ids, classes), None)
        pairs_N3, truth = found
        seen = np.unique(pairs_N3[:, 0])
        seen = seen[seen != 0]
        if job.goal == "evaluate":
            return count_objects(pairs_N3, (seen, np.full(len(seen), job.object_classes[0], np.int32)), truth)
        ids, classes, _ = _table(job, image)
        return count_objects(pairs_N3, (seen, classes[np.searchsorted(ids, seen)]), truth)

    def work(self, resources: Resources, block: Block, loaded: Counted, watch: Stopwatch) -> Counted:
        """Nothing is left to compute."""
        return loaded

    def save(self, resources: Resources, block: Block, worked: Counted, watch: Stopwatch) -> ReceiptFields:
        """Write nothing: the counts travel on the receipt."""
        # A class without objects in this image counts as well: it has none.
        return {"objects": {class_id: worked.get(class_id, ObjectCounts()) for class_id in resources.job.object_classes}}


def _read_pairs(job: Job, block: Block) -> tuple[NDArray[np.int64], Objects] | None:
    """Return the pairs of an image, and its true objects; None where its truth cannot be used."""
    files = [dict(file) for _, file in PartFiles(job, block.image).each("pairs", block.lost)]
    if any("problem" in file for file in files):
        return None
    none = np.zeros(0, np.int64)
    ids, first = np.unique(np.concatenate([none, *(file["truth_ids"] for file in files)]), return_index=True)
    classes = np.concatenate([none.astype(np.int32), *(file["truth_classes"] for file in files)])[first]
    return sum_pairs([file["pairs"] for file in files]), (ids, classes)


def _table(job: Job, image: Image) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Return id, class id and area of every object."""
    columns: list[list[NDArray[Any]]] = [[np.zeros(0, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]]
    numbers = {spec["name"]: spec["id"] for spec in job.classes}
    for table in open_objects(job, image):
        columns[0].append(table["id"].to_numpy())
        columns[1].append(np.array([numbers[name] for name in table["class"].to_pylist()], np.int32))
        columns[2].append(table["area_px"].to_numpy())
    ids, classes, areas = (np.concatenate(parts) for parts in columns)
    return ids.astype(np.int64), classes, areas
