"""The overlap of predicted and truth objects: pixels of each pair of ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.block_pixels import pixel_digest, read_truth
from pipeline.engine.exports import stored_mask
from pipeline.engine.job import Job
from pipeline.engine.object_ids import ids_of
from pipeline.engine.objects import Arrays, joins_truth, truth_parts
from pipeline.engine.parts import PartFiles
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.errors import BlockError
from pipeline.inputs import Image, hash_values
from pipeline.records import Block
from pipeline.statistics import pair_ids
from pipeline.storage import BlockStore

__all__ = ["Pair"]

Ids = tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None, NDArray[np.bool_]]
"""predicted_YX; truth_YX and the truth class of each pixel (Y, X), both None if the truth cannot be used; the pixels that are counted."""


class Pair(Phase[Ids | None, Arrays]):
    """Count the pixels that each predicted id shares with each truth id, where there are both a prediction and truth."""

    after = ("measure", "join_truth")
    reads = ("join_truth",)
    follows = ("label", "match", "join", "measure", "label_truth", "match_truth", "join_truth")

    def applies(self, job: Job, image: Image) -> bool:
        """Where objects are scored and there is truth."""
        return job.scores_objects and image.truth is not None

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """The truth, and the meaning of its values."""
        return (list(job.object_classes), *truth_parts(job, image))

    def reads_parts_of(self, job: Job, image: Image) -> Sequence[str]:
        """The ids of a truth that has none of its own."""
        return ("label_truth", "join_truth") if joins_truth(job, image) else ()

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> Ids | None:
        """Read predicted and truth ids; None: the truth cannot be used, and the objects of a run are counted from its table."""
        job = resources.job
        classes_YX, _ = read_truth(resources, block)
        if classes_YX is None and job.goal != "evaluate":
            return None  # counting the mask reports it
        predicted_YX, counted_YX = self._predicted(resources, block)
        if classes_YX is None:
            return predicted_YX, None, None, counted_YX
        counted_YX &= classes_YX != job.fill
        if joins_truth(job, block.image):
            lost = tuple(block.fit.get("truth_lost", ()))
            if block.id in lost or "truth_objects" not in block.fit:
                raise BlockError("the objects of its truth were not joined: see the earlier failure")
            truth_YX = ids_of(job, block, "truth", block.box, lost)
        else:
            raw_YX = resources.truth(block.image).read_valid(block.box, block.plane)[0][0].astype(np.int64)
            truth_YX = np.where(np.isin(classes_YX, job.object_classes), raw_YX, 0)
        return predicted_YX, truth_YX, classes_YX, counted_YX

    def _predicted(self, resources: Resources, block: Block) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the predicted ids, and where there is a prediction."""
        job, image = resources.job, block.image
        if job.goal == "evaluate":
            ids_CYX, valid_YX = resources.image(image).read_valid(block.box, block.plane)
            return ids_CYX[0], np.ones(block.box.shape, np.bool_) if valid_YX is None else valid_YX.copy()
        if block.id in block.lost:
            raise BlockError("it has no ids: see the earlier failure")
        store = BlockStore.open(job.storage.below(job.ids_key(image)).below("0"))
        mask_YX = stored_mask(resources, image).read(block.box, block.plane)[0]
        return store.read(block.box, block.plane)[0], mask_YX != job.fill

    def work(self, resources: Resources, block: Block, loaded: Ids | None, watch: Stopwatch) -> Arrays:
        """Count."""
        if loaded is None:
            return {"problem": np.array(1)}
        predicted_YX, truth_YX, classes_YX, counted_YX = loaded
        if truth_YX is None or classes_YX is None:  # without usable truth, the objects of a label image are still counted
            return {"problem": np.array(1), "pairs": pair_ids(predicted_YX, np.zeros_like(predicted_YX), counted_YX)}
        with watch("count"):
            pairs_N3 = pair_ids(predicted_YX, truth_YX, counted_YX)
            true_ids, first = np.unique(np.where(counted_YX, truth_YX, 0), return_index=True)
        first, true_ids = first[true_ids != 0], true_ids[true_ids != 0].astype(np.int64)
        return {"pairs": pairs_N3, "truth_ids": true_ids, "truth_classes": classes_YX.ravel()[first].astype(np.int32)}

    def save(self, resources: Resources, block: Block, worked: Arrays, watch: Stopwatch) -> ReceiptFields:
        """Write the pairs."""
        files = PartFiles(resources.job, block.image).write("pairs", block, worked)
        return {"digest": hash_values([pixel_digest(array) for array in worked.values()]), "files": files}
