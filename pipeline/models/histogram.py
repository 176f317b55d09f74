"""Thresholds of a whole image's histogram (Otsu 1979; several of them: Liao, Chen and Chung 2001).

The search is ours because common libraries add the histogram up in float32, which puts thresholds of
large images wrong by hundreds of grey levels; here sums are float64 over exact counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.errors import InputError, Problem
from pipeline.fits import Fitter, Histogram, Summary
from pipeline.geometry import Box
from pipeline.models import Model, Predict
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.fits import Fit

__all__ = ["HistogramThreshold"]

_MAX_BINS = 4096  # of the search for two and more thresholds, which costs their square; 12-bit images stay exact


class HistogramThreshold(Model):
    """Classes in order of rising intensity, cut by Otsu's thresholds over the whole image.

    A value above a threshold is of the higher class. Thresholds are exact for 8- and 16-bit images; with more than
    two classes and more than 4096 different values, values are first put into 4096 equal bins between the
    smallest and the largest. An image of fewer values than classes uses the lower classes; a constant image is class 0.

    Example::

        model: {name: histogram, classes: 3}
    """

    classes: int = Field(default=2, ge=2, le=5, description="number of classes")
    channel: int | None = Field(default=None, ge=0, description="which channel, from 0; null: the mean of all")
    method: Literal["otsu"] = Field(default="otsu", description="multi-Otsu where there are more than two classes")

    @property
    def num_classes(self) -> int:
        """As many as asked for."""
        return self.classes

    @property
    def field(self) -> int:
        """A pixel's class depends on that pixel alone, once the thresholds are known."""
        return 0

    def fitter(self) -> Fitter:
        """The whole image's histogram."""
        return _ThresholdFitter(self.classes, self.channel)

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predict]:
        """Nothing is loaded: the thresholds come with each tile's fit."""
        del recipe, normalize
        yield self._predict

    def _predict(self, pixels_BCYX: NDArray[Any], fits: Sequence[Fit]) -> NDArray[np.uint8]:
        batch, _, height, width = pixels_BCYX.shape
        classes_BYX = np.empty((batch, height, width), np.uint8)
        for pixels_CYX, fit, classes_YX in zip(pixels_BCYX, fits, classes_BYX, strict=True):
            values_YX, summed = _grey(pixels_CYX, self.channel)
            cuts = [threshold * summed for threshold in fit["model"]["thresholds"]]
            if values_YX.dtype.kind in "iu":
                cuts = [round(cut) for cut in cuts]  # a Python integer keeps the comparison in the pixels' own type
            np.greater(values_YX, cuts[0], out=classes_YX.view(np.bool_))
            for cut in cuts[1:]:
                classes_YX += values_YX > cut
        return classes_BYX


@dataclass(frozen=True)
class _ThresholdFitter(Fitter):
    """Counts grey values; the summary's name says what was counted, so that it needs no second record."""

    classes: int
    channel: int | None

    def observe(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box, plane: int) -> Summary:
        """Count the valid, finite grey values of one block."""
        del box, plane
        values, summed = _grey(pixels_CYX, self.channel)
        if valid_YX is not None:
            values = values[valid_YX]
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        dtype = "float32" if values.dtype.kind == "f" else str(pixels_CYX.dtype)
        return {f"{dtype}.{summed}": Histogram(dtype, summed).counts(values)}

    def fit(self, summary: Summary) -> dict[str, Any]:
        """Return ``{"thresholds": [...]}``, rising, ``classes - 1`` of them, in raw units."""
        ((name, counts),) = summary.items()
        dtype, summed = name.rsplit(".", 1)
        bins = Histogram(dtype, int(summed))
        cuts = thresholds(counts, bins.centers(), bins.tops(), self.classes)
        return {"thresholds": [float(cut) / int(summed) for cut in cuts]}


def _grey(pixels_CYX: NDArray[Any], channel: int | None) -> tuple[NDArray[Any], int]:
    """Return one value a pixel (Y, X), and of how many channels it is the sum: sums of small integers are exact."""
    count, kind = len(pixels_CYX), pixels_CYX.dtype
    if channel is not None and channel >= count:
        raise InputError(Problem("model.channel", str(channel), f"0..{count - 1}, of the image's {count} channels"))
    if channel is not None or count == 1:
        values_YX = pixels_CYX[channel or 0]
        if values_YX.dtype == np.bool_:
            return values_YX.view(np.uint8), 1
        return (values_YX if Histogram(str(kind)).exact else values_YX.astype(np.float32)), 1
    exact = Histogram(str(kind), count).exact
    total_YX = pixels_CYX[0].astype(np.int32 if exact else np.float32)
    for values_YX in pixels_CYX[1:]:  # in this order whatever the memory layout, so that floats round alike
        total_YX += values_YX
    return (total_YX, count) if exact else (total_YX / np.float32(count), 1)


def thresholds(counts: NDArray[np.int64], centers: NDArray[np.float64], tops: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """Find the thresholds that maximise the variance between classes; exact, by dynamic programming.

    Args:
        counts: pixels per bin.
        centers: the value that a bin stands for, rising.
        tops: the largest value of a bin.
        classes: at least 2.

    Returns:
        Rising thresholds (classes - 1,): the largest value of each class but the last. The last one is repeated where
        there are fewer values than classes; zeros for an empty histogram.

    Example:
        >>> counts, values = np.array([9, 1, 0, 0, 5]), np.arange(5.0)
        >>> thresholds(counts, values, values, 2).tolist()
        [1.0]
    """
    used = np.flatnonzero(counts)
    if not used.size:
        return np.zeros(classes - 1)
    counts, centers, tops = counts[used], centers[used], tops[used]
    if classes > 2 and len(counts) > _MAX_BINS:
        counts, centers, tops = _coarsen(counts, centers, tops)
    if len(counts) <= classes:
        return tops[np.minimum(np.arange(classes - 1), len(tops) - 1)]
    return tops[_best_cuts(counts, centers, classes) - 1]


def _coarsen(
    counts: NDArray[np.int64], centers: NDArray[np.float64], tops: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Gather bins into equal ones between the smallest and the largest value; a new bin's value is its mean."""
    share = (centers - centers[0]) / (centers[-1] - centers[0])
    group = np.minimum((share * _MAX_BINS).astype(np.intp), _MAX_BINS - 1)
    first = np.flatnonzero(np.diff(group, prepend=-1))
    last = np.append(first[1:], len(group)) - 1
    total = np.add.reduceat(counts, first)
    return total, np.add.reduceat(counts * centers, first) / total, tops[last]


def _best_cuts(counts: NDArray[np.int64], centers: NDArray[np.float64], classes: int) -> NDArray[np.intp]:
    """Return where each class but the first begins: the best cut of the first j bins into k classes, for rising k."""
    size = len(counts)
    pixels = np.append(0, np.cumsum(counts)).astype(np.float64)
    total = np.append(0.0, np.cumsum(counts * (centers - centers.mean())))

    def score(start: Any, stop: Any) -> Any:
        """What bins start..stop add to the variance between classes: pixels times squared mean."""
        return (total[stop] - total[start]) ** 2 / (pixels[stop] - pixels[start])

    best = np.append(-np.inf, score(0, np.arange(1, size + 1)))
    came_from = []
    for k in range(2, classes + 1):
        rise, origin = np.full(size + 1, -np.inf), np.zeros(size + 1, np.intp)
        for stop in range(k, size + 1) if k < classes else (size,):
            starts = np.arange(k - 1, stop)
            candidates = best[k - 1 : stop] + score(starts, stop)
            origin[stop] = starts[pick := int(np.argmax(candidates))]
            rise[stop] = candidates[pick]
        best = rise
        came_from.append(origin)
    cuts = [size]
    for origin in reversed(came_from):
        cuts.append(int(origin[cuts[-1]]))
    return np.array(cuts[:0:-1], np.intp)
