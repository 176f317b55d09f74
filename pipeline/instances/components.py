"""Connected components: pixels of a class that touch are one object."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.instances import Joins, Labels, Region
from pipeline.instances._foreground import EIGHT, FOUR, ForegroundMethod

__all__ = ["Components"]


class Components(ForegroundMethod):
    """Connected components of each class, for objects that do not touch, such as buildings.

    The result is exact for any cut into blocks, ``fill_holes`` and ``smooth`` included, because labels of two blocks that share a pixel
    are one object. Diagonal neighbours are connected by default, as in OpenCV, MATLAB and scikit-image; ``connectivity: 4`` is the default
    of GDAL and ``scipy.ndimage.label``. Each class is labelled by itself, so that touching objects of different classes stay apart.

    Example::

        instances: {name: components, min_area: 20}
    """

    joins: ClassVar[Joins] = "overlap"

    halo: int = Field(default=1, ge=1, le=4096, description="context of a block, pixels of the working grid: 1 + fill_holes + 2 * smooth")
    connectivity: Literal[4, 8] = Field(default=8, description="4: pixels are connected by sides; 8: by sides and corners")

    def label(self, region: Region) -> Labels:
        """Label the components of each class, those of the lowest class first."""
        from scipy import ndimage

        wanted_YX = self.foreground(region)
        labels_YX = np.zeros(wanted_YX.shape, np.int32)
        counts: list[int] = []
        for number in range(1, len(region.classes) + 1):
            found_YX, count = ndimage.label(wanted_YX == number, EIGHT if self.connectivity == 8 else FOUR)
            np.add(found_YX, sum(counts), out=labels_YX, where=found_YX > 0)
            counts.append(count)
        return Labels(labels_YX, np.repeat(np.array(sorted(region.classes), np.int32), counts))
