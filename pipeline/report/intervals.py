"""Confidence intervals of IoU: how far a score would move if other images of the same kind had been taken.

Images are drawn with replacement, as many as there are, and their counts are pooled as the report pools them. The intervals are those
of ``scipy.stats.bootstrap``; what is here turns counts into its statistic, for all classes at once and in bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONFIDENCE", "LEAST_IMAGES", "Interval", "Intervals", "difference_intervals_of", "intervals_of", "ious_of"]

CONFIDENCE = 0.95
LEAST_IMAGES = 5  # fewer give too few different draws, whose quantiles say nothing about other images
RESAMPLES = 9999
BATCH = 1 << 21  # draws at a time: about 32 bytes each, 64 MiB

Interval = tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """Intervals of one run's IoU, or of the difference between two runs.

    Attributes:
        classes: (least, greatest) of each class. None: the class occurs in fewer than 5 of the images.
        mean: the same of the mean IoU; None below 5 images.
        images: number of images that were drawn from.
        seed: of the draws.
        note: why intervals are missing; None where none is.
    """

    classes: tuple[Interval | None, ...]
    mean: Interval | None
    images: int
    seed: int
    note: str | None = None

    def describe(self) -> dict[str, Any]:
        """Return how the intervals were made, as report.json holds it."""
        resamples = RESAMPLES if self.images >= LEAST_IMAGES else 0
        how = {"method": "percentile bootstrap over images", "confidence": CONFIDENCE, "resamples": resamples}
        return {**how, "seed": self.seed, "images": self.images, "note": self.note}


def ious_of(counts_K3: NDArray[Any]) -> NDArray[np.float64]:
    """Return the IoU of each class, then their mean: (..., K + 1).

    Args:
        counts_K3: true positives, false positives and false negatives, in pixels (..., K, 3).

    Returns:
        NaN for a class without any of them, which the mean leaves out; NaN for the mean of no class.

    Example:
        >>> ious_of(np.array([[3, 1, 0], [1, 0, 3], [0, 0, 0]])).tolist()
        [0.75, 0.25, nan, 0.5]
    """
    unions_K = counts_K3.sum(axis=-1)
    is_there_K = unions_K > 0
    ious_K = np.divide(counts_K3[..., 0], unions_K, out=np.full(unions_K.shape, np.nan), where=is_there_K)
    num_classes = is_there_K.sum(axis=-1)
    mean = np.divide(np.nansum(ious_K, axis=-1), num_classes, out=np.full(num_classes.shape, np.nan), where=num_classes > 0)
    return np.concatenate([ious_K, mean[..., None]], axis=-1)


def intervals_of(counts_NK3: NDArray[np.int64 | np.float64], *, seed: int = 0) -> Intervals:
    """Return the intervals of the pooled IoU of each class and of their mean.

    Args:
        counts_NK3: true positives, false positives and false negatives of each class, in pixels, of the N images that have truth. Any
            other quotient a / (a + b + c) of sums over images may stand for a class.
        seed: of the draws: the same counts and seed give the same intervals.
    """
    return _intervals(counts_NK3, ious_of, seed)


def difference_intervals_of(
    first_NK3: NDArray[np.int64 | np.float64], second_NK3: NDArray[np.int64 | np.float64], *, seed: int = 0
) -> Intervals:
    """Return the intervals of second minus first, of the pooled IoU of each class and of the mean.

    They are paired: each draw takes the same images from both, so that what makes an image easy or hard for both cancels out.

    Args:
        first_NK3: counts of the first run, as for :func:`intervals_of`.
        second_NK3: those of the second run, of the same images in the same order.
        seed: of the draws.
    """
    num_classes = first_NK3.shape[1]

    def differences(counts_K3: NDArray[Any]) -> NDArray[np.float64]:
        return ious_of(counts_K3[..., num_classes:, :]) - ious_of(counts_K3[..., :num_classes, :])

    occurs_K = _num_images(first_NK3, second_NK3)
    return _intervals(np.concatenate([first_NK3, second_NK3], axis=1), differences, seed, occurs_K)


def _num_images(*counts_NK3: NDArray[np.int64 | np.float64]) -> NDArray[np.int64]:
    """Return in how many images each class occurs, in truth or mask of all of ``counts_NK3``."""
    num_K: NDArray[np.int64] = np.logical_and.reduce([one.any(axis=2) for one in counts_NK3]).sum(axis=0)
    return num_K


def _intervals(
    counts_NK3: NDArray[np.int64 | np.float64],
    statistic: Callable[[NDArray[Any]], NDArray[np.float64]],
    seed: int,
    occurs_K: NDArray[np.int64] | None = None,
) -> Intervals:
    """Return the intervals of a statistic of pooled counts, which maps (..., K, 3) to (..., classes + 1), the mean last."""
    occurs_K = _num_images(counts_NK3) if occurs_K is None else occurs_K
    images = len(counts_NK3)
    if images < LEAST_IMAGES:
        few = f"intervals take at least {LEAST_IMAGES} images with truth; there {'is' if images == 1 else 'are'} {images}"
        return Intervals((None,) * len(occurs_K), None, images, seed, few)
    ends = _bootstrap(counts_NK3, statistic, seed)
    *classes, mean = (None if np.isnan(low) else (float(low), float(high)) for low, high in ends)
    known = tuple(ends if occurs >= LEAST_IMAGES else None for ends, occurs in zip(classes, occurs_K, strict=True))
    note = f"a class that occurs in fewer than {LEAST_IMAGES} images has no interval" if None in known else None
    return Intervals(known, mean, images, seed, note)


def _bootstrap(
    counts_NK3: NDArray[np.int64 | np.float64], statistic: Callable[[NDArray[Any]], NDArray[np.float64]], seed: int
) -> NDArray[np.float64]:
    """Return (least, greatest) of each value of a statistic (S, 2).

    The method is the percentile one: its ends stay between 0 and 1, and it takes no jackknife, as BCa does, whose cost rises with the
    square of the number of images and whose acceleration is undefined where leaving out an image changes nothing.
    A value that is NaN in some draws, such as the IoU of a class that none of the drawn images holds, has the interval of the others.
    """
    import warnings

    from scipy import stats

    images = len(counts_NK3)
    # float64 adds whole numbers exactly up to 2**53, and multiplies matrices many times faster than int64.
    counts_NM = counts_NK3.reshape(images, -1).astype(np.float64)

    def resampled(drawn: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        assert axis == -1
        draws_BN = drawn.reshape(-1, images) + images * np.arange(drawn.size // images)[:, None]
        times_BN = np.bincount(draws_BN.ravel(), minlength=drawn.size).reshape(-1, images)
        sums_BM = times_BN.astype(np.float64) @ counts_NM
        return np.moveaxis(statistic(sums_BM.reshape(*drawn.shape[:-1], *counts_NK3.shape[1:])), -1, 0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # said of NaN, which is treated below
        found = stats.bootstrap(
            (np.arange(images),),
            resampled,
            n_resamples=RESAMPLES,
            batch=max(1, BATCH // images),
            vectorized=True,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    ends_S2 = np.stack(found.confidence_interval, axis=-1)
    for row, values in enumerate(found.bootstrap_distribution):
        is_known = ~np.isnan(values)
        if is_known.any() and not is_known.all():
            tail = (1 - CONFIDENCE) / 2
            ends_S2[row] = np.quantile(values[is_known], [tail, 1 - tail])
    return ends_S2
