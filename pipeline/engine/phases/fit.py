"""Global statistics: summarise every block of an image, add the summaries up, conclude."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.block_pixels import read_zero_filled
from pipeline.engine.job import Job
from pipeline.engine.phases import Phase, ReceiptFields, Reduction
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image
from pipeline.records import Block
from pipeline.statistics import encode_summary

__all__ = ["Fit"]


class Fit(Phase[tuple[NDArray[Any], NDArray[np.bool_] | None], str]):
    """Summarise the raw pixels of each block; the statistics of an image are fitted to the sum of its summaries."""

    def applies(self, job: Job, image: Image) -> bool:
        """Where the model or the normalisation asks for statistics."""
        return job.goal == "segment" and bool(job.fitters)

    def reduction(self, job: Job) -> Reduction:
        """Add the summaries up, then fit."""
        return job.fitters

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Read the block, and around it what the fitters ask for; find its valid pixels."""
        raster = resources.image(block.image)
        return read_zero_filled(raster, block.box.grow(resources.job.fitters.halo), block.plane)

    def work(self, resources: Resources, block: Block, loaded: tuple[NDArray[Any], NDArray[np.bool_] | None], watch: Stopwatch) -> str:
        """Summarise the block."""
        return encode_summary(resources.job.fitters.observe(*loaded, block.box, block.plane))

    def save(self, resources: Resources, block: Block, worked: str, watch: Stopwatch) -> ReceiptFields:
        """Write nothing: the summary travels on the receipt."""
        return {"payload": worked}
