"""The columns of an object table, from the merged parts of objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.convex_hulls import hull_areas
from pipeline.statistics.object_measures import SUMS, ObjectParts

__all__ = ["PixelSize", "object_columns"]

Column = NDArray[Any]
PixelSize = tuple[float, float] | tuple[Column, Column]
SHORT_UNITS = {"micrometer": "um", "meter": "m"}  # in names of columns; lengths in other units get no columns
_EXACT = 2.0**62  # results below it are computed in int64


def object_columns(
    parts: ObjectParts,
    *,
    planes: Mapping[str, int] | None = None,
    channel_names: Sequence[str] = (),
    pixel_size: PixelSize | None = None,
    unit: str = "",
    pixel_share: float | Column = 1.0,
) -> dict[str, Column]:
    """Return the measures of objects whose parts have been merged, by name of column, in the order of the table.

    Lengths are in pixels, positions are (y, x) of pixel centres: the first pixel of the image has its centre at (0, 0). NaN means
    undefined. Definitions are those of scikit-image's ``regionprops``; values differ from it by rounding alone:

    - ``class``: class id. ``t``, ``z``: position in the stack, only where there is one.
    - ``bbox_y0 ... bbox_x1``: rows and columns, half-open. ``first_y``, ``first_x``: first pixel in row-major order.
    - ``perimeter_px``: by Crofton's formula with four directions (``perimeter_crofton``; Legland et al. 2007), which counts where lines
      enter the object. It is nearly unbiased for smooth outlines; the perimeter of a square is 5 % less than its four sides.
    - ``equivalent_diameter_px``: diameter of the circle of the same area. ``major_axis_px``, ``minor_axis_px``, ``eccentricity``: of the
      ellipse with the same second moments, 0 for a single pixel.
    - ``orientation``: radians from the y axis to the major axis, -pi/2..pi/2; NaN where both axes are equal.
    - ``solidity``: area divided by the area of the convex hull, which holds every pixel whose centre lies in the hull of the midpoints
      of the object's pixel edges (``convex_hull_image``); 1 for a single pixel.
    - ``touches_border``: whether a pixel lies on the border of the image.
    - ``mean_probability``: 0..1; NaN where it is unknown.
    - ``intensity_mean_N``, ``_min_``, ``_max_``, ``_std_``: over the valid pixels, for each channel; NaN where there are none. N is
      the name of the channel if every channel has a different name, else its index. The standard deviation is that of the population.

    Args:
        parts: the merged parts of each object, which hold all its pixels.
        planes: length of each stack axis, in order.
        channel_names: of the channels, if known.
        pixel_size: (y, x) in ``unit``, of all objects or of each; adds the columns ``area_um2``, ``perimeter_um`` and
            ``equivalent_diameter_um``.
        unit: ``micrometer``; ``meter``, with columns ``area_m2`` ...; other units add no columns.
        pixel_share: area of a pixel divided by the product of ``pixel_size``, below 1 on sheared maps.
    """
    area = parts.sum_of("area")
    sizes = tuple((planes or {}).values())
    stack = dict(zip(planes or {}, np.unravel_index(parts.planes, sizes), strict=True)) if sizes else {}
    y0, x0, first = parts.lows
    y1, x1, on_border = parts.highs
    known = parts.sum_of("probability_pixels")
    columns: dict[str, Column] = {
        "id": parts.ids,
        "class": parts.classes,
        **{name: index.astype(np.int32) for name, index in stack.items()},
        **{name: side.astype(np.int32) for name, side in (("bbox_y0", y0), ("bbox_x0", x0), ("bbox_y1", y1), ("bbox_x1", x1))},
        "centroid_y": parts.sum_of("y") / area,
        "centroid_x": parts.sum_of("x") / area,
        "area_px": area,
        "perimeter_px": _perimeter(parts, (1.0, 1.0)),
        "equivalent_diameter_px": _diameter(area),
        **_ellipse(parts),
        "solidity": area / hull_areas(parts.left, parts.right),
        "touches_border": on_border > 0,
        "mean_probability": _ratio(parts.sum_of("probability"), 255 * known),
        **_intensities(parts, channel_names),
        "first_y": (first >> 32).astype(np.int32),
        "first_x": (first & 0xFFFFFFFF).astype(np.int32),
    }
    return columns | _in_units(parts, pixel_size, unit, pixel_share)


def _in_units(parts: ObjectParts, pixel_size: PixelSize | None, unit: str, pixel_share: float | Column) -> dict[str, Column]:
    """Return the columns in physical units; none where the size of a pixel is unknown."""
    short = SHORT_UNITS.get(unit)
    if pixel_size is None or short is None:
        return {}
    area = parts.sum_of("area") * (pixel_size[0] * pixel_size[1] * pixel_share)
    return {
        f"area_{short}2": area,
        f"perimeter_{short}": _perimeter(parts, pixel_size),
        f"equivalent_diameter_{short}": _diameter(area),
    }


def _ratio(numerator: Column, denominator: Column) -> Column:
    """Divide; NaN where the denominator is 0."""
    ratio: Column = np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
    return ratio


def _diameter(area: Column) -> Column:
    diameter: Column = np.sqrt(area * (4 / math.pi))
    return diameter


def _perimeter(parts: ObjectParts, pixel_size: PixelSize) -> Column:
    """Return the perimeter by Crofton's formula: pi times the mean projected length, over four directions.

    A direction is weighted by the range of angles nearest to it; these ranges differ if pixels are not squares.
    """
    dy, dx = pixel_size
    angle = np.arctan2(dy, dx)
    along_y, along_x = (math.pi / 2 - angle) * dx, angle * dy
    diagonal = math.pi / 4 * dy * dx / np.hypot(dy, dx)
    weights = {"row_runs": along_x, "column_runs": along_y, "diagonal_runs": diagonal}
    perimeter: Column = np.sum([weight * parts.sum_of(name) for name, weight in weights.items()], axis=0)
    return perimeter


def _ellipse(parts: ObjectParts) -> dict[str, Column]:
    """Return the axes of the ellipse with the same second moments."""
    area, y, x = parts.sum_of("area"), parts.sum_of("y"), parts.sum_of("x")
    height, width = parts.highs[0] - parts.lows[0], parts.highs[1] - parts.lows[1]
    bound = area * np.maximum(height, width).astype(np.float64) ** 2
    yy, yx, xx = (_central(*one, area, bound) / area for one in zip(parts.wide_sums, (y, y, x), (y, x, x), strict=False))
    mean, half = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
    major, minor = mean + half, np.maximum(mean - half, 0)
    return {
        "major_axis_px": 4 * np.sqrt(major),
        "minor_axis_px": 4 * np.sqrt(minor),
        "orientation": np.where(half > 0, 0.5 * np.arctan2(2 * yx, yy - xx), np.nan),
        "eccentricity": np.sqrt(1 - np.divide(minor, major, out=np.ones_like(major), where=major > 0)),
    }


def _central(products_2N: Column, a: Column, b: Column, count: Column, bound: Column) -> Column:
    """Return the sum of (a - mean of a) * (b - mean of b), float64, from the sum of a * b in two words, and the sums of a and b.

    First a and b are shifted by the integers below their means. Intermediate numbers may wrap around 2**64; the result is right if
    it fits 64 bits itself. It does not exceed ``bound``: where that is too large, Python's integers of any length are used instead.
    """
    high, low = products_2N
    n = np.maximum(count, 1)
    (mean_a, rest_a), (mean_b, rest_b) = np.divmod(a, n), np.divmod(b, n)
    about = (high << 32) + low - mean_a * b - mean_b * a + mean_a * mean_b * count
    central: Column = about - rest_a.astype(np.float64) * rest_b / n
    for i in np.flatnonzero(bound >= _EXACT):
        central[i] = (int(n[i]) * ((int(high[i]) << 32) + int(low[i])) - int(a[i]) * int(b[i])) / int(n[i])
    return central


def _intensities(parts: ObjectParts, channel_names: Sequence[str]) -> dict[str, Column]:
    num_channels, valid = len(parts.minima), parts.sum_of("valid")
    has_names = len(channel_names) == num_channels == len({*channel_names} - {""})
    columns: dict[str, Column] = {}
    for channel in range(num_channels):
        name = channel_names[channel] if has_names else str(channel)
        least, greatest = parts.minima[channel], parts.maxima[channel]
        if len(parts.real_sums):
            total, spread = parts.real_sums[channel], parts.spreads[channel]
        else:
            total = parts.sums[len(SUMS) + channel]
            bound = valid * (np.where(valid > 0, greatest - least, 0)) ** 2
            spread = _central(parts.wide_sums[3 + channel], total, total, valid, bound)
        columns |= {
            f"intensity_mean_{name}": _ratio(total, valid),
            f"intensity_min_{name}": np.where(valid > 0, least, np.nan),
            f"intensity_max_{name}": np.where(valid > 0, greatest, np.nan),
            f"intensity_std_{name}": np.sqrt(_ratio(np.maximum(spread, 0), valid)),
        }
    return columns
