"""The mask of a block: from its tiles, or where blocks blend with each other from their seam files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.engine.block_pixels import pixel_digest, require_class_ids
from pipeline.engine.exports import block_store_keys, discard_stored, read_stored, write_block, write_mask, write_probs
from pipeline.engine.job import Job
from pipeline.engine.parts import PartFiles
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.prediction import BlockPixels, Predicted, predict_tiles, read_block, stain_notes, take_notes
from pipeline.engine.resources import Resources
from pipeline.engine.seams import JoinedBlock, gather_seams
from pipeline.engine.stopwatch import Stopwatch
from pipeline.engine.thumbnails import leave_thumbnails
from pipeline.inputs import Image, hash_values
from pipeline.raster import ArrayRaster, Header
from pipeline.records import Block, Receipt

__all__ = ["Predict"]

OBJECT_KINDS = ("maps", "probability", "probs")
"""Kinds of the temporary groups that hold what is predicted besides the mask, for the phases of objects."""


class Predict(Phase[BlockPixels | JoinedBlock, Predicted]):
    """Segment a block, count its mask against the truth, and write it."""

    after = ("skip", "fit", "score")
    reads = ("skip", "fit")
    follows = ("score",)
    is_result = True

    def applies(self, job: Job, image: Image) -> bool:
        """Every image that is segmented."""
        return job.goal == "segment"

    def takes_time(self, job: Job, image: Image) -> bool:
        """Where blocks blend, the time goes into scores: adding them up takes hardly any."""
        return not job.blends_blocks(image)

    def reads_parts_of(self, job: Job, image: Image) -> Sequence[str]:
        """Where blocks blend, the seam files."""
        return ("score",) if job.blends_blocks(image) else ()

    def arrays(self, job: Job, image: Image) -> Sequence[str]:
        """The mask and the probabilities, and all that belongs to objects, also if a run no longer asks for them."""
        temporary = [PartFiles(job, image).store_key(kind) for kind in OBJECT_KINDS]
        return [*block_store_keys(job, image), *temporary, job.ids_key(image), job.table_key(image)]

    def stored_digest(self, job: Job, block: Block, receipt: Receipt) -> str | None:
        """The digest of the mask in the block store."""
        pixels_CYX = read_stored(job, block, receipt)
        return None if pixels_CYX is None else pixel_digest(pixels_CYX[0])

    def discard(self, job: Job, block: Block) -> None:
        """Remove its shards, and the exports of an image of one block."""
        discard_stored(job, block)

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> BlockPixels | JoinedBlock:
        """Read pixels, or seam files."""
        return gather_seams(resources, block) if resources.job.blends_blocks(block.image) else read_block(resources, block)

    def work(self, resources: Resources, block: Block, loaded: BlockPixels | JoinedBlock, watch: Stopwatch) -> Predicted:
        """Make the mask, and count it."""
        job = resources.job
        if isinstance(loaded, JoinedBlock):
            with watch("stitch"):
                result = loaded.stitch()
            with watch("count"):
                return result.finish()
        if job.model is not None and job.model.takes_ids:
            for tile in loaded.tiles or ():
                require_class_ids(loaded.pixels_CYX[0][tile.core.relative_to(loaded.region).slices], tile.core, job.num_classes, "value")
        result, _ = predict_tiles(resources, block, loaded, watch)
        with watch("count"):
            return result.finish(take_notes(resources))

    def save(self, resources: Resources, block: Block, worked: Predicted, watch: Stopwatch) -> ReceiptFields:
        """Write the block's shards; for an image of one block, every export."""
        job = resources.job
        with watch("compute"):
            mask_YX, probs_KYX = worked.values["mask"], worked.values["probs"]
        files = write_probs(resources, block, probs_KYX) if job.probs else {}  # first: exports of a single block may hold them
        files = write_mask(resources, block, mask_YX) | files
        if job.instances is not None:
            files |= _write_for_objects(resources, block, worked.values)
        fields: ReceiptFields = {"digest": pixel_digest(mask_YX), "files": files, "counts": worked.counts}
        notes = (*worked.notes, *stain_notes(block))
        if job.is_single(block.image):
            fields["written"] = hash_values(*job.exports_of(block.image))
            notes += leave_thumbnails(job, block.image, ArrayRaster(mask_YX))
        return {**fields, "truth_error": worked.truth_error, "notes": notes}


def _write_for_objects(resources: Resources, block: Block, values: Mapping[str, Any]) -> dict[str, int]:
    """Write what the later phases need besides the mask to tell objects apart and to measure them."""
    job, image, files = resources.job, block.image, dict[str, int]()
    assert job.instances is not None
    for kind in OBJECT_KINDS:
        if (pixels := values[kind]) is not None and (kind != "probs" or job.instances.uses_probs):
            channels = len(pixels) if pixels.ndim == 3 else 1
            header = Header(image.header.shape, channels, pixels.dtype.name, image.header.planes)
            files |= write_block(resources, block, pixels, PartFiles(job, image).store_key(kind), header)
    return files
