"""From the scores of tiles to the mask of a block: pure functions of arrays.

``crop`` keeps each tile's core: no accumulator exists. ``linear`` and ``gaussian`` add up weighted
scores. The weights of all tiles sum to one at every pixel and depend on core and halo alone, and every
pixel adds its tiles in the same order, so blocks may be cut in any way without changing a mask.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError

__all__ = ["argmax", "blend_into", "centre", "softmax_bytes", "weights"]

BAND = 64  # rows at a time, so that a band of all classes stays in the processor's cache
GAUSSIAN_SIGMA = 0.125  # of the outer side, as in nnU-Net (Isensee et al., 2021) and MONAI


def centre(scores_KYX: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Cut the middle out of scores, as valid padding loses the same margin on opposite sides.

    Example:
        >>> centre(np.arange(5)[None, None], 1, 3).tolist()
        [[[1, 2, 3]]]
    """
    top, left = (scores_KYX.shape[-2] - height) // 2, (scores_KYX.shape[-1] - width) // 2
    return scores_KYX[..., top : top + height, left : left + width]


def argmax(scores_KYX: NDArray[Any], out_YX: NDArray[Any]) -> None:
    """Write the class of the largest score; ties go to the lowest class.

    A running comparison in the mask's own small type, band by band: about eight times faster than
    an argmax over the first axis.

    Args:
        scores_KYX: logits or probabilities, float.
        out_YX: the mask's pixels, unsigned integers, written in place.

    Raises:
        BlockError: a score is NaN or infinite.

    Example:
        >>> mask = np.zeros((1, 3), np.uint8)
        >>> argmax(np.array([[[0.0, 1.0, 2.0]], [[0.0, 3.0, 1.0]]]), mask)
        >>> mask.tolist()
        [[0, 1, 0]]
    """
    for top in range(0, out_YX.shape[0], BAND):
        with np.errstate(all="ignore"):  # what is not finite is raised below
            total = _argmax_band(scores_KYX[:, top : top + BAND], out_YX[top : top + BAND])
        # A sum is one cheap pass that any NaN or infinity survives; only then is each value looked at.
        if not np.isfinite(total) and not np.isfinite(scores_KYX[:, top : top + BAND]).all():
            raise BlockError("the model gave NaN or infinite scores")


def _argmax_band(band_KYX: NDArray[Any], mask_YX: NDArray[Any]) -> float:
    """Fill a band of the mask, and return the sum of all scores."""
    best_YX = band_KYX[0].copy()
    total = float(best_YX.sum())
    mask_YX[...] = 0
    for k in range(1, len(band_KYX)):
        np.copyto(mask_YX, mask_YX.dtype.type(k), where=band_KYX[k] > best_YX)
        np.maximum(best_YX, band_KYX[k], out=best_YX)
        total += float(band_KYX[k].sum())
    return total


def softmax_bytes(scores_KYX: NDArray[Any]) -> NDArray[np.uint8]:
    """Probabilities in steps of 1/255, rounded to the nearest, uint8 (K, Y, X).

    Example:
        >>> softmax_bytes(np.zeros((2, 1, 1))).ravel().tolist()
        [128, 128]
    """
    out_KYX = np.empty(scores_KYX.shape, np.uint8)
    for top in range(0, scores_KYX.shape[1], BAND):
        band_KYX = scores_KYX[:, top : top + BAND].astype(np.float32)
        band_KYX -= band_KYX.max(axis=0)
        np.exp(band_KYX, out=band_KYX)
        band_KYX *= 255.0 / band_KYX.sum(axis=0)
        band_KYX += 0.5
        out_KYX[:, top : top + BAND] = band_KYX
    return out_KYX


@functools.lru_cache(maxsize=64)
def weights(kind: str, core: int, halo: int, index: int, count: int) -> NDArray[np.float32]:
    """Weights of one tile along one axis; over all tiles they sum to one at every pixel inside the image.

    Args:
        kind: ``linear`` (a ramp over the overlap) or ``gaussian`` (standard deviation 1/8 of the outer side).
        core: side of a full core, pixels.
        halo: context on every side, pixels.
        index: position of the tile along the axis, ``0..count-1``.
        count: number of tiles along the axis.

    Returns:
        Weights (core + 2 halo,), float32, positive.

    Example:
        >>> weights("linear", 4, 1, 1, 3).tolist()
        [0.25, 0.75, 1.0, 1.0, 0.75, 0.25]
        >>> weights("linear", 4, 1, 0, 3).tolist()
        [1.0, 1.0, 1.0, 1.0, 0.75, 0.25]
    """
    outer = core + 2 * halo
    reach = -(-2 * halo // core)  # how many tiles away a neighbour still overlaps this one
    here = np.arange(outer)
    own = _window(kind, here, core, halo)
    total = np.zeros(outer)
    for other in range(max(index - reach, 0), min(index + reach, count - 1) + 1):
        total += _window(kind, here + (index - other) * core, core, halo)
    return (own / total).astype(np.float32)


def _window(kind: str, position: NDArray[Any], core: int, halo: int) -> NDArray[np.float64]:
    """The unnormalised weight at a position of the outer; 0 outside it."""
    outer = core + 2 * halo
    if kind == "linear":
        edge = np.minimum(position, outer - 1 - position) + 0.5
        value = np.clip(edge / max(2 * halo, 0.5), 0, 1)
    else:
        value = np.exp(-0.5 * ((position + 0.5 - outer / 2) / (GAUSSIAN_SIGMA * outer)) ** 2)
    return np.where((position >= 0) & (position < outer), value, 0.0)


def blend_into(
    sum_KYX: NDArray[np.float32], scores_KYX: NDArray[Any], weight_Y: NDArray[np.float32], weight_X: NDArray[np.float32]
) -> None:
    """Add weighted scores of one tile; all four arguments cover the same pixels.

    Args:
        sum_KYX: the block's running sum, float32, changed in place.
        scores_KYX: the tile's scores.
        weight_Y: the tile's weights down the rows.
        weight_X: the tile's weights along the columns.
    """
    weight_YX = weight_Y[:, None] * weight_X[None, :]
    for k in range(len(sum_KYX)):
        sum_KYX[k] += scores_KYX[k] * weight_YX
