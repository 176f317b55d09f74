"""Skip glass, collars and padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.skips import Skip, SkippedImage
from pipeline.statistics import CellMap, find_empty_areas

__all__ = ["Tissue"]


class Tissue(Skip):
    """Keeps tissue, and around it what tiles see of its surroundings; skips large even areas of glass, collars and padding.

    They are found on a coarse picture, as for the statistics of an image: in colour images of bright field large areas that are
    bright, grey and even; in any image areas of exactly 0 or of the greatest value. An image with nothing else is kept.

    Example::

        skip: {name: tissue}
    """

    def find(self, image: SkippedImage) -> dict[str, Any]:
        """Find empty cells, and take the halo off them."""
        from scipy import ndimage

        planes = image.cells()
        greatest = max(image.greatest(cells_CYX[:, valid_YX]) for cells_CYX, valid_YX in planes)
        kept = []
        for cells_CYX, valid_YX in planes:
            areas = find_empty_areas(cells_CYX, valid_YX, side=image.side, is_color=image.own.is_color, greatest=greatest)
            kept.append(ndimage.maximum_filter(~areas.cells, 2 * image.num_cells + 1))
        cells_PYX = np.stack(kept)
        return {} if cells_PYX.all() else CellMap(cells_PYX, image.side, image.header.shape).to_json()
