"""What the models without a network share: grey values, samples of pixels, thresholds, minimum cuts.

Owns: arithmetic on raw pixels whose result does not depend on the tiling. May import: models, statistics and below.
Never touches: torch, networks. scipy and scikit-learn are imported where they compute.
"""

from __future__ import annotations

from pipeline.models.classical.alpha_expansion import Energy, minimise, neighbour_steps
from pipeline.models.classical.base import ClassicalModel
from pipeline.models.classical.grey_values import GreyFitter, GreyValues, gaussian_weights, unpack_counts, window_sum
from pipeline.models.classical.pixel_samples import PixelFeatures, SampleFitter, find_centers
from pipeline.models.classical.thresholds import li_threshold, otsu_thresholds, triangle_threshold

__all__ = [
    "ClassicalModel",
    "Energy",
    "GreyFitter",
    "GreyValues",
    "PixelFeatures",
    "SampleFitter",
    "find_centers",
    "gaussian_weights",
    "li_threshold",
    "minimise",
    "neighbour_steps",
    "otsu_thresholds",
    "triangle_threshold",
    "unpack_counts",
    "window_sum",
]
