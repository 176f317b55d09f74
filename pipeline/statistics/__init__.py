"""Numbers that add over blocks: pixel counts and the statistics of whole images.

Owns: counting pixels and objects against their truth, areas by class and zone, measures of objects, the fitters of the fit phase,
histograms, normalisation, finding the pixels that count, comparing images with those of a training.
May import: ``errors`` and ``geometry``. Never touches: files, tiles, networks.
"""

from __future__ import annotations

from pipeline.statistics.appearance import KnownAppearance, learn_appearance
from pipeline.statistics.area_counts import SQUARE_METRE, AreaCounts, AreaSums, is_area, whole_areas
from pipeline.statistics.change_counts import count_change, counted_change, is_change
from pipeline.statistics.contrast import ContrastFitter
from pipeline.statistics.fitters import Fitter, Fitters, Histogram, ImageFit, Summary, decode_summary, encode_summary
from pipeline.statistics.normalization import (
    HIGH_PERCENTILE,
    LOW_PERCENTILE,
    PER_IMAGE,
    Normalization,
    NormalizationFitter,
    check_mean_std,
    mean_and_std,
    normalization_fitter,
    resolve_normalization,
)
from pipeline.statistics.object_columns import PixelSize, object_columns
from pipeline.statistics.object_counts import DICE_UNITS, IOU_THRESHOLDS, IOU_UNITS, ObjectCounts, ObjectMatches, count_objects
from pipeline.statistics.object_measures import ObjectParts, measure
from pipeline.statistics.object_pairs import pair_ids, repeated_ids, rows_of_whole_objects, sum_pairs
from pipeline.statistics.pixel_counts import (
    CONFIDENCE_BINS,
    CONFIDENCE_STEPS,
    Counts,
    as_unsigned,
    confusion_matrix,
    count_confidence,
    count_pixels,
    sum_cross_entropy,
)
from pipeline.statistics.stains import StainFitter, recolor
from pipeline.statistics.tissue import CellMap, Content, EmptyAreas, cell_side, content_of, find_empty_areas
from pipeline.statistics.window_numbers import PROPERTIES, Description, Window, describe_windows, sample_boxes

__all__ = [
    "CONFIDENCE_BINS",
    "CONFIDENCE_STEPS",
    "DICE_UNITS",
    "HIGH_PERCENTILE",
    "IOU_THRESHOLDS",
    "IOU_UNITS",
    "LOW_PERCENTILE",
    "PER_IMAGE",
    "PROPERTIES",
    "SQUARE_METRE",
    "AreaCounts",
    "AreaSums",
    "CellMap",
    "Content",
    "ContrastFitter",
    "Counts",
    "Description",
    "EmptyAreas",
    "Fitter",
    "Fitters",
    "Histogram",
    "ImageFit",
    "KnownAppearance",
    "Normalization",
    "NormalizationFitter",
    "ObjectCounts",
    "ObjectMatches",
    "ObjectParts",
    "PixelSize",
    "StainFitter",
    "Summary",
    "Window",
    "as_unsigned",
    "cell_side",
    "check_mean_std",
    "confusion_matrix",
    "content_of",
    "count_change",
    "count_confidence",
    "count_objects",
    "count_pixels",
    "counted_change",
    "decode_summary",
    "describe_windows",
    "encode_summary",
    "find_empty_areas",
    "is_area",
    "is_change",
    "learn_appearance",
    "mean_and_std",
    "measure",
    "normalization_fitter",
    "object_columns",
    "pair_ids",
    "recolor",
    "repeated_ids",
    "resolve_normalization",
    "rows_of_whole_objects",
    "sample_boxes",
    "sum_cross_entropy",
    "sum_pairs",
    "whole_areas",
]
