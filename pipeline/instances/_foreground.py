"""Filling of holes and removal of thin parts, for methods that start from the mask."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.errors import Problem
from pipeline.instances import Instances, Region
from pipeline.validation import problems_error

__all__ = ["ForegroundMethod", "fill_holes", "open_by_disk"]

FOUR = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.bool_)  # pixels that share a side
EIGHT = np.ones((3, 3), np.bool_)  # pixels that share a side or a corner


class ForegroundMethod(Instances):
    """A method that groups the pixels of the wanted classes.

    Both options are local: a pixel gets the same result in every region that holds ``fill_holes + 2 * smooth`` pixels around it. A
    smaller region may lose pixels of a class, but never gains any.
    """

    fill_holes: int = Field(default=0, ge=0, description="holes of at most this height and width are filled, pixels; 0: none")
    smooth: int = Field(default=0, ge=0, description="parts that are too thin for a disk of this radius are removed, pixels; 0: none")

    @model_validator(mode="after")
    def _sees_enough(self) -> Self:
        if self.halo < (least := 1 + self.fill_holes + 2 * self.smooth):
            way_out = f"Set halo to {least}: filling and smoothing need that much context."
            raise problems_error([Problem("halo", str(self.halo), f"at least {least}", way_out)])
        return self

    def foreground(self, region: Region) -> NDArray[np.int32]:
        """Return the number of each pixel's wanted class (Y, X), as :meth:`Region.wanted` does, after filling and smoothing."""
        wanted_YX = fill_holes(region.wanted(), self.fill_holes)
        if self.smooth:
            for number in range(1, len(region.classes) + 1):
                of_class_YX = wanted_YX == number
                wanted_YX[of_class_YX & ~open_by_disk(of_class_YX, self.smooth)] = 0
        return wanted_YX


def fill_holes(ids_YX: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """Fill the holes of objects or classes.

    A hole is a 4-connected group of zeros, of at most ``size`` rows and columns, which touches no border of the array and has the same
    id on all sides. It gets that id.

    Example:
        >>> fill_holes(np.array([[7, 7, 7, 7], [7, 0, 7, 0], [7, 7, 7, 7]], np.int32), 1)[1].tolist()
        [7, 7, 7, 0]
    """
    if not size:
        return ids_YX
    from scipy import ndimage

    groups_YX, num_groups = ndimage.label(ids_YX == 0, FOUR)
    height, width = ids_YX.shape
    is_small = np.zeros(num_groups + 1, np.bool_)
    for number, (rows, cols) in enumerate(ndimage.find_objects(groups_YX), 1):
        is_inside = rows.start and cols.start and rows.stop < height and cols.stop < width
        is_small[number] = is_inside and max(rows.stop - rows.start, cols.stop - cols.start) <= size
    places = np.flatnonzero(is_small[groups_YX])
    ids, groups = ids_YX.ravel(), groups_YX.ravel()[places]
    lowest, highest = np.full(num_groups + 1, np.iinfo(np.int32).max, np.int32), np.zeros(num_groups + 1, np.int32)
    for step in (-width, -1, 1, width):
        beside = ids[places + step]
        np.minimum.at(lowest, groups[beside > 0], beside[beside > 0])
        np.maximum.at(highest, groups, beside)
    filled = ids.copy()
    filled[places] = np.where(lowest == highest, highest, 0)[groups]
    return filled.reshape(ids_YX.shape)


def open_by_disk(mask_YX: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Return the opening of a mask by a disk: the pixels that the disk covers where it fits into the mask. All is unset beyond the array.

    Example:
        >>> open_by_disk(np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool), 1).astype(int).tolist()
        [[0, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 1, 1, 0, 0]]
    """
    from scipy import ndimage

    fits_YX: NDArray[Any] = ndimage.distance_transform_edt(np.pad(mask_YX, 1))[1:-1, 1:-1] > radius
    if not fits_YX.any():
        return fits_YX
    return np.asarray(ndimage.distance_transform_edt(~fits_YX) <= radius)
