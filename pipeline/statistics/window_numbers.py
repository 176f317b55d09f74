"""Numbers that say what windows of an image look like.

An image is described by windows of its pixels, spread over it, as the model sees them but for normalisation. Only cells with content
count, so that even ground, glass and padding change nothing. Each window gives some numbers on each of five properties::

    brightness   quartiles between black and white of the window, skewness: bright things on dark ground, or dark on bright;
                 for a model that does not normalise by image also black, middle and white themselves
    polarity     whether detail of 1, 2, 4 and 8 pixels is bright on dark or dark on bright: skewness of its contrast, and how much of it
                 lies in bright places; both change their sign in a negative
    colour       red against green, blue against yellow, saturation, and how both axes follow brightness; a grey image has none
    sharpness    contrast of detail of 1, 2 and 4 pixels
    scale        contrast of detail of 4, 8, 16 and 32 pixels
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box

__all__ = ["LEVEL_UNITS", "PROPERTIES", "UNITS", "Description", "Window", "describe_windows", "sample_boxes"]

WINDOW = 256  # side, pixels
CELL = 16  # side of what counts or does not, pixels; a power of 2
READ = 64  # windows of an image that are read, at most
USED = 16  # windows of an image that are described, at most: those with most content
LEAST_CELLS = 12  # with content that a window has; smaller pictures say too little
LIVELY = 0.25  # contrast of a cell with content, as a share of the usual one of such cells
EVEN = 1e-6  # contrast of a cell of one value, as a share of the value: rounding
LEAST_INSIDE = 0.25  # share of the cells that touch none of one value, where those that do are edges of padding
LEVELS = 6  # of detail: each one is twice as coarse
POLAR = 4  # of them have numbers of polarity
NOISE = 1e-4  # squared contrast of detail that rounding to 8 bits may leave
THIN = 2  # each such row and column gives pixels to quantiles

UNITS: Mapping[str, tuple[float, ...]] = {
    "brightness": (0.12, 0.12, 0.12, 0.35),
    "polarity": (0.35, 0.35, 0.35, 0.35, 0.2, 0.2, 0.2, 0.2),
    "colour": (0.06, 0.06, 0.25, 0.25, 0.03, 0.03),
    "sharpness": (1.0, 1.0, 1.0),
    "scale": (0.7, 0.7, 0.7, 0.7),
}
"""How much of each number makes a visible difference, by property."""

LEVEL_UNITS = (0.12, 0.12, 0.12)  # of black, middle and white as shares of the samples' range, which follow the other numbers of brightness

PROPERTIES = tuple(UNITS)
"""Names of the properties, as messages have them."""

Description = Mapping[str, NDArray[np.float64]]
"""The numbers of each window of an image, (windows, numbers), by property."""


class Window(NamedTuple):
    """A part of an image."""

    pixels_CYX: NDArray[Any]
    valid_YX: NDArray[np.bool_] | None = None  # None: every pixel is valid


def sample_boxes(shape: tuple[int, int]) -> list[Box]:
    """Return the windows of an image that are read: all of a small one, at most 64 that are spread over a large one."""
    height, width = shape
    rows, cols = (_starts(length, max(1, round(length / WINDOW))) for length in shape)
    if len(rows) * len(cols) > READ:
        wanted = max(1, min(READ, round((READ * height / width) ** 0.5)))
        rows, cols = _starts(height, min(wanted, len(rows))), _starts(width, min(READ // min(wanted, len(rows)), len(cols)))
    return [Box(y, x, min(y + WINDOW, height), min(x + WINDOW, width)) for y in rows for x in cols]


def describe_windows(windows: Sequence[Window], levels: tuple[float, float] | None = None) -> Description | None:
    """Return the numbers of an image from windows of it; None where these hold too little.

    Args:
        windows: all of one number of channels; three are red, green and blue.
        levels: least and greatest value of a sample; None: black and white themselves do not count.
    """
    with np.errstate(all="ignore"):  # of values near the ends of float32, whose numbers are then left out
        return _describe([_Seen.of(window) for window in windows if min(window.pixels_CYX.shape[1:]) >= CELL], levels)


def _describe(seen: Sequence[_Seen], levels: tuple[float, float] | None) -> Description | None:
    """Return the numbers of the windows that hold most content; None: no window holds enough."""
    known = [one.filled_YX for one in seen]
    inner = [~_grown(~filled_YX) for filled_YX in known]
    # The edge of padding is a strong one, and no part of the picture. Small objects on ground of one value have no such inside.
    if sum(int(one.sum()) for one in inner) >= LEAST_INSIDE * sum(int(one.sum()) for one in known):
        known = inner
    stds: NDArray[np.float64] = np.concatenate([np.empty(0), *(one.stds_YX[known_YX] for one, known_YX in zip(seen, known, strict=True))])
    if not stds.size:
        return None
    # The contrast of cells with content, also where these are few: a mean in which each cell weighs as its variance.
    least = LIVELY * float((stds**3).sum() / max(float((stds**2).sum()), float(np.finfo(np.float64).tiny)))
    lively = [(one, known_YX, known_YX & (one.stds_YX >= least)) for one, known_YX in zip(seen, known, strict=True)]
    most = max(int(cells_YX.sum()) for _, _, cells_YX in lively)
    full = sorted((some for some in lively if some[2].sum() >= max(LEAST_CELLS, most / 2)), key=lambda some: -int(some[2].sum()))[:USED]
    numbers = [_numbers(one.colors_CYX, _as_pixels(one.filled_YX), _as_pixels(cells_YX), levels) for one, _, cells_YX in full]
    return {name: np.array([one[name] for one in numbers]) for name in UNITS} if numbers else None


class _Seen(NamedTuple):
    """A window in whole cells: its colours or one grey channel, the contrast of each cell, and which cells hold data that differ."""

    colors_CYX: NDArray[np.float32]
    stds_YX: NDArray[np.float32]
    filled_YX: NDArray[np.bool_]

    @classmethod
    def of(cls, window: Window) -> _Seen:
        """Cut a window into cells."""
        height, width = (length // CELL * CELL for length in window.pixels_CYX.shape[1:])
        colors_CYX = window.pixels_CYX[:, :height, :width].astype(np.float32)
        valid_YX: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(colors_CYX), axis=0)
        if window.valid_YX is not None:
            valid_YX &= window.valid_YX[:height, :width]
        colors_CYX = np.where(valid_YX, colors_CYX, np.float32(0))
        light_YX: NDArray[np.float32] = np.add.reduce(colors_CYX, axis=0) / np.float32(len(colors_CYX))
        means_YX = _block_means(light_YX, CELL)
        away_YX: NDArray[np.float32] = light_YX - _as_pixels(means_YX)
        squares_YX: NDArray[np.float32] = away_YX * away_YX
        stds_YX = np.sqrt(_block_means(squares_YX, CELL))
        filled_YX = (stds_YX > np.abs(means_YX) * EVEN) & (_block_means(valid_YX.astype(np.float32), CELL) == 1)
        return cls(colors_CYX if len(colors_CYX) == len("RGB") else light_YX[None], stds_YX, filled_YX)


def _numbers(
    colors_CYX: NDArray[np.float32], is_known_YX: NDArray[np.bool_], counts_YX: NDArray[np.bool_], levels: tuple[float, float] | None
) -> dict[str, list[float]]:
    """Return the numbers of one window, from the pixels that count; what is not known is filled, so that its edge is no detail."""
    light_YX = np.add.reduce(colors_CYX, axis=0) / np.float32(len(colors_CYX))
    few_YX = counts_YX[::THIN, ::THIN]
    light_N = light_YX[::THIN, ::THIN][few_YX]
    black, *quartiles, white = np.percentile(light_N, [1, 25, 50, 75, 99])
    contrast = max(float(white - black), float(np.finfo(np.float32).tiny))
    away_N = light_N - light_N.mean()
    spread = max(float(away_N.std()), float(np.finfo(np.float32).tiny))
    brightness = [*((value - black) / contrast for value in quartiles), _skewness(light_N)]
    if levels is not None:
        brightness += [(value - levels[0]) / (levels[1] - levels[0]) for value in (black, quartiles[1], white)]
    filled_YX: NDArray[np.float32] = light_YX / np.float32(contrast)
    filled_YX[~is_known_YX] = quartiles[1] / contrast
    details, polarity = _details(filled_YX, counts_YX)
    colour = _colour(colors_CYX[:, ::THIN, ::THIN][:, few_YX], away_N / spread)
    return {"brightness": brightness, "polarity": polarity, "colour": colour, "sharpness": details[:3], "scale": details[2:]}


def _colour(colors_CN: NDArray[np.float32], light_N: NDArray[np.float32]) -> list[float]:
    """Return the numbers of colour, which do not change with the strength of light.

    ``light_N`` is the brightness of the pixels, of mean 0 and deviation 1.
    """
    if len(colors_CN) == 1:
        return [0.0, 0.0, -2.0, -2.0, 0.0, 0.0]
    red_N, green_N, blue_N = colors_CN
    sum_N = np.abs(colors_CN).sum(axis=0)
    sum_N = sum_N + max(0.1 * float(np.percentile(sum_N, 99)), float(np.finfo(np.float32).tiny))  # dark pixels have no colour
    green_red_N, yellow_blue_N = 3 * (red_N - green_N) / sum_N, 1.5 * (2 * blue_N - red_N - green_N) / sum_N
    saturation_N = 3 * (colors_CN.max(axis=0) - colors_CN.min(axis=0)) / sum_N
    middle, strong = np.log10(np.percentile(saturation_N, [50, 90]) + 0.01)
    follow = [float(np.mean(light_N * axis_N)) for axis_N in (green_red_N, yellow_blue_N)]
    return [float(np.median(green_red_N)), float(np.median(yellow_blue_N)), float(middle), float(strong), *follow]


def _details(light_YX: NDArray[np.float32], counts_YX: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """Return the logarithm of the squared contrast of detail of 1, 2, 4 ... pixels, and the numbers of polarity.

    Detail is the response to a Laplacian, above 0 where a pixel is brighter than its surroundings. NaN where the window is too small.
    """
    contrasts, skewnesses, follow = list[float](), list[float](), list[float]()
    for _ in range(LEVELS):
        if min(light_YX.shape) < 3 or not counts_YX.any():
            contrasts, skewnesses, follow = [*contrasts, np.nan], [*skewnesses, np.nan], [*follow, np.nan]
            continue
        around_YX = np.pad(light_YX, 1, mode="edge")
        laplacian_YX = 4 * light_YX - around_YX[:-2, 1:-1] - around_YX[2:, 1:-1] - around_YX[1:-1, :-2] - around_YX[1:-1, 2:]
        detail_N = laplacian_YX[counts_YX]
        contrasts.append(float(np.log(np.mean(detail_N**2) + NOISE)))
        skewnesses.append(_skewness(detail_N))
        follow.append(_correlation(np.abs(detail_N), light_YX[counts_YX]))
        light_YX, counts_YX = _block_means(light_YX, 2), _block_means(counts_YX.astype(np.float32), 2) >= 0.5
    return contrasts, skewnesses[:POLAR] + follow[:POLAR]


def _skewness(values_N: NDArray[np.float32]) -> float:
    """Return the inverse hyperbolic sine of the skewness: of rare bright spots the skewness itself has no bound."""
    away_N = values_N - values_N.mean()
    spread = max(float(away_N.std()), float(np.finfo(np.float32).tiny))
    return float(np.arcsinh(np.mean((away_N / spread) ** 3)))


def _correlation(one_N: NDArray[np.float32], other_N: NDArray[np.float32]) -> float:
    """Return Pearson's correlation; 0 where one of them does not vary."""
    one_N, other_N = one_N - one_N.mean(), other_N - other_N.mean()
    return float(np.mean(one_N * other_N)) / max(float(one_N.std() * other_N.std()), float(np.finfo(np.float32).tiny))


def _block_means(values_YX: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return the mean of each square of ``side`` pixels; what is left over at the end is dropped."""
    height, width = (length // side for length in values_YX.shape)
    rows_YX = np.add.reduce(values_YX[: height * side, : width * side].reshape(height, side, width * side), axis=1)
    means_YX: NDArray[np.float32] = np.add.reduce(rows_YX.reshape(height, width, side), axis=2) / np.float32(side * side)
    return means_YX


def _as_pixels(cells_YX: NDArray[Any]) -> NDArray[Any]:
    """Return the value of its cell for each pixel."""
    return cells_YX.repeat(CELL, axis=0).repeat(CELL, axis=1)


def _grown(flags_YX: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return flags that are set also beside those that are set, and diagonally."""
    around_YX = np.pad(flags_YX, 1)
    height, width = flags_YX.shape
    grown_YX = np.zeros_like(flags_YX)
    for y in range(3):
        for x in range(3):
            grown_YX |= around_YX[y : y + height, x : x + width]
    return grown_YX


def _starts(length: int, number: int) -> list[int]:
    """Return where ``number`` windows begin that are spread evenly over an axis."""
    last = max(0, length - WINDOW)
    return [last // 2] if number == 1 else np.linspace(0, last, number).round().astype(int).tolist()
