"""Marker-controlled watershed: regions grow from certain pixels of each class until they meet on ridges of the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.models.classical import ClassicalModel, GreyFitter, GreyValues, gaussian_weights, otsu_thresholds, unpack_counts, window_sum
from pipeline.statistics import Fitter, Summary

__all__ = ["Watershed"]


class Watershed(ClassicalModel):
    """Classes in order of rising intensity; edges decide about pixels whose brightness lies near a threshold.

    The watershed of the gradient's magnitude from markers (Beucher and Meyer 1993; by flooding, Vincent and Soille 1991,
    doi:10.1109/34.87344). Otsu's thresholds of the whole image separate the classes; a pixel is a marker of its class where it lies at
    least the share ``sure`` of the way from the threshold to the mean of the class. Every other pixel joins the marker that reaches it
    over the lowest ridge of the gradient (Sobel) of the grey value, smoothed by a Gaussian. With ``texture`` the local standard deviation
    replaces the grey value, which separates rough from smooth.

    A ridge may be long, so no halo is exact; a halo of 64 pixels changed at most 1 pixel in 1,000 of five natural images.

    Example::

        model: {name: watershed, classes: 2}
    """

    max_parts: ClassVar[int] = 5
    tile: ClassVar[Mapping[str, int]] = {"core": 1024, "halo": 64}

    channel: int | None = Field(default=None, ge=0, description="which channel, from 0; null: the mean of all")
    smooth: float = Field(default=1.0, ge=0, description="sigma of the Gaussian, cut at 3 sigma, pixels; 0: none")
    texture: float = Field(
        default=0.0,
        ge=0,
        description="sigma, pixels: the standard deviation of the grey value in a Gaussian window takes its place; 0: none",
    )
    sure: float = Field(
        default=0.5, ge=0, le=1, description="how far from the threshold to the class's mean a marker begins; 0: at the threshold"
    )

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """As measured for the gradient, the markers and the queue of the flood."""
        height, width = tile
        return height * width * (channels * 4 + 120 + (48 if self.texture else 0))

    def fitter(self) -> Fitter:
        """Gather the whole image's histogram."""
        return _MarkerFitter(self._grey, self.num_parts)

    @property
    def _grey(self) -> GreyValues:
        return GreyValues(self.channel, texture=self.texture)

    def segment(self, pixels_CYX: NDArray[Any], fit: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Flood the gradient from the markers."""
        from scipy.ndimage import sobel
        from skimage.segmentation import watershed

        values_YX, summed = self._grey.of(pixels_CYX)
        values_YX = window_sum(values_YX, gaussian_weights(self.smooth)) / summed
        cuts, means = np.array(fit["thresholds"]), np.array(fit["means"])
        parts_YX = np.searchsorted(cuts, values_YX).astype(np.uint8)  # a value on a threshold belongs to the lower class
        low_K = np.append(-np.inf, cuts + self.sure * (means[1:] - cuts))
        high_K = np.append(cuts - self.sure * (cuts - means[:-1]), np.inf)
        sure_YX = (values_YX >= low_K[parts_YX]) & (values_YX <= high_K[parts_YX])
        if not sure_YX.any():
            return self.classes_of(parts_YX)
        slope_YX = np.hypot(sobel(values_YX, axis=0, mode="mirror"), sobel(values_YX, axis=1, mode="mirror"))
        markers_YX = np.where(sure_YX, parts_YX + np.int32(1), np.int32(0))
        flooded_YX: NDArray[np.int32] = watershed(slope_YX, markers_YX)  # type: ignore[no-untyped-call]  # the library has no types
        return self.classes_of((flooded_YX - 1).astype(np.uint8))


class _MarkerFitter(GreyFitter):
    def fit(self, summary: Summary) -> dict[str, Any]:
        """Return ``{"thresholds": (K - 1), "means": (K)}``, rising, in raw units; the mean of an empty part is its threshold."""
        counts, bins, summed = unpack_counts(summary)
        centers = bins.centers()
        cuts = otsu_thresholds(counts, centers, bins.tops(), self.num_parts)
        group = np.searchsorted(cuts, centers)
        pixels = np.bincount(group, counts, self.num_parts)
        total = np.bincount(group, counts * centers, self.num_parts)
        means = np.divide(total, pixels, out=np.append(cuts, cuts[-1]), where=pixels > 0)
        return {"thresholds": (cuts / summed).tolist(), "means": (means / summed).tolist()}
