"""Pyramid and exports of an image, once all of its blocks are committed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from pipeline.engine.exports import finish_copy, finish_mask, kept_mask, open_finished
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
    keeps_mask: ClassVar[bool] = True

    def applies(self, job: Job, image: Image) -> bool:
        """Images of several blocks; an image of one block is exported with it."""
        return job.goal != "evaluate" and not job.is_single(image)

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """Classes and writers."""
        return job.exports_of(image)

    def reads_parts_of(self, job: Job, image: Image) -> Sequence[str]:
        """The blocks of a mask whose place a file takes."""
        return ("predict",) if job.replacing_writer(image) is not None else ()

    def needs_pixels_of(self, job: Job, image: Image) -> Sequence[str]:
        """The blocks of a mask, also where the writers of an earlier execution have made them temporary."""
        return ("predict",) if job.goal == "segment" else ()

    def left_by_failure(self, job: Job, block: Block) -> str:
        """The file that holds the mask since an earlier execution is still there."""
        kept = job.kept.get(block.image.name)
        return "" if kept is None else json.dumps(asdict(kept))

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
        with open_finished(job, block.image) as mask:
            notes = leave_thumbnails(job, block.image, mask)
        fields: ReceiptFields = {"files": finish_mask(job, block), "digest": block.key, "notes": notes}
        if (kept := kept_mask(job, block)) is not None:
            fields["payload"] = json.dumps(asdict(kept))
        return fields
