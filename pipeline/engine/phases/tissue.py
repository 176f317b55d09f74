"""Find the pixels that count for an image's statistics, on a coarse picture."""

from __future__ import annotations

from pipeline.engine.cell_pictures import find_content
from pipeline.engine.job import Job
from pipeline.engine.phases import OneFinding, Phase, ReceiptFields, Reduction, finding
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image
from pipeline.records import Block
from pipeline.statistics import Content

__all__ = ["Tissue"]


class Tissue(Phase[Content, Content]):
    """Find which pixels are not glass, collar or padding."""

    is_per_image = True

    def applies(self, job: Job, image: Image) -> bool:
        """If statistics are fitted to colours. In grey images an even background counts: nothing tells it from padding."""
        return job.goal == "segment" and bool(job.fitters) and image.header.is_color

    def reduction(self, job: Job) -> Reduction:
        """Pass the finding on."""
        return OneFinding()

    def takes_time(self, job: Job, image: Image) -> bool:
        """A coarse picture takes little."""
        return False

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> Content:
        """Read the coarse picture, and find its empty areas."""
        return find_content(block.image)

    def work(self, resources: Resources, block: Block, loaded: Content, watch: Stopwatch) -> Content:
        """Nothing is left to compute."""
        return loaded

    def save(self, resources: Resources, block: Block, worked: Content, watch: Stopwatch) -> ReceiptFields:
        """Write nothing: the finding travels on the receipt."""
        return {"payload": finding(worked.to_json())}
