"""Pyramid and exports of an image, once all of its blocks are committed."""

from __future__ import annotations

from typing import Any

from pipeline.engine.exports import finish_copy, finish_mask
from pipeline.engine.job import Job
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image
from pipeline.records import Block

__all__ = ["Finish"]


class Finish(Phase[None, None]):
    """Write what is made of the whole image; may be repeated."""

    after = ("predict", "copy", "tabulate")
    is_per_image = True

    def applies(self, job: Job, image: Image) -> bool:
        """Images of several blocks; an image of one block is exported with it."""
        return job.goal != "evaluate" and not job.is_single(image)

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """Classes and writers."""
        return job.exports

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> None:
        """Read nothing ahead: writers read the block store."""

    def work(self, resources: Resources, block: Block, loaded: None, watch: Stopwatch) -> None:
        """Compute nothing."""

    def save(self, resources: Resources, block: Block, worked: None, watch: Stopwatch) -> ReceiptFields:
        """Write the pyramid and every export."""
        job = resources.job
        files = finish_mask(job, block) if job.goal == "segment" else finish_copy(job, block)
        # The key holds the digests of all pixels: a later count of this mask depends on them.
        return {"files": files, "digest": block.key}
