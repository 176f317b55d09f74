"""Areas on the ground that went from one class to another, on maps whose rows are not equally large."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from pipeline.engine.block_pixels import read_mask, read_truth
from pipeline.engine.job import Job
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image
from pipeline.raster import has_equal_rows, row_areas
from pipeline.records import Block
from pipeline.statistics import count_change

__all__ = ["CountChange"]

STRIP_ROWS = 64  # that are counted at once: rows of pairs of classes may be many
Pixels = tuple[NDArray[Any], NDArray[Any] | None]
"""Mask and truth of a block."""


class CountChange(Phase[Pixels, dict[str, int]]):
    """Count pixels and areas of a block by true and predicted class.

    Where all pixels are equally large, the confusion matrix says it: no block is read again.
    """

    after = ("count",)
    follows = ("count",)

    def applies(self, job: Job, image: Image) -> bool:
        """Where masks that exist are compared on a map of degrees or Mercator."""
        return job.goal == "evaluate" and not job.scores_objects and image.truth is not None and not has_equal_rows(image.header)

    def takes_time(self, job: Job, image: Image) -> bool:
        """Counting takes little."""
        return False

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> Pixels:
        """Read mask and truth."""
        return read_mask(resources, block), read_truth(resources, block)[0]

    def work(self, resources: Resources, block: Block, loaded: Pixels, watch: Stopwatch) -> dict[str, int]:
        """Count; a truth that cannot be counted is told by the phase before."""
        mask_YX, truth_YX = loaded
        areas_Y = row_areas(block.image.header, block.box.y0, block.box.y1)
        if truth_YX is None or areas_Y is None:
            return {}
        classes, numbers = resources.job.num_classes, dict[str, int]()
        with watch("count"):
            for first in range(0, len(mask_YX), STRIP_ROWS):
                rows = slice(first, first + STRIP_ROWS)
                for name, number in count_change(mask_YX[rows], truth_YX[rows], classes, areas_Y[rows]).items():
                    numbers[name] = numbers.get(name, 0) + number
        return numbers

    def save(self, resources: Resources, block: Block, worked: dict[str, int], watch: Stopwatch) -> ReceiptFields:
        """Write nothing: the counts travel on the receipt."""
        return {"numbers": worked}
