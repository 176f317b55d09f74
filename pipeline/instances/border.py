"""Objects from the interior probability of a network that learned interior and border as classes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from pipeline.instances import Labels, Region
from pipeline.instances._basins import climb, distance_to_outside, smoothed
from pipeline.instances._foreground import ForegroundMethod

__all__ = ["Border"]

INTERIOR = "interior"


class Border(ForegroundMethod):
    """Decodes a network with the outputs background, interior and border, such as the bundle ``nuclei``.

    Caicedo et al. 2019, Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl
    (doi:10.1038/s41592-019-0612-7). The model gives ``interior`` (1, Y, X), the probability of an object's inside without its border, in
    [0, 1]. Pixels of all wanted classes are divided at once, on a height: the distance to the outside times that probability, smoothed by
    a Gaussian. Each peak is an object, with the pixels from which a climb leads to it. Two objects are one if the pass between them is
    lower than the lower peak by at most the share ``depth``. An object has the wanted class of most of its pixels.

    An object depends on its connected component and on what lies within 3 ``blur`` of it, as with ``watershed``. The defaults were chosen
    for the bundle ``nuclei``, on its training images.

    Example::

        instances: {name: border, of: [nucleus], min_area: 15}
    """

    maps: ClassVar[tuple[str, ...]] = (INTERIOR,)

    blur: float = Field(
        default=1.0, ge=0, le=32, description="sigma of the Gaussian that smooths the height, cut at 3 sigma, pixels; 0: none"
    )
    depth: float = Field(default=0.2, ge=0, le=1, description="least depth of the pass between two objects, as a share of the lower peak")

    def label(self, region: Region) -> Labels:
        """Label the objects in row-major order of their peaks."""
        mask_YX = self.foreground(region) > 0
        height_YX = distance_to_outside(mask_YX) * np.clip(region.maps[INTERIOR][0], 0, 1).astype(np.float32)
        objects_YX = climb(smoothed(height_YX, self.blur), mask_YX).merged(lambda peak, between, _: peak - between <= self.depth * peak)
        return Labels.by_majority(objects_YX, region)
