"""Skip glass, collars and padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.skips import Skip, SkippedImage
from pipeline.statistics import CellMap, find_empty_areas

__all__ = ["Tissue"]


class Tissue(Skip):
    """Keeps tissue and a margin of one halo; skips large even areas of glass, collars and padding.

    These are found on a coarse picture, as for the statistics of an image: in bright-field colour images large areas that are
    bright, grey and even; in any image areas of exactly 0 or of the greatest value. An image of nothing else is kept whole.

    Example::

        skip: {name: tissue}
    """

    def find(self, image: SkippedImage) -> dict[str, Any]:
        """Find the empty cells, and shrink them by the halo."""
        from scipy import ndimage

        planes = image.cells()
        greatest = max(image.greatest(cells_CYX[:, valid_YX]) for cells_CYX, valid_YX in planes)
        kept = []
        for cells_CYX, valid_YX in planes:
            areas = find_empty_areas(cells_CYX, valid_YX, side=image.side, is_color=image.own.is_color, greatest=greatest)
            kept.append(ndimage.maximum_filter(~areas.cells, 2 * image.num_cells + 1))
        cells_PYX = np.stack(kept)
        return {} if cells_PYX.all() else CellMap(cells_PYX, image.side, image.header.shape).to_json()
