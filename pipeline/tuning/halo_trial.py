"""Choosing a halo by trial: what a halo below the field changes, measured on the user's own pixels with the user's own network.

The exact halo is the field of the network, but most of a wide field hardly matters. So one core of an image is predicted with the
exact halo, then with smaller ones, and the predictions are compared. The core is taken where the pixels vary most: on glass no halo
makes a difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Recipe
from pipeline.engine import read_zero_filled
from pipeline.errors import BlockError
from pipeline.geometry import Box, ceil_to
from pipeline.inputs import Catalogue, Image, open_image
from pipeline.models import PredictFunction, TorchModel
from pipeline.raster import Raster
from pipeline.statistics import normalization_fitter, resolve_normalization
from pipeline.tuning.field_measurement import measure_stride_and_field
from pipeline.tuning.sample_tiles import SURE_MARGIN

__all__ = ["MOST_HALO", "ExactCore", "HaloDifference", "find_smallest_halo", "measure_halo"]

MOST_HALO = 512  # the widest field that is computed exactly, or measured, pixels
CORE = 128  # side of the core that is compared, pixels: a halo matters at its borders
NUM_LOOKS = 4  # places along each axis that the core is chosen from
WORTHWHILE = 20  # a run must have at least so many times the pixels of a trial
FIT_SIDE = 2048  # side of what the normalisation of a trial is fitted to, pixels


@dataclass(frozen=True)
class HaloDifference:
    """How a prediction with a smaller halo differs from the exact one.

    Attributes:
        halo: pixels.
        largest: largest difference of a logit.
        flipped_share: share of the core's valid pixels whose class differs.
        num_sure_flipped: pixels whose class differs although the exact prediction was sure of it (:data:`SURE_MARGIN`).
    """

    halo: int
    largest: float
    flipped_share: float
    num_sure_flipped: int

    def __str__(self) -> str:
        """For a note."""
        return f"logits differ by up to {self.largest:.2g} and {self.flipped_share:.2g} of the pixels change class"


def measure_halo(catalogue: Catalogue, images: Sequence[Image] = ()) -> HaloDifference | None:
    """Measure the halo that a run takes, where it is smaller than the field; first stride and field, as far as the run needs them.

    Args:
        catalogue: of the run.
        images: to measure on, one core of each; empty: the largest image.

    Returns:
        The smallest halo that will do, or the one that the YAML or the model asks for: on the image where it is worst.
        None where the halo is exact, or a trial is impossible or not worthwhile.
    """
    measure_stride_and_field(catalogue)
    model, asked = catalogue.model, catalogue.config.tiling.halo
    if not isinstance(model, TorchModel) or not catalogue.images or model.fixed_size or model.fitter():
        return None
    field = model.field
    wanted = asked if asked != "auto" else model.tile.get("halo", 0)
    if field is None or field > MOST_HALO or wanted >= field:
        return None
    trial_pixels = 5 * (CORE + 2 * field) ** 2  # that a trial computes at most, about
    if catalogue.pixels < WORTHWHILE * trial_pixels:
        return None
    largest = max(catalogue.images, key=lambda image: image.header.shape[0] * image.header.shape[1])
    measured = [_measure_on(catalogue, image, field, wanted) for image in images or [largest]]
    differences = (difference for difference in measured if difference)
    return max(differences, key=lambda worse: (worse.halo, worse.num_sure_flipped, worse.flipped_share), default=None)


def _measure_on(catalogue: Catalogue, image: Image, field: int, wanted: int) -> HaloDifference | None:
    """Try halos on one core of an image, in float32; ``wanted`` 0 asks for the smallest that will do; None: nothing can be told."""
    model = catalogue.model
    stride, normalize = model.stride, resolve_normalization(catalogue.config.normalize, model)
    exact, least = ceil_to(max(field, model.margin), stride), ceil_to(model.margin, stride)
    fixed = normalize if isinstance(normalize, Mapping) else None
    try:
        with open_image(image) as raster, model.predictor(Recipe(), fixed) as predict:
            fit = {}
            if per_image := normalization_fitter(normalize):
                box = Box(0, 0, *raster.header.shape).clip((FIT_SIDE, FIT_SIDE))
                pixels_CYX, valid_YX = read_zero_filled(raster, box.grow(per_image.halo), 0)
                fit = {"normalize": per_image.fit(per_image.observe(pixels_CYX, valid_YX, box, 0))}
            core = ExactCore(predict, raster, fit, stride, exact)
            if not core.is_telling:
                return None
            return core.difference(ceil_to(wanted, stride)) if wanted else find_smallest_halo(core, stride, least, exact)
    except (BlockError, OSError):
        return None  # the run will report what is wrong with the image


class ExactCore:
    """One core of an image, predicted with the exact halo; predictions with smaller halos are compared with it where there is data.

    Args:
        predict: the network in float32, so that rounding does not count as a difference.
        raster: the image.
        fit: of the image's normalisation.
        stride: total stride, pixels.
        exact: halo of the exact prediction, at least the field, a multiple of the stride, pixels.

    Attributes:
        is_telling: whether a halo can make a difference here: pixels vary, logits are finite, and there is more than one class.
    """

    def __init__(self, predict: PredictFunction, raster: Raster, fit: Mapping[str, Any], stride: int, exact: int) -> None:
        self._predict, self._raster, self._fit = predict, raster, fit
        spreads = {box: self._spread(box) for box in _places(raster.header.shape, ceil_to(CORE, stride), stride)}
        self._box = max(spreads, key=lambda box: spreads[box])
        valid_YX = read_zero_filled(raster, self._box, 0)[1]
        self._kept_YX = np.ones(self._box.shape, np.bool_) if valid_YX is None or not valid_YX.any() else valid_YX
        self._exact_KN = self._logits(exact)
        is_finite = np.isfinite(self._exact_KN).all()
        self.is_telling = bool(spreads[self._box] and is_finite and np.ptp(self._exact_KN.argmax(axis=0)))
        ordered_KN = np.sort(self._exact_KN, axis=0)
        self._is_sure_N = ordered_KN[-1] - ordered_KN[-2] > SURE_MARGIN * self._exact_KN.std()

    def difference(self, halo: int) -> HaloDifference:
        """Compare the prediction with a smaller halo with the exact one."""
        logits_KN = self._logits(halo)
        flipped_N = logits_KN.argmax(axis=0) != self._exact_KN.argmax(axis=0)
        largest = float(np.abs(logits_KN - self._exact_KN).max())
        return HaloDifference(halo, largest, float(flipped_N.mean()), int(np.count_nonzero(flipped_N & self._is_sure_N)))

    def _logits(self, halo: int) -> NDArray[Any]:
        """Logits of the core's valid pixels, float32 (K, N)."""
        outer = self._box.grow(halo)
        pixels_CYX, _ = read_zero_filled(self._raster, outer, 0)
        scores = self._predict(pixels_CYX[None], [self._fit])[0]
        margin = (outer.shape[0] - scores.shape[-2]) // 2
        rows, cols = self._box.relative_to(outer.grow(-margin)).slices
        return np.array(scores[:, rows, cols], np.float32)[:, self._kept_YX]

    def _spread(self, box: Box) -> float:
        """Standard deviation of the valid pixels."""
        pixels_CYX, valid_YX = read_zero_filled(self._raster, box, 0)
        values = pixels_CYX if valid_YX is None else pixels_CYX[:, valid_YX]
        return float(values.std(dtype=np.float64)) if values.size else 0.0


def _places(shape: tuple[int, int], side: int, stride: int) -> Iterator[Box]:
    """Cores to choose from: the middle of the image, then a grid all over it."""
    lasts = [max(0, length - side) for length in shape]
    starts = [sorted({last * at // (NUM_LOOKS - 1) // stride * stride for at in range(NUM_LOOKS)}) for last in lasts]
    middle = tuple(last // 2 // stride * stride for last in lasts)
    for y, x in [middle, *product(*starts)]:
        yield Box(y, x, y + side, x + side)


def find_smallest_halo(core: ExactCore, stride: int, least: int, exact: int) -> HaloDifference:
    """Find the smallest multiple of the stride, from ``least`` to ``exact``, at which no pixel that is sure of its class changes it."""
    low, high = least // stride, exact // stride  # the difference falls as the halo grows: halve the range
    best = HaloDifference(exact, 0.0, 0.0, 0)
    while low < high:
        middle = (low + high) // 2
        difference = core.difference(middle * stride)
        if difference.num_sure_flipped == 0:
            best, high = difference, middle
        else:
            low = middle + 1
    return best
