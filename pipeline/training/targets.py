"""What the network should answer at each pixel: the class, or for one class its interior and its border."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.training.plan import TrainPlan

__all__ = ["split_border", "targets"]


def targets(plan: TrainPlan, classes_YX: NDArray[Any], instances_YX: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the output channel that should win at each pixel, uint8 (Y, X).

    Args:
        plan: says which class is split, if any.
        classes_YX: class ids.
        instances_YX: the truth as stored, which numbers the objects of that class.
    """
    if plan.border_class is None or plan.config.border is None:
        return classes_YX.astype(np.uint8)
    width = plan.config.border.width
    return split_border(classes_YX, instances_YX, split=plan.border_class, border=len(plan.classes), width=width)


def split_border(truth_YX: NDArray[Any], instances_YX: NDArray[Any], *, split: int, border: int, width: int) -> NDArray[np.uint8]:
    """Give the border of each object of a class an id of its own.

    A pixel is border where another object, or none, lies within ``width`` rows and columns. What lies outside the array
    is unknown and taken for more of the same, so that its edge is no border.

    Args:
        truth_YX: class ids.
        instances_YX: a number for each object; ignored outside ``split``.
        split: class whose objects are split.
        border: id of their borders.
        width: of the border, pixels.

    Returns:
        Class ids with ``border`` among them, uint8.

    Example:
        >>> instances = np.array([[0, 7, 7, 7, 8, 8]])
        >>> split_border((instances > 0).astype(np.uint8), instances, split=1, border=2, width=1).tolist()
        [[0, 2, 1, 2, 2, 1]]
    """
    from scipy import ndimage

    objects_YX = np.where(truth_YX == split, instances_YX, 0)
    size = 2 * width + 1
    low_YX = ndimage.minimum_filter(objects_YX, size, mode="nearest")
    high_YX = ndimage.maximum_filter(objects_YX, size, mode="nearest")
    out_YX = truth_YX.astype(np.uint8)
    out_YX[(truth_YX == split) & (low_YX != high_YX)] = border
    return out_YX
