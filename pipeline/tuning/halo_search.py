"""What a halo costs in exactness, measured on the user's own pixels with the user's own network.

The exact halo is the field of the network, and most of a wide field hardly matters. So a tile of an image is
predicted with the exact halo, then with smaller ones, and the two predictions of its core are compared. The tile is
taken where there is most to see: on glass no halo makes a difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import read_reflected, valid_pixels
from pipeline.geometry import Box, ceil_to
from pipeline.models import Predict
from pipeline.raster import Raster

__all__ = ["HaloError", "HaloTrial", "smallest_halo", "trial_pixels"]

CORE = 128  # side of the core that is compared: its borders are what a halo is about
LOOKS = 4  # places along each axis that are looked at for the one with most to see
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


class HaloTrial:
    """One core of an image, predicted once exactly.

    Args:
        predict: the network; float32, so that rounding does not count as error.
        raster: the image.
        fit: what the fit phase would find; only a per-image normalisation is looked at.
        stride: total stride, pixels.
        exact: halo of the exact prediction, at least the field, a multiple of the stride.

    Attributes:
        tells: whether there is anything to flip: pixels differ, logits are numbers, and their classes more than one.
    """

    def __init__(self, predict: Predict, raster: Raster, fit: Mapping[str, Any], stride: int, exact: int) -> None:
        self.predict, self.raster, self.fit = predict, raster, fit
        spreads = {box: self._spread(box) for box in _places(raster.header.shape, ceil_to(CORE, stride), stride)}
        self.core = max(spreads, key=lambda box: spreads[box])
        self.exact_KYX = self._logits(exact)
        self.tells = bool(spreads[self.core] and np.isfinite(self.exact_KYX).all() and np.ptp(self.exact_KYX.argmax(axis=0)))
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
        pixels_CYX, valid_YX = self._read(outer)
        if valid_YX is not None:
            pixels_CYX = np.where(valid_YX, pixels_CYX, pixels_CYX.dtype.type(0))  # as a run does
        scores = self.predict(pixels_CYX[None], [self.fit])[0]
        margin = (outer.shape[0] - scores.shape[-2]) // 2
        rows, cols = self.core.within(outer.grow(-margin)).slices
        return np.array(scores[:, rows, cols], np.float32)

    def _read(self, box: Box) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        pixels_CYX = read_reflected(self.raster, box, 0)
        return pixels_CYX, valid_pixels(pixels_CYX, self.raster.header)

    def _spread(self, box: Box) -> float:
        """Standard deviation of the pixels that are data."""
        pixels_CYX, valid_YX = self._read(box)
        seen = pixels_CYX if valid_YX is None else pixels_CYX[:, valid_YX]
        return float(seen.std(dtype=np.float64)) if seen.size else 0.0


def _places(shape: tuple[int, int], side: int, stride: int) -> Iterator[Box]:
    """Cores to choose from: the middle, then a grid of places all over the image."""
    lasts = [max(0, length - side) for length in shape]
    ways = [sorted({last * at // (LOOKS - 1) // stride * stride for at in range(LOOKS)}) for last in lasts]
    middle = tuple(last // 2 // stride * stride for last in lasts)
    for y, x in [middle, *product(*ways)]:
        yield Box(y, x, y + side, x + side)


def smallest_halo(trial: HaloTrial, stride: int, least: int, exact: int) -> HaloError:
    """Find the smallest multiple of the stride at which no pixel that was sure of its class changes it.

    Args:
        trial: see :class:`HaloTrial`.
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
