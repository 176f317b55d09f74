"""What became of each class between two masks, in pixels and areas on the ground: from the truth, the earlier one, to the prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import printable
from pipeline.statistics import Counts, counted_change
from pipeline.web import in_area, in_percent

__all__ = ["change_areas", "change_lines", "change_rows", "change_table", "largest_changes"]

SQUARE_METRES = {"meter": 1.0, "micrometer": 1e-12}  # in the square of a unit
TOLD = 5  # changes that are printed

Pair = tuple[int, int]
"""Ids of a true and a predicted class."""


def change_areas(
    counts: Counts, pixel_area: tuple[float, str] | None, numbers: dict[str, int], *, by_row: bool
) -> dict[Pair, tuple[int, float | None]]:
    """Return pixels and square metres of each pair of classes in one image that has pixels; the area is None where it is not known.

    Args:
        counts: of the image.
        pixel_area: of a pixel, squared in the unit that follows; None: unknown.
        numbers: pixels and areas by pair, as :func:`pipeline.statistics.count_change` counts them.
        by_row: whether the rows of the image are not equally large, so that only counted areas hold.
    """
    found: dict[Pair, tuple[int, float | None]] = {}
    if counts.confusion is None:
        return found
    size = None if pixel_area is None else pixel_area[0] * SQUARE_METRES[pixel_area[1]]
    for start, end in zip(*counts.confusion.nonzero(), strict=True):
        pixels = int(counts.confusion[start, end])
        area = None if size is None else pixels * size
        if by_row:
            seen, counted = counted_change(numbers, int(start), int(end))
            area = counted if seen == pixels else None
        found[int(start), int(end)] = pixels, area
    return found


def change_rows(images: Iterable[Mapping[Pair, tuple[int, float | None]]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return ``{"from", "to", "pixels", "area"}`` of each pair of classes that has pixels, added over images, by class ids.

    An area that is not known of some image is None.

    Example:
        >>> change_rows([{(0, 1): (3, 12.0)}, {(0, 1): (1, 4.0), (1, 1): (2, None)}], ["field", "wood"])[0]
        {'from': 'field', 'to': 'wood', 'pixels': 4, 'area': 16.0}
    """
    pixels: dict[Pair, int] = {}
    areas: dict[Pair, float | None] = {}
    for image in images:
        for pair, (number, area) in image.items():
            before = areas.get(pair, 0.0)
            pixels[pair] = pixels.get(pair, 0) + number
            areas[pair] = None if area is None or before is None else before + area
    return [{"from": names[pair[0]], "to": names[pair[1]], "pixels": pixels[pair], "area": areas[pair]} for pair in sorted(pixels)]


def largest_changes(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of another class before and after, the largest first, each with its share of all that was compared."""
    rows = report.get("change") or []
    total = sum(row["pixels"] for row in rows)
    changed = [row for row in rows if row["from"] != row["to"]]
    return [{**row, "share": row["pixels"] / total} for row in sorted(changed, key=lambda row: -(row["area"] or row["pixels"]))]


def change_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the largest changes, a line each, for a terminal; empty where none are counted."""
    if report.get("change") is None:
        return []
    changes = largest_changes(report)
    if not changes:
        return ["change: none"]
    share = sum(row["share"] for row in changes)
    lines = [f"change, from truth to prediction: {in_percent(share)} of the pixels"]
    for row in changes[:TOLD]:
        area = "" if row["area"] is None else f"{in_area(row['area'], 'meter')}, "
        lines.append(f"  {printable(row['from'])} to {printable(row['to'])}: {area}{row['pixels']:,} px, {in_percent(row['share'])}")
    more = len(changes) - TOLD
    return [*lines, f"  {more} more: see report/change.csv"] if more > 0 else lines


def change_table(report: Mapping[str, Any]) -> Iterable[list[Any]]:
    """Yield the rows of change.csv: pixels and square metres from each class to each other, what stayed included."""
    yield ["from", "to", "pixels", "area", "unit"]
    for row in report["change"]:
        yield [row["from"], row["to"], row["pixels"], row["area"], None if row["area"] is None else "m2"]
