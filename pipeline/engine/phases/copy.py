"""Copying pixels as they are: ``convert``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.block_pixels import pixel_digest
from pipeline.engine.exports import block_store_keys, discard_stored, read_stored, write_copy
from pipeline.engine.job import Job
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image
from pipeline.records import Block, Receipt

__all__ = ["Copy"]


class Copy(Phase[NDArray[Any], NDArray[Any]]):
    """Copy all channels of a block into the block store."""

    is_result = True

    def applies(self, job: Job, image: Image) -> bool:
        """Every image that is converted."""
        return job.goal == "convert"

    def arrays(self, job: Job, image: Image) -> Sequence[str]:
        """The converted image."""
        return block_store_keys(job, image)

    def stored_digest(self, job: Job, block: Block, receipt: Receipt) -> str | None:
        """The digest of the pixels in the block store."""
        pixels_CYX = read_stored(job, block, receipt)
        return None if pixels_CYX is None else pixel_digest(pixels_CYX)

    def discard(self, job: Job, block: Block) -> None:
        """Remove its shards, and the exports of an image of one block."""
        discard_stored(job, block)

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> NDArray[Any]:
        """Read all channels of the block; pixels that a mask or alpha excludes become nodata, because OME-Zarr has no masks."""
        pixels_CYX, declared_YX = resources.image(block.image).read_masked(block.box, block.plane)
        if declared_YX is None or declared_YX.all():
            return pixels_CYX
        nodata = block.image.header.nodata
        missing = np.nan if pixels_CYX.dtype.kind == "f" and nodata is None else nodata or 0
        return np.where(declared_YX, pixels_CYX, pixels_CYX.dtype.type(missing))

    def work(self, resources: Resources, block: Block, loaded: NDArray[Any], watch: Stopwatch) -> NDArray[Any]:
        """Change nothing."""
        return loaded

    def save(self, resources: Resources, block: Block, worked: NDArray[Any], watch: Stopwatch) -> ReceiptFields:
        """Write the block's shard."""
        return {"digest": pixel_digest(worked), "files": write_copy(resources, block, worked)}
