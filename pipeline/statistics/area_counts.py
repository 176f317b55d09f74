"""Counts of pixels and of their areas on the ground, by class and by zone, as integers that add in any order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SQUARE_METRE", "AreaCounts", "AreaSums", "is_area", "whole_areas"]

SQUARE_METRE = 10**12
"""Areas are whole square micrometres: a pixel of a square centimetre is 1e8, and the earth 5.1e26, which Python's integers hold."""

MARK = "areas "  # what the names of these numbers begin with


def is_area(name: str) -> bool:
    """Whether the name of a number is one of :meth:`AreaSums.numbers`, with whatever key."""
    return name.startswith(MARK)


def whole_areas(areas_Y: NDArray[np.float64]) -> list[int]:
    """Return areas of pixels, square metres, as whole square micrometres."""
    return [round(area * SQUARE_METRE) for area in areas_Y.tolist()]


@dataclass
class AreaCounts:
    """Pixels of each class, and their area.

    Attributes:
        pixels: of each class, and behind them those without a prediction.
        areas: the same, square micrometres; None: pixels are equally large, or their size is unknown.
    """

    pixels: list[int]
    areas: list[int] | None = None

    @classmethod
    def of(
        cls, codes_N: NDArray[np.integer[Any]], rows_N: NDArray[np.integer[Any]], num_codes: int, areas_Y: Sequence[int] | None
    ) -> AreaCounts:
        """Count pixels.

        Args:
            codes_N: class of each pixel, or ``num_codes - 1`` for no prediction.
            rows_N: row of each pixel in ``areas_Y``; any where that is None.
            num_codes: classes and one more.
            areas_Y: area of a pixel of each row, square micrometres; None: only pixels are counted.

        Example:
            >>> AreaCounts.of(np.array([0, 2, 0]), np.array([0, 1, 1]), 3, [10, 7])
            AreaCounts(pixels=[2, 0, 1], areas=[17, 0, 7])
        """
        if areas_Y is None:
            return cls(np.bincount(codes_N, minlength=num_codes).tolist())
        height = len(areas_Y)
        counts_KY = np.bincount(codes_N * np.intp(height) + rows_N, minlength=num_codes * height).reshape(num_codes, height)
        areas = [sum(int(number) * areas_Y[row] for row, number in zip(*_filled(counts_Y), strict=True)) for counts_Y in counts_KY]
        return cls(counts_KY.sum(axis=1).tolist(), areas)

    def __add__(self, other: AreaCounts) -> AreaCounts:
        """Add class by class; without the areas of both, the sum has none."""
        pixels = [one + another for one, another in zip(self.pixels, other.pixels, strict=True)]
        if self.areas is None or other.areas is None:
            return AreaCounts(pixels)
        return AreaCounts(pixels, [one + another for one, another in zip(self.areas, other.areas, strict=True)])


def _filled(counts_Y: NDArray[np.intp]) -> tuple[list[int], list[int]]:
    rows = np.flatnonzero(counts_Y)
    return rows.tolist(), counts_Y[rows].tolist()


@dataclass
class AreaSums:
    """What is counted of the areas of a block, or of an image.

    Attributes:
        predicted: all pixels; None: not counted, as pixels are equally large.
        truth: the pixels of each true class that have a prediction; None: not counted.
        zones: by name.
        outside: pixels of no zone; None: there are no zones.
    """

    predicted: AreaCounts | None = None
    truth: AreaCounts | None = None
    zones: dict[str, AreaCounts] = field(default_factory=dict)
    outside: AreaCounts | None = None

    def numbers(self, key: str) -> dict[str, int]:
        """Return the counts that are not 0, for a receipt, by names that begin with a key.

        Example:
            >>> AreaSums(zones={"a:b": AreaCounts([3, 0])}).numbers("k")
            {'areas k zone:px:0:a:b': 3}
        """
        named = [("predicted", "", self.predicted), ("truth", "", self.truth), ("outside", "", self.outside)]
        named += [("zone", name, counts) for name, counts in self.zones.items()]
        numbers: dict[str, int] = {}
        for word, name, counts in named:
            for what, values in () if counts is None else (("px", counts.pixels), ("um2", counts.areas or ())):
                numbers |= {f"{MARK}{key} {word}:{what}:{code}:{name}": value for code, value in enumerate(values) if value}
        return numbers

    @classmethod
    def from_numbers(cls, numbers: Iterable[tuple[str, int]], key: str, num_codes: int, *, has_areas: bool) -> AreaSums:
        """Return the sums of numbers that :meth:`numbers` made, of those whose names begin with the key.

        Args:
            numbers: names and values, which may be sums over blocks.
            key: names with another one are left out: they are of zones as they were.
            num_codes: classes and one more.
            has_areas: whether areas were counted; else all areas are None.

        Example:
            >>> sums = AreaSums(zones={"a:b": AreaCounts([3, 0], [30, 0])})
            >>> AreaSums.from_numbers(sums.numbers("k").items(), "k", 2, has_areas=True).zones
            {'a:b': AreaCounts(pixels=[3, 0], areas=[30, 0])}
        """
        found: dict[tuple[str, str], AreaCounts] = {}
        for full, value in numbers:
            if not full.startswith(f"{MARK}{key} "):
                continue
            rest = full.removeprefix(f"{MARK}{key} ")
            word, what, code, name = rest.split(":", 3)
            if (word, name) not in found:
                found[word, name] = AreaCounts([0] * num_codes, [0] * num_codes if has_areas else None)
            counts = found[word, name]
            values = counts.pixels if what == "px" else counts.areas
            if values is not None:
                values[int(code)] += value
        zones = {name: counts for (word, name), counts in sorted(found.items()) if word == "zone"}
        return cls(found.get(("predicted", "")), found.get(("truth", "")), zones, found.get(("outside", "")))
