"""A sample of an image's pixels, chosen by a hash of their coordinates: the same pixels however the image is cut into blocks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.models import fact_of
from pipeline.models.classical.grey_values import gaussian_weights, to_grey, window_mean_and_std, window_sum
from pipeline.statistics import Fitter, Summary

__all__ = ["PixelFeatures", "SampleFitter", "find_centers", "pixel_hash"]

_ROWS = 256  # computed at a time, so that the sample of a block costs little memory whatever its size
_STARTS = 10  # of k-means with different first centres; the best result is kept


@dataclass(frozen=True)
class PixelFeatures:
    """The features of a pixel: its channels, and statistics of the grey values around it."""

    smooth: float = 0.0  # sigma of a Gaussian over the channels, pixels; 0: none
    texture: Sequence[float] = ()  # sigmas of Gaussian windows; each adds the local mean and standard deviation of the grey value
    # whether to add, for each channel, the mean square of the differences to the next pixel in the row and in the column
    has_steps: bool = False

    @property
    def radius(self) -> int:
        """Distance of the furthest pixel that changes a feature, pixels."""
        return max(int(self.has_steps), *(len(gaussian_weights(sigma)) // 2 for sigma in (self.smooth, *self.texture)))

    def of(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Return features (F, Y, X): channels, two for each window, then differences, which are NaN next to pixels without data."""
        weights = gaussian_weights(self.smooth)
        channels = (window_sum(values_YX, weights) if self.smooth else values_YX for values_YX in pixels_CYX)
        features = [values_YX.astype(np.float32) for values_YX in channels]
        if self.texture:
            values_YX, summed = to_grey(pixels_CYX, None)
            grey_YX = values_YX / np.float64(summed)
            for sigma in self.texture:
                features += [moment_YX.astype(np.float32) for moment_YX in window_mean_and_std(grey_YX, sigma)]
        if self.has_steps:
            values_CYX = np.stack(features[: len(pixels_CYX)])
            values_CYX = values_CYX if valid_YX is None else np.where(valid_YX, values_CYX, np.float32(np.nan))
            values_CYX = np.pad(values_CYX, [(0, 0), (0, 1), (0, 1)], mode="edge")
            features += list((np.diff(values_CYX, axis=1)[:, :, :-1] ** 2 + np.diff(values_CYX, axis=2)[:, :-1] ** 2) / 2)
        return np.stack(features)


def pixel_hash(seed: int, plane: int, box: Box) -> NDArray[np.uint64]:
    """Hash the coordinates of each pixel of a box, (Y, X); hashes within a plane are distinct, and do not depend on the box."""
    step = np.uint64(0x9E3779B97F4A7C15)
    start = _mix(_mix(np.full(1, seed, np.uint64) * step) + np.full(1, plane, np.uint64) * step)  # arrays overflow without a warning
    rows = np.arange(box.y0, box.y1, dtype=np.uint64)[:, None] << np.uint64(32)
    return _mix(start + (rows | np.arange(box.x0, box.x1, dtype=np.uint64)) * step)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the finaliser of splitmix64 (Steele, Lea and Flood 2014), a bijection that leaves no pattern."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@dataclass(frozen=True)
class SampleFitter(Fitter):
    """Keeps ``features`` of the ``samples`` pixels with the smallest hashes: blocks merge in any order to the sample of the whole image."""

    features: PixelFeatures
    samples: int
    seed: int

    halo: ClassVar[int] = fact_of("features.radius")

    def observe(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box, plane: int) -> Summary:
        """Sample the valid, finite pixels of a block; pixels without data count as 0 in windows, as in a prediction."""
        halo = self.halo
        num_own = len(pixels_CYX) + 2 * len(self.features.texture)  # the rest are differences, which may be unknown
        kept: Summary | None = None
        for top in range(0, box.shape[0], _ROWS):
            rows = slice(top, min(top + _ROWS, box.shape[0]))
            keys_YX = pixel_hash(self.seed, plane, Box(box.y0 + rows.start, box.x0, box.y0 + rows.stop, box.x1))
            band = slice(rows.start, rows.stop + 2 * halo)
            valid_band_YX = None if valid_YX is None else valid_YX[band]
            inside = tuple(slice(halo, halo + length) for length in keys_YX.shape)
            features_FYX = self.features.of(pixels_CYX[:, band], valid_band_YX)[:, *inside]
            seen_YX = np.isfinite(features_FYX[:num_own]).all(axis=0)
            if valid_band_YX is not None:
                seen_YX &= valid_band_YX[inside]
            if kept is not None and len(kept["keys"]) == self.samples:
                seen_YX &= keys_YX < kept["keys"][-1]
            some = self._smallest({"keys": keys_YX[seen_YX], "features": features_FYX[:, seen_YX].T})
            kept = some if kept is None else self.merge(kept, some)
        assert kept is not None
        return kept

    def merge(self, one: Summary, other: Summary) -> Summary:
        """Keep the pixels with the smallest hashes of both samples."""
        return self._smallest({name: np.concatenate([one[name], other[name]]) for name in one})

    def _smallest(self, summary: Summary) -> Summary:
        keys, features_NF = summary["keys"], summary["features"]
        if len(keys) > self.samples:
            near = np.flatnonzero(keys <= np.partition(keys, self.samples - 1)[self.samples - 1])
            keys, features_NF = keys[near], features_NF[near]
        order = np.lexsort((*features_NF.T, keys))[: self.samples]  # pixels of two planes may share a hash; their features decide then
        return {"keys": keys[order], "features": features_NF[order]}

    @abstractmethod
    def fit(self, summary: Summary) -> dict[str, Any]:
        """Fit ``summary["features"]``, float32 (N, F), which is in the order of the hashes."""


def find_centers(
    features_NF: NDArray[np.float32], clusters: int, seed: int, num_channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find cluster centres by k-means (Lloyd 1982; first centres: Arthur and Vassilvitskii 2007), in rising order of brightness.

    The brightness is the mean of the first ``num_channels`` features. Where the sample has fewer distinct pixels than ``clusters``,
    the last centre is repeated.

    Returns:
        Centres (clusters, F) in raw units, and the factor (F,) of each feature before distances are taken: one over
        the sample's standard deviation, 0 for a constant feature.
    """
    values_NF = features_NF.astype(np.float64)
    if not len(values_NF):
        return np.zeros((clusters, values_NF.shape[1])), np.zeros(values_NF.shape[1])
    spread_F = values_NF.std(axis=0)
    scale_F = np.divide(1, spread_F, out=np.zeros_like(spread_F), where=spread_F > 0)
    count = min(clusters, len(np.unique(values_NF * scale_F, axis=0)))
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # threads would add their sums in any order
        found = KMeans(count, n_init=_STARTS, random_state=seed, algorithm="lloyd").fit(values_NF * scale_F)
    centres_KF = found.cluster_centers_ / np.where(scale_F > 0, scale_F, 1) + values_NF[0] * (scale_F == 0)
    order = np.lexsort((*centres_KF.T[::-1], centres_KF[:, :num_channels].mean(axis=1)))
    return centres_KF[order][np.minimum(np.arange(clusters), count - 1)], scale_F
