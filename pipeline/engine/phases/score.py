"""Scores of blocks that blend with each other: predict a block's own tiles, and leave the scores in a seam file."""

from __future__ import annotations

from pipeline.engine.block_pixels import pixel_digest
from pipeline.engine.job import Job
from pipeline.engine.parts import PartFiles
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.prediction import BlockPixels, Predicted, predict_tiles, read_block, take_notes
from pipeline.engine.resources import Resources
from pipeline.engine.seams import SEAMS, seam_shares_of
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image
from pipeline.records import Block

__all__ = ["Score"]


class Score(Phase[BlockPixels, Predicted]):
    """Predict the tiles of a block, and leave its mask away from the seams and its shares of the seams for ``predict``."""

    after = ("skip", "fit")
    reads = ("skip", "fit")
    prepares = "predict"

    def applies(self, job: Job, image: Image) -> bool:
        """Where tiles of several blocks are blended."""
        return job.goal == "segment" and job.blends_blocks(image)

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> BlockPixels:
        """Read pixels and truth."""
        return read_block(resources, block)

    def work(self, resources: Resources, block: Block, loaded: BlockPixels, watch: Stopwatch) -> Predicted:
        """Predict every tile, and blend as far as the block's own tiles go."""
        result, blender = predict_tiles(resources, block, loaded, watch)
        assert blender is not None
        values = {**result.values(), "reach": blender.reach, "truth_digest": loaded.truth_digest, **seam_shares_of(blender)}
        return Predicted(resources.predictor.ops.fetch(values), "", take_notes(resources))

    def save(self, resources: Resources, block: Block, worked: Predicted, watch: Stopwatch) -> ReceiptFields:
        """Write the seam file."""
        with watch("compute"):
            values = worked.values
        files = PartFiles(resources.job, block.image).write(SEAMS, block, values)
        return {"digest": pixel_digest(values["mask"]), "files": files, "notes": worked.notes}
