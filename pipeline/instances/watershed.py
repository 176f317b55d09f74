"""Watershed: touching objects are separated where they are narrow, or where the probability is low."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.instances import Labels, Region
from pipeline.instances._basins import climb, distance_to_outside, smoothed
from pipeline.instances._foreground import ForegroundMethod

__all__ = ["Watershed"]


class Watershed(ForegroundMethod):
    """Separates touching objects of a class, with any model.

    Each class is labelled by itself, on a height: the distance to the nearest pixel of another class, or the probability of the class,
    smoothed by a Gaussian. Each peak is an object, with the pixels from which a climb leads to it (Beucher and Lantuejoul 1979). Two
    objects are one if the pass between them is lower than the lower peak by at most the share ``depth``, or if their peaks are nearer
    than ``min_distance``.

    An object depends on its connected component and on what lies within 3 ``blur`` of it: each region that sees these finds the same
    object. Where a chain of touching objects is cut by the border of a region, those near the cut can differ. Elongated and branching
    objects fall into pieces: take ``components`` for them.

    Example::

        instances: {name: watershed, of: [nucleus], min_area: 20}
    """

    height: Literal["distance", "probability"] = Field(
        default="distance", description="what the objects are the peaks of: distance to the outside, or class probability"
    )
    blur: float = Field(
        default=1.0, ge=0, le=32, description="sigma of the Gaussian that smooths the height, cut at 3 sigma, pixels; 0: none"
    )
    depth: float = Field(default=0.1, ge=0, le=1, description="least depth of the pass between two objects, as a share of the lower peak")
    min_distance: float = Field(default=0.0, ge=0, description="objects whose peaks are nearer to each other are one, pixels; 0: no limit")

    @property
    def uses_probs(self) -> bool:
        """Only if the height is the probability."""
        return self.height == "probability"

    def label(self, region: Region) -> Labels:
        """Label the objects of each class, those of the lowest class first."""
        wanted_YX = self.foreground(region)
        labels_YX = np.zeros(wanted_YX.shape, np.int32)
        classes: list[int] = []
        for number, class_id in enumerate(sorted(region.classes), 1):
            mask_YX = wanted_YX == number
            if not mask_YX.any():
                continue
            found_YX = climb(self._height(mask_YX, class_id, region), mask_YX).merged(self._is_one)
            used = np.bincount(found_YX.ravel()) > 0
            used[0] = False
            numbers = np.where(used, len(classes) + np.cumsum(used), 0).astype(np.int32)
            labels_YX += numbers[found_YX]
            classes += [class_id] * int(used.sum())
        return Labels(labels_YX, np.array(classes, np.int32))

    def _height(self, mask_YX: NDArray[np.bool_], class_id: int, region: Region) -> NDArray[np.float32]:
        if self.height == "distance":
            height_YX = distance_to_outside(mask_YX)
        else:
            assert region.probs_KYX is not None
            height_YX = np.where(mask_YX, region.probs_KYX[class_id], 0).astype(np.float32)
        return smoothed(height_YX, self.blur)

    def _is_one(self, peak: float, between: float, distance: float) -> bool:
        return peak - between <= self.depth * peak or distance < self.min_distance
