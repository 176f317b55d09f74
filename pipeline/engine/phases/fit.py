"""Global statistics: summarise every block of an image, add the summaries up, conclude."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from pipeline.engine.block_pixels import read_reflected, valid_pixels
from pipeline.engine.job import Job
from pipeline.engine.phases import Phase, ReceiptFields, Reduction
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image
from pipeline.records import Block
from pipeline.statistics import encode_summary

__all__ = ["Fit"]


class Fit(Phase[NDArray[Any], str]):
    """Summarise the raw pixels of each block; the statistics of an image are fitted to the sum of its summaries."""

    def applies(self, job: Job, image: Image) -> bool:
        """Where the model or the normalisation asks for statistics."""
        return job.goal == "segment" and bool(job.fitters)

    def reduction(self, job: Job) -> Reduction:
        """Add the summaries up, then fit."""
        return job.fitters

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> NDArray[Any]:
        """Read the block, and around it what the fitters ask for."""
        raster = resources.raster(block.image.path, block.image.reader)
        return read_reflected(raster, block.box.grow(resources.job.fitters.halo), block.plane)

    def work(self, resources: Resources, block: Block, loaded: NDArray[Any], watch: Stopwatch) -> str:
        """Summarise the block."""
        valid_YX = valid_pixels(loaded, block.image.header)
        return encode_summary(resources.job.fitters.observe(loaded, valid_YX, block.box, block.plane))

    def save(self, resources: Resources, block: Block, worked: str, watch: Stopwatch) -> ReceiptFields:
        """Write nothing: the summary travels on the receipt."""
        return {"payload": worked}
