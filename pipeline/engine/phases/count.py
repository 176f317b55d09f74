"""Counting a mask that exists: ``evaluate``, and masks whose truth or classes have changed since they were predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from pipeline.engine.block_pixels import read_mask, read_truth
from pipeline.engine.exports import mask_of
from pipeline.engine.job import Job
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image, hash_values
from pipeline.records import Block, Blocks
from pipeline.statistics import Counts, count_pixels

__all__ = ["Count"]


class Count(Phase[tuple[NDArray[Any], NDArray[Any] | None, str], tuple[Counts, str]]):
    """Count a mask against its truth."""

    after = ("predict", "finish")
    is_result = True

    def applies(self, job: Job, image: Image) -> bool:
        """Where masks come from elsewhere; a run of its own masks counts them while it predicts."""
        return job.goal == "evaluate"

    def recounts(self, job: Job, masks: Blocks, count_key: str) -> Sequence[Block]:
        """These blocks, where the mask has been kept."""
        mask = mask_of(job, masks.image)
        return [] if mask is None else replace(masks, phase=self.name, image=mask, key=hash_values(masks.key, count_key))

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
        """Read mask and truth."""
        return read_mask(resources, block), *read_truth(resources, block)

    def work(
        self, resources: Resources, block: Block, loaded: tuple[NDArray[Any], NDArray[Any] | None, str], watch: Stopwatch
    ) -> tuple[Counts, str]:
        """Count pixels by true and predicted class."""
        mask_YX, truth_YX, truth_error = loaded
        return count_pixels(mask_YX, truth_YX, resources.job.num_classes), truth_error

    def save(self, resources: Resources, block: Block, worked: tuple[Counts, str], watch: Stopwatch) -> ReceiptFields:
        """Write nothing: the counts travel on the receipt."""
        return {"counts": worked[0], "truth_error": worked[1]}
