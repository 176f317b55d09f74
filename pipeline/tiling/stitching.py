"""Classes, probabilities and blending weights from the scores of tiles: pure functions of numpy arrays.

``crop`` keeps each tile's core, which the engine's ``predict_tiles`` cuts out. ``linear`` and ``gaussian`` add weighted scores. The
weights depend on core and halo alone and sum to one at every pixel, and each pixel adds its tiles in the same order, so that the cut
into blocks changes no mask.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError

__all__ = ["argmax_into", "axis_weights", "softmax_bytes", "winner_bytes"]

BAND = 1 << 16  # pixels computed at a time: a band stays in the processor's cache
GAUSSIAN_SIGMA = 0.125  # of the outer side, as in nnU-Net (Isensee et al., 2021) and MONAI


def argmax_into(scores_KYX: NDArray[Any], out_YX: NDArray[Any]) -> None:
    """Write the class of the largest score into a mask; ties go to the lowest class.

    A running comparison in the mask's own small type, band by band, is many times faster than numpy's argmax over the first axis.

    Args:
        scores_KYX: logits or probabilities, float.
        out_YX: the mask, unsigned integers, overwritten.

    Raises:
        BlockError: a score is NaN or infinite.

    Example:
        >>> mask = np.zeros((1, 3), np.uint8)
        >>> argmax_into(np.array([[[0.0, 1.0, 2.0]], [[0.0, 3.0, 1.0]]]), mask)
        >>> mask.tolist()
        [[0, 1, 0]]
    """
    height, width = out_YX.shape
    rows = max(1, BAND // max(1, width))
    best_YX, is_more_YX = np.empty((rows, width), scores_KYX.dtype), np.empty((rows, width), np.bool_)
    for top in range(0, height, rows):
        band_KYX, band_YX = scores_KYX[:, top : top + rows], out_YX[top : top + rows]
        used = slice(0, len(band_YX))
        with np.errstate(invalid="ignore"):  # NaN is raised below
            _argmax_band(band_KYX, band_YX, best_YX[used], is_more_YX[used])
            # A NaN makes both minimum and maximum NaN; an infinite score is one of the two.
            is_finite = np.isfinite(band_KYX.min()) and np.isfinite(best_YX[used].max())
        if not is_finite:
            raise BlockError("the model gave NaN or infinite scores")


def _argmax_band(scores_KYX: NDArray[Any], ids_YX: NDArray[Any], best_YX: NDArray[Any], is_more_YX: NDArray[np.bool_]) -> None:
    """Fill a band of the mask, and ``best_YX`` with its largest scores; ``is_more_YX`` is scratch memory."""
    best_YX[...] = scores_KYX[0]
    ids_YX[...] = 0
    for k in range(1, len(scores_KYX)):
        np.greater(scores_KYX[k], best_YX, out=is_more_YX)
        np.maximum(best_YX, scores_KYX[k], out=best_YX)
        # The last class that was the largest so far is the largest of all, so no masked store is needed.
        np.maximum(ids_YX, is_more_YX * ids_YX.dtype.type(k), out=ids_YX)


def softmax_bytes(scores_KYX: NDArray[Any]) -> NDArray[np.uint8]:
    """Return softmax probabilities in steps of 1/255, rounded to the nearest, uint8 (K, Y, X).

    Example:
        >>> softmax_bytes(np.zeros((2, 1, 1))).ravel().tolist()
        [128, 128]
    """
    out_KYX = np.empty(scores_KYX.shape, np.uint8)
    for rows, band_KYX in _exponentials(scores_KYX):
        band_KYX *= 255.0 / band_KYX.sum(axis=0)
        band_KYX += 0.5
        out_KYX[:, rows] = band_KYX
    return out_KYX


def winner_bytes(scores_KYX: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the softmax probability of the largest score in steps of 1/255, rounded to the nearest, uint8 (Y, X).

    It is the largest of :func:`softmax_bytes` at each pixel, at a fraction of the cost.

    Example:
        >>> winner_bytes(np.zeros((3, 1, 1))).tolist()
        [[85]]
    """
    out_YX = np.empty(scores_KYX.shape[1:], np.uint8)
    for rows, band_KYX in _exponentials(scores_KYX):
        out_YX[rows] = 255.0 / band_KYX.sum(axis=0) + np.float32(0.5)
    return out_YX


def _exponentials(scores_KYX: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield bands of rows, and the exponentials (K, Y, X) of their scores, scaled so that the largest of each pixel is 1."""
    classes, height, width = scores_KYX.shape
    step = max(1, BAND // max(1, width * classes))
    for top in range(0, height, step):
        rows = slice(top, top + step)
        band_KYX = scores_KYX[:, rows].astype(np.float32)
        band_KYX -= band_KYX.max(axis=0)
        yield rows, np.exp(band_KYX, out=band_KYX)


@functools.lru_cache(maxsize=64)
def axis_weights(kind: str, core: int, halo: int, index: int, count: int) -> NDArray[np.float32]:
    """Return the weights of one tile along one axis; over all tiles they sum to one at every pixel inside the image.

    Args:
        kind: ``linear`` (a ramp over the overlap) or ``gaussian`` (standard deviation 1/8 of the outer side).
        core: side of a full core, pixels.
        halo: context on every side, pixels.
        index: position of the tile along the axis, ``0..count-1``.
        count: number of tiles along the axis.

    Returns:
        Weights (core + 2 halo,), float32, positive.

    Example:
        >>> axis_weights("linear", 4, 1, 1, 3).tolist()
        [0.25, 0.75, 1.0, 1.0, 0.75, 0.25]
        >>> axis_weights("linear", 4, 1, 0, 3).tolist()
        [1.0, 1.0, 1.0, 1.0, 0.75, 0.25]
    """
    outer = core + 2 * halo
    reach = -(-2 * halo // core)  # how many tiles away a neighbour still overlaps this one
    positions = np.arange(outer)
    own = _window(kind, positions, core, halo)
    total = np.zeros(outer)
    for neighbour in range(max(index - reach, 0), min(index + reach, count - 1) + 1):
        total += _window(kind, positions + (index - neighbour) * core, core, halo)
    return (own / total).astype(np.float32)


def _window(kind: str, position: NDArray[Any], core: int, halo: int) -> NDArray[np.float64]:
    """Return the weights at positions of the outer before they are normalised; 0 outside the outer."""
    outer = core + 2 * halo
    if kind == "linear":
        edge = np.minimum(position, outer - 1 - position) + 0.5
        value = np.clip(edge / max(2 * halo, 0.5), 0, 1)
    else:
        value = np.exp(-0.5 * ((position + 0.5 - outer / 2) / (GAUSSIAN_SIGMA * outer)) ** 2)
    return np.where((position >= 0) & (position < outer), value, 0.0)
