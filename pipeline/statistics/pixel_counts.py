"""Counts of pixels: integers that add, however an image was cut into blocks.

Counting is ours because common metric libraries count in float32, which stops being exact at 2**24 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CONFIDENCE_BINS",
    "CONFIDENCE_STEPS",
    "Counts",
    "as_unsigned",
    "class_areas",
    "confusion_matrix",
    "count_confidence",
    "count_pixels",
    "sum_cross_entropy",
]

CONFIDENCE_BINS = 10  # of equal width over 0..1, as in Guo et al., On Calibration of Modern Neural Networks, 2017
CONFIDENCE_STEPS = 1 << 16  # confidences are added as whole multiples of 1/65536, so that sums do not depend on their order


@dataclass(frozen=True, slots=True)
class Counts:
    """Pixel counts of a block, an image or all images; a sum counts both."""

    predicted: NDArray[np.int64]  # pixels per predicted class (K,), int64, wherever there is a prediction
    no_prediction: int = 0  # pixels of the fill value, whatever the reason
    confusion: NDArray[np.int64] | None = None  # (K, K) int64, row = truth, column = prediction, over pixels that have both; None: no truth
    cross_entropy: float | None = None  # sum of nats over `cross_entropy_pixels`, float64; None: no truth or no probabilities
    cross_entropy_pixels: int = 0  # pixels in that sum
    overlap_equal: int = 0  # halo pixels on which two neighbouring tiles agree
    overlap_pixels: int = 0  # halo pixels that two neighbouring tiles both predict
    skipped: int = 0  # pixels skipped on purpose: part of `no_prediction`, or of class 0 with `as: background`
    quarantined: int = 0  # pixels that could not be done, part of `no_prediction`
    confidence: NDArray[np.int64] | None = None  # (3, bins), see :func:`count_confidence`; None: no truth or no probabilities

    @property
    def pixels(self) -> int:
        """All pixels, predicted or not."""
        return int(self.predicted.sum()) + self.no_prediction

    def __add__(self, other: Counts) -> Counts:
        """Add field by field; None, which stands for no truth, adds nothing."""
        return Counts(**{field.name: _add(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)})


def _add(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    return first + second


_BAND = 1 << 19  # pixels counted at a time, so that temporary arrays stay in the cache
_BINS = 1 << 16  # above this a histogram no longer fits the cache, and packing pixels is no longer faster


def confusion_matrix(truth_YX: NDArray[Any], mask_YX: NDArray[Any], *, classes: int) -> NDArray[np.int64]:
    """Count how each true class was predicted, in pixels (K, K), int64: row = truth, column = prediction.

    Args:
        truth_YX: class id per pixel, any integer type; values outside ``0..classes-1`` are left out (ignored truth).
        mask_YX: predicted class id per pixel, same shape; values outside ``0..classes-1`` are left out (no prediction).
        classes: K, the number of classes.

    Raises:
        ValueError: the shapes differ.
        TypeError: one of the arrays does not hold integers.

    Example:
        >>> confusion_matrix(np.array([[0, 1, 9]]), np.array([[0, 0, 1]]), classes=2).tolist()
        [[1, 0], [1, 0]]
    """
    if truth_YX.shape != mask_YX.shape:
        raise ValueError(f"truth {truth_YX.shape} and mask {mask_YX.shape} differ in shape")
    return _count((as_unsigned(truth_YX), as_unsigned(mask_YX)), classes)[1:].reshape(classes, classes)


def class_areas(mask_YX: NDArray[Any], *, classes: int) -> tuple[NDArray[np.int64], int]:
    """Count the pixels of each predicted class, (K,) int64, and those without a prediction."""
    counts = _count((as_unsigned(mask_YX),), classes)
    return counts[1:], int(counts[0])


def count_pixels(mask_YX: NDArray[Any], truth_YX: NDArray[Any] | None, num_classes: int) -> Counts:
    """Count the pixels of each class, and the confusion where there is truth."""
    predicted, missing = class_areas(mask_YX, classes=num_classes)
    matrix = None if truth_YX is None else confusion_matrix(truth_YX, mask_YX, classes=num_classes)
    return Counts(predicted, missing, matrix)


def as_unsigned(ids: NDArray[Any]) -> NDArray[Any]:
    """View integers as unsigned ones of the same size, so that a negative id becomes one that is too large.

    Example:
        >>> as_unsigned(np.array([-1, 1], np.int8))
        array([255,   1], dtype=uint8)
    """
    if ids.dtype.kind not in "bui":
        raise TypeError(f"class ids must be integers, not {ids.dtype}")
    return ids.view(np.dtype(f"u{ids.dtype.itemsize}").newbyteorder(ids.dtype.byteorder))


def _count(layers: tuple[NDArray[Any], ...], classes: int) -> NDArray[np.int64]:
    """Count each combination of class ids over layers of one shape (Y, X), int64 (1 + classes**len(layers),).

    First come the pixels whose id lies outside the classes in any layer, then every combination, the last layer fastest.
    """
    size = 1 + classes ** len(layers)
    kind = np.min_scalar_type(size)
    counts = np.zeros(size, np.int64)
    height, width = layers[0].shape
    rows = max(1, _BAND // max(1, width))
    for y in range(0, height, rows):
        code_YX = np.zeros((min(rows, height - y), width), kind)
        known_YX = np.ones(code_YX.shape, np.bool_)
        for layer in layers:
            band_YX = layer[y : y + rows]
            known_YX &= band_YX < classes
            code_YX *= kind.type(classes)
            code_YX += band_YX.astype(kind, copy=False)
        # An id outside the classes may have wrapped around. Multiplying by 0 sends it to bin 0, faster than indexing does.
        code_YX += kind.type(1)
        code_YX *= known_YX
        counts += _histogram(code_YX.ravel(), size)
    return counts


def _histogram(codes: NDArray[Any], size: int) -> NDArray[np.int64]:
    """Count codes ``0..size-1``.

    ``bincount`` takes about 3 ns for each element. So several codes are packed into one number (of at most ``_BINS`` values),
    and the joint histogram is summed along each of its axes.
    """
    packed = max(n for n in (1, 2, 3, 4) if n == 1 or size**n <= _BINS)
    whole = len(codes) // packed * packed
    parts = codes[:whole].reshape(packed, -1)
    words = parts[0].astype(np.uint16 if packed > 1 else codes.dtype)
    for part in parts[1:]:
        words *= np.uint16(size)
        words += part
    joint = np.bincount(words, minlength=size**packed).reshape((size,) * packed)
    counts = np.bincount(codes[whole:], minlength=size)
    for axis in range(packed):
        counts += joint.sum(axis=tuple(other for other in range(packed) if other != axis))
    return counts


def sum_cross_entropy(logits_KYX: NDArray[Any], truth_YX: NDArray[Any]) -> tuple[float, int]:
    """Sum the negative log-likelihood of the truth under the softmax of the logits: nats, and the number of pixels in the sum.

    Computed in float64 and without clamping, a band of rows at a time.

    Args:
        logits_KYX: float, finite; a single layer is the logit of class 1 against class 0.
        truth_YX: class id per pixel, any integer type; values outside the classes are left out.
    """
    total, pixels = 0.0, 0
    ids_YX = as_unsigned(truth_YX)
    known_YX = ids_YX < max(2, len(logits_KYX))
    rows = max(1, (_BAND >> 2) // max(1, logits_KYX.shape[0] * logits_KYX.shape[2]))  # about 1 MB of float64
    for y in range(0, len(ids_YX), rows):
        band = slice(y, y + rows)
        total += _nats(logits_KYX[:, band], ids_YX[band], known_YX[band])
        pixels += int(np.count_nonzero(known_YX[band]))
    return total, pixels


def _nats(logits_KYX: NDArray[Any], ids_YX: NDArray[Any], known_YX: NDArray[np.bool_]) -> float:
    scores_KYX = logits_KYX.astype(np.float64)
    # Computing all pixels is faster than selecting the known ones: the others get equal scores and weight zero.
    np.copyto(scores_KYX, 0.0, where=~known_YX)
    if len(scores_KYX) == 1:
        scores_KYX = np.concatenate([np.zeros_like(scores_KYX), scores_KYX])
    scores_KYX -= scores_KYX.max(axis=0)
    picked_YX = np.take_along_axis(scores_KYX, (ids_YX * known_YX).astype(np.intp)[None], axis=0)[0]
    nats_YX = np.log(np.exp(scores_KYX, out=scores_KYX).sum(axis=0))
    nats_YX -= picked_YX
    return float((nats_YX * known_YX).sum())


def count_confidence(logits_KYX: NDArray[Any], classes_YX: NDArray[Any], truth_YX: NDArray[Any]) -> NDArray[np.int64]:
    """Count how often the predicted class is right, by the probability that the softmax of the logits gives it.

    Args:
        logits_KYX: float, finite.
        classes_YX: predicted class ids, those of the largest logits.
        truth_YX: class id per pixel, any integer type; values outside the classes are left out.

    Returns:
        (3, CONFIDENCE_BINS) int64: pixels, right pixels, and the sum of their probabilities in steps of 1 / CONFIDENCE_STEPS.

    Example:
        >>> count_confidence(np.array([[[0.0, 9.0]], [[0.0, 0.0]]]), np.array([[0, 0]]), np.array([[1, 0]]))[:2, [5, 9]].tolist()
        [[1, 1], [0, 1]]
    """
    counts = np.zeros((3, CONFIDENCE_BINS), np.int64)
    ids_YX = as_unsigned(truth_YX)
    rows = max(1, (_BAND >> 2) // max(1, logits_KYX.shape[0] * logits_KYX.shape[2]))
    for y in range(0, len(ids_YX), rows):
        band = slice(y, y + rows)
        known_YX = ids_YX[band] < len(logits_KYX)
        scores_KYX = logits_KYX[:, band].astype(np.float32)
        scores_KYX -= scores_KYX.max(axis=0)
        shares_YX = CONFIDENCE_STEPS / np.exp(scores_KYX, out=scores_KYX).sum(axis=0)
        steps_N = shares_YX[known_YX].astype(np.int64)
        right_N = (classes_YX[band] == ids_YX[band])[known_YX]
        bins_N = np.minimum(steps_N * CONFIDENCE_BINS // CONFIDENCE_STEPS, CONFIDENCE_BINS - 1)
        counts[0] += np.bincount(bins_N, minlength=CONFIDENCE_BINS)
        counts[1] += np.bincount(bins_N[right_N], minlength=CONFIDENCE_BINS)
        # Whole numbers below 2**53 are added exactly.
        counts[2] += np.bincount(bins_N, weights=steps_N, minlength=CONFIDENCE_BINS).astype(np.int64)
    return counts
