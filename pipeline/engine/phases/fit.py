"""Global statistics: summarise every block with content, add up the summaries, fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.block_pixels import read_zero_filled
from pipeline.engine.job import Job
from pipeline.engine.phases import Phase, ReceiptFields, Reduction
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.errors import BlockError
from pipeline.inputs import Image
from pipeline.records import Block
from pipeline.statistics import Content, encode_summary

__all__ = ["Fit"]


Pixels = tuple[NDArray[Any], NDArray[np.bool_] | None]
"""pixels_CYX, and the pixels that count (Y, X); None: all."""


class Fit(Phase[Pixels | None, str]):
    """Summarise the raw pixels of each block; the statistics of an image are fitted to the sum of its summaries."""

    after = ("tissue",)
    reads = ("tissue",)

    def applies(self, job: Job, image: Image) -> bool:
        """Where the model or the normalisation asks for statistics."""
        return job.goal == "segment" and bool(job.fitters)

    def reduction(self, job: Job) -> Reduction:
        """Add the summaries up, then fit."""
        return job.fitters

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> Pixels | None:
        """Read the block with the fitters' halo, and find the pixels that count; None if no pixel counts."""
        if block.lost:
            raise BlockError("the pixels that count are unknown: see the failure of this image in phase tissue")
        content = Content.from_json(block.fit)
        if not content.has_any(block.box, block.plane):
            return None
        region = block.box.grow(resources.job.fitters.halo)
        pixels_CYX, valid_YX = read_zero_filled(resources.image(block.image), region, block.plane)
        return pixels_CYX, content.counted(pixels_CYX, valid_YX, region, block.plane)

    def work(self, resources: Resources, block: Block, loaded: Pixels | None, watch: Stopwatch) -> str:
        """Summarise the block."""
        return "" if loaded is None else encode_summary(resources.job.fitters.observe(*loaded, block.box, block.plane))

    def save(self, resources: Resources, block: Block, worked: str, watch: Stopwatch) -> ReceiptFields:
        """Write nothing: the summary travels on the receipt."""
        return {"payload": worked}
