"""What a halo costs in exactness, measured on the user's own pixels with the user's own network.

The exact halo is the field of the network, and most of a wide field hardly matters. So a tile of an image is
predicted with the exact halo, then with smaller ones, and the two predictions of its core are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, ceil_to
from pipeline.job import read_reflected
from pipeline.models import Predict
from pipeline.readers import Raster

__all__ = ["HaloError", "Trial", "smallest_halo", "trial_pixels"]

CORE = 128  # side of the core that is compared: its borders are what a halo is about
SURE = 0.1  # of the logits' standard deviation: a pixel whose two best classes are this far apart may not flip


@dataclass(frozen=True)
class HaloError:
    """How a prediction with a smaller halo differs from the exact one.

    Attributes:
        halo: pixels.
        logits: largest difference of a logit.
        flipped: share of the core's pixels whose class differs.
        sure: pixels whose class differs although they were sure of it.
    """

    halo: int
    logits: float
    flipped: float
    sure: int

    def __str__(self) -> str:
        """For a note."""
        return f"logits differ by up to {self.logits:.2g} and {self.flipped:.2g} of the pixels change class"


def trial_pixels(field: int) -> int:
    """Pixels that :func:`smallest_halo` computes at most, about."""
    return 5 * (CORE + 2 * field) ** 2


class Trial:
    """One core of an image, predicted once exactly.

    Args:
        predict: the network; float32, so that rounding does not count as error.
        raster: the image; its middle is taken.
        fit: what the fit phase would find; only a per-image normalisation is looked at.
        stride: total stride, pixels.
        exact: halo of the exact prediction, at least the field, a multiple of the stride.
    """

    def __init__(self, predict: Predict, raster: Raster, fit: Mapping[str, Any], stride: int, exact: int) -> None:
        self.predict, self.raster, self.fit = predict, raster, fit
        side = ceil_to(CORE, stride)
        y, x = (max(0, (length - side) // 2) // stride * stride for length in raster.header.shape)
        self.core = Box(y, x, y + side, x + side)
        self.exact_KYX = self._logits(exact)
        ordered = np.sort(self.exact_KYX, axis=0)
        self.sure_YX = ordered[-1] - ordered[-2] > SURE * self.exact_KYX.std()

    def error(self, halo: int) -> HaloError:
        """Compare a smaller halo with the exact one."""
        logits_KYX = self._logits(halo)
        flipped_YX = logits_KYX.argmax(axis=0) != self.exact_KYX.argmax(axis=0)
        largest = float(np.abs(logits_KYX - self.exact_KYX).max())
        return HaloError(halo, largest, float(flipped_YX.mean()), int(np.count_nonzero(flipped_YX & self.sure_YX)))

    def _logits(self, halo: int) -> NDArray[Any]:
        outer = self.core.grow(halo)
        scores = self.predict(read_reflected(self.raster, outer, 0)[None], [self.fit])[0]
        margin = (outer.shape[0] - scores.shape[-2]) // 2
        rows, cols = self.core.within(outer.grow(-margin)).slices
        return np.array(scores[:, rows, cols], np.float32)


def smallest_halo(trial: Trial, stride: int, least: int, exact: int) -> HaloError:
    """Find the smallest multiple of the stride at which no pixel that was sure of its class changes it.

    Args:
        trial: see :class:`Trial`.
        stride: total stride, pixels.
        least: halo below which the network gives no output (valid padding), a multiple of the stride.
        exact: halo of the exact prediction.
    """
    low, high = least // stride, exact // stride  # the error falls as the halo grows: halve the range
    best = HaloError(exact, 0.0, 0.0, 0)
    while low < high:
        middle = (low + high) // 2
        error = trial.error(middle * stride)
        if error.sure == 0:
            best, high = error, middle
        else:
            low = middle + 1
    return best
