"""Counts of pixels and of their areas on the ground from class to class, as integers that add in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.area_counts import SQUARE_METRE, AreaCounts, whole_areas

__all__ = ["count_change", "counted_change", "is_change"]

MARK = "change "  # what the names of these numbers begin with


def is_change(name: str) -> bool:
    """Whether the name of a number is one of :func:`count_change`."""
    return name.startswith(MARK)


def count_change(mask_YX: NDArray[Any], truth_YX: NDArray[Any], classes: int, areas_Y: NDArray[np.float64]) -> dict[str, int]:
    """Count each pair of a true and a predicted class that is there.

    Args:
        mask_YX: class ids; others are no prediction.
        truth_YX: class ids; others are ignored; same shape.
        classes: number of classes.
        areas_Y: area of a pixel of each row, square metres.

    Returns:
        Pixels, and whole square micrometres, by names that hold both ids.

    Example:
        >>> count_change(np.array([[0, 1]]), np.array([[1, 1]]), 2, np.array([2e-12]))
        {'change 1>0:px': 1, 'change 1>0:um2': 2, 'change 1>1:px': 1, 'change 1>1:um2': 2}
    """
    scored_YX = (truth_YX < classes) & (mask_YX < classes)
    pairs_N = truth_YX[scored_YX].astype(np.intp) * classes + mask_YX[scored_YX]
    found, codes_N = np.unique(pairs_N, return_inverse=True)
    rows_YX = np.broadcast_to(np.arange(len(areas_Y), dtype=np.intp)[:, None], scored_YX.shape)
    counts = AreaCounts.of(codes_N.astype(np.intp), rows_YX[scored_YX], len(found), whole_areas(areas_Y))
    numbers: dict[str, int] = {}
    for pair, pixels, area in zip(found.tolist(), counts.pixels, counts.areas or (), strict=True):
        name = f"{MARK}{pair // classes}>{pair % classes}"
        numbers |= {f"{name}:px": pixels, f"{name}:um2": area}
    return numbers


def counted_change(numbers: dict[str, int], start: int, end: int) -> tuple[int, float]:
    """Return pixels and square metres from one class to another, of numbers that :func:`count_change` made or sums of them.

    Example:
        >>> counted_change({"change 1>0:px": 1, "change 1>0:um2": 3_000_000_000_000}, 1, 0)
        (1, 3.0)
    """
    name = f"{MARK}{start}>{end}"
    return numbers.get(f"{name}:px", 0), numbers.get(f"{name}:um2", 0) / SQUARE_METRE
