"""Pyramid and exports of an image, once all of its blocks are committed."""

from __future__ import annotations

from typing import Any

from pipeline.engine.exports import finish_copy, finish_mask, stored_mask
from pipeline.engine.job import Job
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.engine.thumbnails import leave_thumbnails
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
        # The key holds the digests of all pixels: a later count of this mask depends on them.
        if job.goal != "segment":
            return {"files": finish_copy(job, block), "digest": block.key}
        files = finish_mask(job, block)
        return {"files": files, "digest": block.key, "notes": leave_thumbnails(job, block.image, stored_mask(resources, block.image))}
