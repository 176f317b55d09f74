"""Thresholds from a whole image's histogram (Otsu, Li, triangle), or from each pixel's neighbourhood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.errors import Problem
from pipeline.models.classical import (
    ClassicalModel,
    GreyFitter,
    GreyValues,
    gaussian_weights,
    li_threshold,
    otsu_thresholds,
    triangle_threshold,
    unpack_counts,
    window_sum,
)
from pipeline.statistics import Fitter, Summary
from pipeline.validation import problems_error

__all__ = ["HistogramThreshold"]


class _Local(BaseModel):
    """A threshold for each pixel, computed from the window around it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    window: int = Field(ge=3, description="side of the window, pixels, odd")
    offset: float = Field(default=0.0, description="taken off the window's mean, raw units: a positive one makes more of class 1")
    method: Literal["mean", "gaussian"] = Field(
        default="mean", description="weights of the window; gaussian: its sigma is (window - 1) / 6"
    )

    @field_validator("window")
    @classmethod
    def _odd(cls, window: int) -> int:
        if window % 2 == 0:
            raise ValueError(f"an odd number of pixels, such as {window + 1}")
        return window

    def weights(self) -> NDArray[np.float64]:
        """Return the weights of the window along one axis; integers for the mean, so that sums of integers are exact."""
        return np.ones(self.window) if self.method == "mean" else gaussian_weights((self.window - 1) / 6, truncate=4.0)


class HistogramThreshold(ClassicalModel):
    """Classes in order of rising intensity, divided by thresholds of the whole image's histogram, or of each pixel's neighbourhood.

    A value above a threshold belongs to the higher class. Thresholds are exact for 8- and 16-bit images; with more than
    two classes and more than 4096 distinct values, values are first put into 4096 equal bins between the
    smallest and the largest. Other types are counted in bins of 0.8 % of their value. An image with fewer values than classes uses
    the lower classes; a constant image is class 0.

    ``otsu``: Otsu 1979, and Liao, Chen and Chung 2001 for more than two parts. ``li``: minimum cross entropy, Li and Lee 1993, by the
    iteration of Li and Tam 1998; for images with few bright pixels. ``triangle``: Zack, Rogers and Latt 1977; for one peak with a long
    tail. ``texture``: a histogram of the local standard deviation, which separates rough from smooth (Gonzalez and Woods 2002).
    ``local``: the mean of the window around each pixel, minus an offset (Gonzalez and Woods 2002); for uneven light. Pixels without
    data count as 0 in a window.

    Example::

        model: {name: histogram, classes: 3}
    """

    max_parts: ClassVar[int] = 5

    channel: int | None = Field(default=None, ge=0, description="which channel, from 0; null: the mean of all")
    smooth: float = Field(default=0.0, ge=0, description="sigma of a Gaussian over the grey value, cut at 3 sigma, pixels; 0: none")
    texture: float = Field(
        default=0.0,
        ge=0,
        description="sigma, pixels: the standard deviation of the grey value in a Gaussian window takes its place; 0: none",
    )
    method: Literal["otsu", "li", "triangle"] = Field(default="otsu", description="of the threshold; more than two parts: otsu only")
    local: _Local | None = Field(
        default=None, description="{window, offset, method: mean|gaussian}: a threshold for each pixel instead, from the window around it"
    )

    @model_validator(mode="after")
    def _one_threshold(self) -> HistogramThreshold:
        if self.num_parts > 2 and (self.method != "otsu" or self.local):
            where, found = ("outputs", f"{self.num_parts} parts") if self.outputs else ("classes", str(self.classes))
            asker = "local" if self.local else f"method: {self.method}"
            raise problems_error([Problem(where, found, f"2, as {asker} has one threshold", "Use method: otsu for more.")])
        if self.local and self.method != "otsu":
            way_out = "Leave one of them out."
            raise problems_error([Problem("method", self.method, "no other method where local gives the thresholds", way_out)])
        if self.smooth and self.texture:
            raise problems_error(
                [Problem("smooth", str(self.smooth), "0 where texture takes the grey value's place", "Leave one of them out.")]
            )
        return self

    @property
    def _grey(self) -> GreyValues:
        return GreyValues(self.channel, self.smooth, self.texture)

    @property
    def field(self) -> int:
        """The radius of the windows; 0 without windows, as thresholds are fitted before tiles are predicted."""
        return self._grey.radius + (len(self.local.weights()) // 2 if self.local else 0)

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Count the grey values, and three float64 values per pixel for a window or six for texture."""
        height, width = tile
        return height * width * (channels * 4 + 16 + (48 if self.texture else 24 if self.field else 0))

    def fitter(self) -> Fitter | None:
        """Gather the whole image's histogram; None where each window has its own threshold."""
        return None if self.local else _ThresholdFitter(self._grey, self.num_parts, self.method)

    def segment(self, pixels_CYX: NDArray[Any], fit: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Compare the grey values with the thresholds of the image, or of the pixels' windows."""
        values_YX, summed = self._grey.of(pixels_CYX)
        parts_YX = np.empty(values_YX.shape, np.uint8)
        if self.local:
            weights = self.local.weights()
            area = weights.sum() ** 2
            level_YX = window_sum(values_YX, weights) - self.local.offset * summed * area
            np.greater(values_YX * area, level_YX, out=parts_YX.view(np.bool_))
            return self.classes_of(parts_YX)
        cuts = [threshold * summed for threshold in fit["thresholds"]]
        if values_YX.dtype.kind in "iu":
            # A Python integer keeps the comparison in the pixels' own type; 1e-6 undoes the rounding of the division by `summed`.
            cuts = [math.floor(cut + 1e-6) for cut in cuts]
        np.greater(values_YX, cuts[0], out=parts_YX.view(np.bool_))
        for cut in cuts[1:]:
            parts_YX += values_YX > cut
        return self.classes_of(parts_YX)


@dataclass(frozen=True)
class _ThresholdFitter(GreyFitter):
    method: str

    def fit(self, summary: Summary) -> dict[str, Any]:
        """Return ``{"thresholds": [...]}``, rising, one fewer than the parts, in raw units."""
        counts, bins, summed = unpack_counts(summary)
        if self.method == "li":
            cuts = [li_threshold(counts, bins.centers())]
        elif self.method == "triangle":
            cuts = [triangle_threshold(counts, bins.centers(), bins.tops())]
        else:
            cuts = list(otsu_thresholds(counts, bins.centers(), bins.tops(), self.num_parts))
        return {"thresholds": [float(cut) / summed for cut in cuts]}
