"""Numbers that add up over blocks: pixel counts, image statistics of the fit phase, normalisation.

Owns: counting against a truth, global statistics and what they are fitted to, normalising pixels.
May import: base modules. Never touches: files, tiles, models.
"""

from __future__ import annotations

from pipeline.statistics.image_statistics import Fit, Fitter, Histogram, Summary, decode, encode
from pipeline.statistics.normalization import NormalizeFitter, check_fixed, constants, fitter, resolve
from pipeline.statistics.pixel_counts import Counts, areas, confusion, count, cross_entropy, unsigned

__all__ = [
    "Counts",
    "Fit",
    "Fitter",
    "Histogram",
    "NormalizeFitter",
    "Summary",
    "areas",
    "check_fixed",
    "confusion",
    "constants",
    "count",
    "cross_entropy",
    "decode",
    "encode",
    "fitter",
    "resolve",
    "unsigned",
]
