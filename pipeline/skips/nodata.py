"""Skip pixels without data."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.skips import Skip, SkippedImage
from pipeline.statistics import CellMap

__all__ = ["Nodata"]


class Nodata(Skip):
    """Keeps every pixel that holds data, and saves reading and predicting the others.

    Validity is read once for an image, from a coarse pyramid level if there is one, else at full resolution.

    Example::

        skip: {name: nodata}
    """

    def find(self, image: SkippedImage) -> dict[str, Any]:
        """Find the cells with data, and keep their neighbours too: a coarse level may have lost single pixels."""
        from scipy import ndimage

        may_miss = image.own.has_mask or image.own.nodata is not None or np.dtype(image.own.dtype).kind == "f"
        if not may_miss:
            return {}
        cells_PYX = np.stack([ndimage.maximum_filter(has_data_YX, 3) for has_data_YX in image.has_data()])
        return {} if cells_PYX.all() else CellMap(cells_PYX, image.side, image.header.shape).to_json()
