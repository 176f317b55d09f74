"""Areas on the ground of an image's classes and zones, counted from its mask."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from pipeline.engine.areas import areas_key, count_areas, counts_areas
from pipeline.engine.block_pixels import mask_ids, read_mask, read_truth
from pipeline.engine.exports import mask_of
from pipeline.engine.job import Job
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.errors import BlockError
from pipeline.inputs import Image, ImageZones
from pipeline.raster import has_equal_rows
from pipeline.records import Block
from pipeline.statistics import AreaSums

__all__ = ["CountAreas"]

Pixels = tuple[NDArray[Any], NDArray[Any] | None, ImageZones | None]
"""Mask and truth of a block, and the zones of its image."""


class CountAreas(Phase[Pixels, AreaSums]):
    """Count the areas of a block. Zones that have changed are counted again; nothing is predicted for that."""

    after = ("predict", "finish", "count")
    follows = ("predict", "count", "finish")

    def applies(self, job: Job, image: Image) -> bool:
        """Where the image has zones, and on maps whose rows are not equally large."""
        return counts_areas(job, image)

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """The zones, the state of their file, and the truth."""
        return (areas_key(job, image),)

    def takes_time(self, job: Job, image: Image) -> bool:
        """Counting takes little."""
        return False

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> Pixels:
        """Read the mask; the truth where its area is counted; and the zones."""
        job, image = resources.job, block.image
        zones = None
        if image.zones is not None:
            zones = image.zones.on(image)
            if changed := image.zones.states.changed():
                raise BlockError(f"{changed}: changed while it was read. Run again: the zones are then counted anew")
        truth_YX = None if has_equal_rows(image.header) else read_truth(resources, block)[0]
        if job.goal == "evaluate":
            return read_mask(resources, block), truth_YX, zones
        if (mask := mask_of(job, image)) is None:
            raise BlockError("its mask is missing: see the earlier failure, or run with --fresh")
        mask_CYX, valid_YX = resources.image(mask).read_valid(block.box, block.plane)
        return mask_ids(job, mask_CYX[0], valid_YX, block.box), truth_YX, zones

    def work(self, resources: Resources, block: Block, loaded: Pixels, watch: Stopwatch) -> AreaSums:
        """Count."""
        with watch("count"):
            return count_areas(resources.job, block, *loaded)

    def save(self, resources: Resources, block: Block, worked: AreaSums, watch: Stopwatch) -> ReceiptFields:
        """Write nothing: the counts travel on the receipt."""
        return {"numbers": worked.numbers(areas_key(resources.job, block.image))}
