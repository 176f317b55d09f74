"""Normalisation: ``(raw - mean) / std`` with a mean and a std of the data set or of the whole image, never of a tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem, one_of
from pipeline.geometry import Box
from pipeline.statistics.contrast import ContrastFitter
from pipeline.statistics.fitters import Fitter, Histogram, ImageFit, Summary

if TYPE_CHECKING:
    from pipeline.models import Model

__all__ = [
    "HIGH_PERCENTILE",
    "LOW_PERCENTILE",
    "PER_IMAGE",
    "Normalization",
    "NormalizationFitter",
    "check_mean_std",
    "mean_and_std",
    "normalization_fitter",
    "resolve_normalization",
]

LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.8  # those that `percentile` maps to 0 and 1
PER_IMAGE = ("percentile", "zscore", "contrast")  # methods that are fitted to each image

Normalization = Mapping[str, Sequence[float]] | Literal["percentile", "zscore", "contrast"] | None
"""How a run normalises: a mean and a std, in raw units, for all channels or for each; a method that is fitted to each image;
or None, which keeps raw values."""


@dataclass(frozen=True)
class NormalizationFitter(Fitter):
    """Fits mean and std of each channel to its histogram.

    ``zscore``: mean and standard deviation. ``percentile``: the 1st percentile becomes 0 and the 99.8th becomes 1, each the
    smallest value that at least so many pixels do not exceed. The numbers are exact for 8- and 16-bit integers and within
    1 % for other types, which are binned (:class:`~pipeline.statistics.histogram.Histogram`). A constant channel gets std 1.
    """

    kind: Literal["percentile", "zscore"]

    def observe(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box, plane: int) -> Summary:
        """Count the valid values of each channel of one block."""
        del box, plane
        bins = Histogram(str(pixels_CYX.dtype))
        counts = [bins.counts(values if valid_YX is None else values[valid_YX]) for values in pixels_CYX]
        return {str(pixels_CYX.dtype): np.stack(counts)}

    def fit(self, summary: Summary) -> dict[str, Any]:
        """Return ``{"mean": [..], "std": [..]}``, one a channel, raw units."""
        ((dtype, counts_CV),) = summary.items()
        values = Histogram(dtype).centers()
        pairs = [self._fit(counts, values) for counts in counts_CV]
        return {"mean": [mean for mean, _ in pairs], "std": [std for _, std in pairs]}

    def _fit(self, counts: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[float, float]:
        used = np.flatnonzero(counts)
        if not used.size:
            return 0.0, 1.0
        counts, values = counts[used], values[used]
        if self.kind == "percentile":
            below = np.cumsum(counts)
            low, high = (values[np.searchsorted(below, share / 100 * below[-1])] for share in (LOW_PERCENTILE, HIGH_PERCENTILE))
            mean, std = float(low), float(high - low)
        else:
            mean = float(np.average(values, weights=counts))
            std = float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
        return mean, std or 1.0


def resolve_normalization(asked: Normalization, model: Model) -> Normalization:
    """Return how a run normalises: as the YAML says, else as the model says.

    Raises:
        InputError: the model takes raw values only, or the lengths of mean and std do not fit its channels.
    """
    chosen: Normalization = model.normalize if asked is None else asked
    if asked is not None and not model.takes_normalize:
        raise InputError(Problem("normalize", repr(asked), "null, as the model works on raw values", "Remove the key."))
    if isinstance(chosen, Mapping):
        if problems := check_mean_std(chosen, model.num_channels):
            raise InputError(problems)
    elif chosen not in {None, *PER_IMAGE}:
        raise InputError(Problem("normalize", repr(chosen), f"null, {{mean: [..], std: [..]}}, {one_of(PER_IMAGE)}"))
    return chosen


def normalization_fitter(normalization: Normalization) -> Fitter | None:
    """Return the fitter that a normalisation needs; None where it needs no statistics."""
    if not isinstance(normalization, str):
        return None
    return ContrastFitter() if normalization == "contrast" else NormalizationFitter(normalization)


def mean_and_std(
    normalize: Mapping[str, Any] | None, fits: Sequence[ImageFit], channels: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return mean and std of each tile and channel, float32 (B, C); None: raw values.

    Args:
        normalize: mean and std for all tiles; None: those that the fit phase concluded for each tile's image, if any.
        fits: what the fit phase concluded for each tile's image.
        channels: C of the pixels.

    Raises:
        InputError: the length of mean or std is neither 1 nor C.
    """
    by_tile = [normalize if normalize is not None else fit.get("normalize", fit.get("stain", {}).get("normalize")) for fit in fits]
    if not by_tile or all(numbers is None for numbers in by_tile):
        return None
    raw = {"mean": [0.0], "std": [1.0]}
    both = []
    for key in ("mean", "std"):
        rows = [(numbers or raw)[key] for numbers in by_tile]
        for row in rows:
            if len(row) not in (1, channels):
                expected = f"one, or one for each of the image's {channels} channels"
                raise InputError(Problem(f"normalize.{key}", f"{len(row)} numbers", expected))
        both.append(np.array([np.broadcast_to(row, channels) for row in rows], np.float32))
    return both[0], both[1]


def check_mean_std(chosen: Mapping[str, Sequence[float]], channels: int | None) -> list[Problem]:
    """Return what is wrong with ``{"mean": [..], "std": [..]}``; ``channels`` is the model's number of them, None: any."""
    keys = ("mean", "std")
    problems = []
    for key in keys:
        numbers, where = list(chosen.get(key) or ()), f"normalize.{key}"
        if not numbers:
            problems.append(Problem(where, str(numbers) if key in chosen else None, "a list of numbers in raw units"))
        elif channels is not None and len(numbers) not in (1, channels):
            problems.append(Problem(where, f"{len(numbers)} numbers", f"one, or one for each of the model's {channels} channels"))
        elif key == "std" and not all(number > 0 for number in numbers):
            problems.append(Problem(where, str(numbers), "numbers above 0"))
    return [*problems, *(Problem(f"normalize.{key}", f"unknown key {key!r}", one_of(keys)) for key in chosen if key not in keys)]
