"""Counts of pixels: integers that add, however an image was cut into blocks.

Counting is ours because common metric libraries count in float32, which stops being exact at 2**24 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Counts", "areas", "confusion", "cross_entropy"]


@dataclass(frozen=True)
class Counts:
    """What is known about one block, one image or all images; ``one + other`` is their union.

    Attributes:
        predicted: pixels per predicted class (K,), int64, wherever there is a prediction.
        no_prediction: pixels of the fill value, whatever the reason.
        confusion: (K, K) int64, row = truth, column = prediction, over pixels that have both; None: no truth.
        cross_entropy: sum of nats over ``cross_entropy_pixels``, float64; None: no truth or no probabilities.
        cross_entropy_pixels: pixels in that sum.
        overlap_equal: halo pixels on which two neighbouring tiles agree.
        overlap_pixels: halo pixels that two neighbouring tiles both predict.
        skipped: pixels left out on purpose, part of ``no_prediction``.
        quarantined: pixels that could not be done, part of ``no_prediction``.
    """

    predicted: NDArray[np.int64]
    no_prediction: int = 0
    confusion: NDArray[np.int64] | None = None
    cross_entropy: float | None = None
    cross_entropy_pixels: int = 0
    overlap_equal: int = 0
    overlap_pixels: int = 0
    skipped: int = 0
    quarantined: int = 0

    @property
    def pixels(self) -> int:
        """All pixels, predicted or not."""
        return int(self.predicted.sum()) + self.no_prediction

    def __add__(self, other: Counts) -> Counts:
        """Add field by field; a part without truth (None) leaves the other's counts as they are.

        Example:
            >>> one = Counts(np.array([2, 1]), confusion=np.array([[2, 0], [0, 1]]))
            >>> (one + Counts(np.array([5, 0]))).confusion.tolist()
            [[2, 0], [0, 1]]
        """
        return Counts(**{one.name: _add(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)})


def _add(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def confusion(truth_YX: NDArray[Any], mask_YX: NDArray[Any], *, classes: int) -> NDArray[np.int64]:
    """Count how each true class was predicted.

    Args:
        truth_YX: class id per pixel; values of ``classes`` and above are left out (ignored truth).
        mask_YX: predicted class id per pixel, same shape; values of ``classes`` and above are left out (no prediction).
        classes: K, the number of classes.

    Returns:
        Counts (K, K), int64, unit pixels: row = truth, column = prediction.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> confusion(np.array([[0, 1, 9]]), np.array([[0, 0, 1]]), classes=2).tolist()
        [[1, 0], [1, 0]]
    """
    if truth_YX.shape != mask_YX.shape:
        raise ValueError(f"truth {truth_YX.shape} and mask {mask_YX.shape} differ in shape")
    # One extra row and column collect what is left out, so that no pixel is copied to be dropped.
    side = classes + 1
    kind = np.uint16 if side * side <= 2**16 else np.int64
    pairs = np.minimum(truth_YX, classes).astype(kind) * kind(side)
    pairs += np.minimum(mask_YX, classes).astype(kind)
    counts = np.bincount(pairs.ravel(), minlength=side * side).reshape(side, side)
    return counts[:classes, :classes].astype(np.int64)


def areas(mask_YX: NDArray[Any], *, classes: int) -> tuple[NDArray[np.int64], int]:
    """Count pixels per predicted class, and those without a prediction.

    Returns:
        Pixels per class (K,), int64, and the number of all other pixels.

    Example:
        >>> areas(np.array([[0, 1, 1, 255]], np.uint8), classes=2)
        (array([1, 2]), 1)
    """
    counts = np.bincount(mask_YX.ravel(), minlength=classes)
    return counts[:classes].astype(np.int64), int(counts[classes:].sum())


def cross_entropy(logits_KYX: NDArray[Any], truth_YX: NDArray[Any]) -> tuple[float, int]:
    """Sum the negative log-likelihood of the truth under the softmax of the logits.

    Args:
        logits_KYX: float.
        truth_YX: class id per pixel; values of K and above are left out.

    Returns:
        The sum in nats (float64) and the number of pixels in it.

    Example:
        >>> total, pixels = cross_entropy(np.zeros((2, 1, 2)), np.array([[0, 9]]))
        >>> round(total, 4), pixels
        (0.6931, 1)
    """
    known = truth_YX < len(logits_KYX)
    logits = logits_KYX[:, known].astype(np.float64)
    if not logits.size:
        return 0.0, 0
    peak = logits.max(axis=0)
    total = peak + np.log(np.exp(logits - peak).sum(axis=0))
    picked = np.take_along_axis(logits, truth_YX[known].astype(np.intp)[None], axis=0)[0]
    return float((total - picked).sum()), int(known.sum())
