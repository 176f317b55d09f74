"""k-means on colour and texture, with centres fitted to the whole image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, Strict

from pipeline.models.classical import ClassicalModel, PixelFeatures, SampleFitter, find_centers
from pipeline.statistics import Fitter, Summary

__all__ = ["KMeans"]

_ROWS = 64  # compared at a time, so that distances stay in the processor's cache


class KMeans(ClassicalModel):
    """Gives each pixel the class of the nearest k-means centre of the whole image; dark classes come first.

    Lloyd 1982, doi:10.1109/TIT.1982.1056489; first centres by k-means++ (Arthur and Vassilvitskii 2007). Centres are fitted to
    ``samples`` pixels, chosen by a hash of the seed and their coordinates, so that blocks do not change them. Distances are
    Euclidean over features, each divided by its standard deviation. Pixels without data are never sampled; in a window they count as 0.

    Example::

        model: {name: kmeans, classes: 3}
    """

    smooth: float = Field(default=0.0, ge=0, description="sigma of a Gaussian over the channels, cut at 3 sigma, pixels; 0: none")
    texture: Annotated[tuple[PositiveFloat, ...], Strict(strict=False)] = Field(
        default=(), description="sigmas, pixels: each adds the local mean and standard deviation of the grey value"
    )
    samples: int = Field(default=8192, ge=256, description="pixels that the centres are fitted to")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="of the sample and of the first centres")

    @property
    def field(self) -> int:
        """The radius of the widest window."""
        return self._features.radius

    @property
    def _features(self) -> PixelFeatures:
        return PixelFeatures(self.smooth, self.texture)

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Count the float32 features twice, as they are stacked, and six float64 values per pixel for windows."""
        height, width = tile
        return height * width * (8 * (channels + 2 * len(self.texture)) + (48 if self.field else 0) + 1)

    def fitter(self) -> Fitter:
        """Gather a sample of the image's pixels."""
        return _CentreFitter(self._features, self.samples, self.seed, self.num_parts)

    def segment(self, pixels_CYX: NDArray[Any], fit: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Find the nearest centre of each pixel."""
        return self.classes_of(_nearest(self._features.of(pixels_CYX), fit))


@dataclass(frozen=True)
class _CentreFitter(SampleFitter):
    clusters: int

    def fit(self, summary: Summary) -> dict[str, Any]:
        """Return ``{"centers": (K, F), "scale": (F,)}``, in raw units."""
        features_NF = summary["features"]
        num_channels = features_NF.shape[1] - 2 * len(self.features.texture)
        centers_KF, scale_F = find_centers(features_NF, self.clusters, self.seed, num_channels)
        return {"centers": centers_KF.tolist(), "scale": scale_F.tolist()}


def _nearest(features_FYX: NDArray[np.float32], fit: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return the nearest centre of each pixel (Y, X), the first of equals. Sums run pixel by pixel, so tiles round alike."""
    scale_F = np.array(fit["scale"], np.float32)
    centers_KF = (np.array(fit["centers"]) * fit["scale"]).astype(np.float32)
    nearest_YX = np.zeros(features_FYX.shape[1:], np.uint8)
    for top in range(0, len(nearest_YX), _ROWS):
        scaled_FYX = features_FYX[:, top : top + _ROWS] * scale_F[:, None, None]
        part_YX = nearest_YX[top : top + _ROWS]
        least_YX = np.full(part_YX.shape, np.inf, np.float32)
        for k, center_F in enumerate(centers_KF):
            distance_YX = np.zeros_like(least_YX)
            for values_YX, center in zip(scaled_FYX, center_F, strict=True):
                distance_YX += (values_YX - center) ** 2
            part_YX[distance_YX < least_YX] = k
            np.minimum(least_YX, distance_YX, out=least_YX)
    return nearest_YX
