"""Flows to the middle of an object, as Cellpose networks predict them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.instances import Instances, Labels, Region
from pipeline.instances._basins import climb
from pipeline.instances._foreground import fill_holes

__all__ = ["Flows"]

FLOWS, CELL_PROBABILITY = "flows", "cell_probability"
_SHORT = 8  # steps that are computed one by one; longer paths are composed of them


class Flows(Instances):
    """Decodes a network that predicts, in each pixel, whether it lies in an object and the direction to the object's middle.

    Stringer et al. 2021, Cellpose (doi:10.1038/s41592-020-01018-x). The model gives ``flows`` (2, Y, X), steps down and to the right in
    pixels, of length 1 at most (Cellpose networks give five times as much), and ``cell_probability`` (1, Y, X) in [0, 1]. Each pixel of
    a wanted class above ``threshold`` follows the flows, bilinearly interpolated; pixels that end at the same place are one object. Places
    are one if the smoothed density of ends has no clear dip between them, or if they are nearer than ``min_distance``. After every 8
    steps the position is rounded to a pixel, and the path goes on with the 8 steps of that pixel, so that 256 steps cost little more
    than 8. Cellpose's check of flow errors is left out. An object has the wanted class of most of its pixels.

    Cellpose fills holes and leaves out objects below 15 pixels: set ``fill_holes`` and ``min_area``.

    Example::

        instances: {name: flows, of: [nucleus], min_area: 15}
    """

    maps: ClassVar[tuple[str, ...]] = (FLOWS, CELL_PROBABILITY)

    threshold: float = Field(default=0.5, ge=0, lt=1, description="cell probability above which a pixel belongs to an object")
    steps: int = Field(default=200, ge=1, le=100_000, description="least number of steps along the flows; rounded up to 8, 16, 32, ...")
    min_distance: float = Field(default=3.0, ge=0, description="ends of flows that are nearer to each other are one object, pixels")
    fill_holes: int = Field(default=0, ge=0, description="holes of at most this height and width are filled, pixels; 0: none")

    def label(self, region: Region) -> Labels:
        """Label the objects in row-major order of the places where their flows end."""
        from scipy import ndimage

        mask_YX = (region.maps[CELL_PROBABILITY][0] > self.threshold) & (region.wanted() > 0)
        ends_YX = _follow(region.maps[FLOWS], mask_YX, self.steps)
        density_YX = np.bincount(ends_YX[mask_YX], minlength=mask_YX.size).reshape(mask_YX.shape).astype(np.float32)
        density_YX = ndimage.gaussian_filter(density_YX, 1.0, mode="constant", truncate=2.0)
        places_YX = climb(density_YX, density_YX > 0).merged(self._is_one)
        labels_YX = np.where(mask_YX, places_YX.ravel()[ends_YX], 0).astype(np.int32)
        return Labels.by_majority(fill_holes(labels_YX, self.fill_holes), region)

    def _is_one(self, peak: float, between: float, distance: float) -> bool:
        return peak - between <= _DIP * peak or distance < self.min_distance


_DIP = 0.5  # share of the lower peak of the density that separates two objects


def _follow(flows_DYX: NDArray[np.floating[Any]], mask_YX: NDArray[np.bool_], steps: int) -> NDArray[np.intp]:
    """Return the index, in row-major order, of the place where each pixel of a mask ends (Y, X); other pixels stay where they are.

    Positions are kept relative to the pixel where they begin, so that the result does not depend on where the array begins.
    """
    height, width = mask_YX.shape
    steps_YX2 = np.where(mask_YX[..., None], np.moveaxis(flows_DYX, 0, -1), 0).astype(np.float32)
    begin_N2 = np.argwhere(mask_YX)
    moved_N2 = np.zeros(begin_N2.shape, np.float32)
    for _ in range(_SHORT):
        moved_N2 += _interpolated(steps_YX2, begin_N2, moved_N2)
    end_N2 = np.clip(begin_N2 + np.rint(moved_N2).astype(np.intp), 0, (height - 1, width - 1))
    ends = np.arange(mask_YX.size)
    ends[mask_YX.ravel()] = end_N2[:, 0] * width + end_N2[:, 1]
    done = _SHORT
    while done < steps:
        ends, done = ends[ends], 2 * done
    return ends.reshape(mask_YX.shape)


def _interpolated(values_YX2: NDArray[np.float32], begin_N2: NDArray[np.intp], moved_N2: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the bilinearly interpolated values (N, 2) at positions relative to pixels; beyond the border, those of the border."""
    whole_N2 = np.floor(moved_N2)
    share_N2 = moved_N2 - whole_N2
    row, col = (begin_N2 + whole_N2.astype(np.intp)).T
    last_row, last_col = values_YX2.shape[0] - 1, values_YX2.shape[1] - 1
    rows, cols = (np.clip(row, 0, last_row), np.clip(row + 1, 0, last_row)), (np.clip(col, 0, last_col), np.clip(col + 1, 0, last_col))
    down_N1, right_N1 = share_N2[:, :1], share_N2[:, 1:]
    upper_N2 = values_YX2[rows[0], cols[0]] * (1 - right_N1) + values_YX2[rows[0], cols[1]] * right_N1
    lower_N2 = values_YX2[rows[1], cols[0]] * (1 - right_N1) + values_YX2[rows[1], cols[1]] * right_N1
    return np.asarray(upper_N2 * (1 - down_N1) + lower_N2 * down_N1)
