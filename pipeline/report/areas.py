"""Areas of classes and zones in the report: from pixels and the size of one, or as counted row by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.inputs import OUTSIDE
from pipeline.statistics import SQUARE_METRE, AreaCounts, AreaSums, Counts

__all__ = ["area_table", "areas_of_image", "pooled_areas", "pooled_zones", "zone_table", "zones_of_image"]

Fields = dict[str, Any]
NO_PREDICTION = "no prediction"


def areas_of_image(
    counts: Counts, names: Sequence[str], pixel_area: tuple[float, str] | None, sums: AreaSums | None, *, by_row: bool
) -> Fields | None:
    """Return the areas of one image, squared in ``unit``: of all of it, of what has no prediction, and of each class.

    Args:
        counts: of the image.
        names: of the classes.
        pixel_area: mean area of a pixel, squared in the unit that follows; None: unknown.
        sums: areas counted row by row.
        by_row: whether the rows of the image are not equally large: a class whose pixels were not all counted by row has no area then.
    """
    if pixel_area is None or not counts.pixels:
        return None
    size, unit = pixel_area
    truths = [None] * len(names) if counts.confusion is None else counts.confusion.sum(axis=1).tolist()
    by_class, of_truth = (None, None) if sums is None else (sums.predicted, sums.truth)
    by_name = [("predicted", counts.predicted.tolist(), by_class), ("truth", truths, of_truth)]
    columns = {key: _class_areas(pixels, size, counted, by_row=by_row) for key, pixels, counted in by_name}
    known = columns["predicted"]
    predicted = None if None in known else sum(area for area in known if area is not None)
    whole = counts.pixels * size
    return {
        "unit": unit,
        "all": whole,
        "predicted": predicted,
        "no_prediction": None if predicted is None else max(0.0, whole - predicted) if counts.no_prediction else 0.0,
        "classes": [{"class": name, **{key: column[index] for key, column in columns.items()}} for index, name in enumerate(names)],
    }


def _class_areas(pixels: Sequence[int | None], size: float, counted: AreaCounts | None, *, by_row: bool) -> list[float | None]:
    """Return the area of each class; None: there is no truth, or not all of its pixels were counted by row."""
    if not by_row:
        return [None if number is None else number * size for number in pixels]
    areas = [0] * len(pixels) if counted is None or counted.areas is None else counted.areas
    found = [0] * len(pixels) if counted is None else counted.pixels
    return [area / SQUARE_METRE if number == seen else None for number, seen, area in zip(pixels, found, areas, strict=False)]


def pooled_areas(images: Iterable[Fields | None]) -> Fields | None:
    """Return the areas of several images, added in their order; None: one of them is unknown, or their units differ."""
    images = list(images)
    known = [one for one in images if one is not None]
    if not known or len(known) < len(images) or len({one["unit"] for one in known}) != 1:
        return None
    classes = [
        {"class": rows[0]["class"], "predicted": _sum(row["predicted"] for row in rows), "truth": _known_sum(row["truth"] for row in rows)}
        for rows in zip(*(one["classes"] for one in known), strict=True)
    ]
    return {
        "unit": known[0]["unit"],
        **{key: _sum(one[key] for one in known) for key in ("all", "predicted", "no_prediction")},
        "classes": classes,
    }


def _sum(values: Iterable[float | None]) -> float | None:
    """Add; None where one is None."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _known_sum(values: Iterable[float | None]) -> float | None:
    """Add what is not None: images without truth add nothing."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def zones_of_image(sums: AreaSums | None, names: Sequence[str], pixel_area: tuple[float, str] | None) -> list[Fields] | None:
    """Return the zones of one image, sorted by name, and what lies in none; None: it has no zones, or they are not counted yet."""
    if sums is None or (not sums.zones and sums.outside is None):
        return None
    zones = dict(sorted(sums.zones.items()))
    zones |= {OUTSIDE: sums.outside} if sums.outside is not None else {}
    return [_zone_row(name, counts, names, pixel_area) for name, counts in zones.items()]


def _zone_row(name: str, counts: AreaCounts, names: Sequence[str], pixel_area: tuple[float, str] | None) -> Fields:
    size, unit = pixel_area or (None, None)
    if counts.areas is not None:
        areas: list[float | None] = [area / SQUARE_METRE for area in counts.areas]
    else:
        areas = [None if size is None else pixels * size for pixels in counts.pixels]
    classes = [{"class": one, "pixels": pixels, "area": area} for one, pixels, area in zip(names, counts.pixels, areas, strict=False)]
    row = {"zone": name, "pixels": sum(counts.pixels), "no_prediction": counts.pixels[-1]}
    return _with_shares({**row, "area": _sum(areas), "unit": unit, "classes": classes})


def _with_shares(row: Fields) -> Fields:
    """Return a zone with the share of each class of what has a prediction: of the area, else of the pixels."""
    key = "pixels" if row["area"] is None else "area"
    total = sum(one[key] for one in row["classes"])
    return {**row, "classes": [{**one, "share": one[key] / total if total else None} for one in row["classes"]]}


def pooled_zones(images: Iterable[Sequence[Fields] | None]) -> list[Fields] | None:
    """Return the zones of several images, added by name in the order of the images; None: no image has zones."""
    by_name: dict[str, list[Fields]] = {}
    for zones in images:
        for zone in zones or ():
            by_name.setdefault(zone["zone"], []).append(zone)
    order = sorted(by_name, key=lambda name: (name == OUTSIDE, name))
    return [_pooled_zone(by_name[name]) for name in order] or None


def _pooled_zone(rows: Sequence[Fields]) -> Fields:
    is_even = len({row["unit"] for row in rows}) == 1
    area = _sum(row["area"] for row in rows) if is_even else None
    classes = [
        {
            "class": some[0]["class"],
            "pixels": sum(one["pixels"] for one in some),
            "area": _sum(one["area"] for one in some) if is_even else None,
        }
        for some in zip(*(row["classes"] for row in rows), strict=True)
    ]
    sums = {key: sum(row[key] for row in rows) for key in ("pixels", "no_prediction")}
    return _with_shares({"zone": rows[0]["zone"], **sums, "area": area, "unit": rows[0]["unit"] if is_even else None, "classes": classes})


def area_table(report: Mapping[str, Any]) -> Iterable[list[Any]]:
    """Yield the rows of areas.csv: each image and class, and what has no prediction; areas in square metres or micrometres."""
    yield ["image", "class", "pixels", "area", "unit"]
    for image in report["per_image"]:
        areas = image["areas"]
        unit = _unit_text(areas and areas["unit"])
        rows = areas["classes"] if areas else [{"predicted": None}] * len(image["classes"])
        yield from (
            [image["name"], one["name"], one.get("predicted"), row["predicted"], unit]
            for one, row in zip(image["classes"], rows, strict=True)
        )
        yield [image["name"], NO_PREDICTION, image["no_prediction"], areas and areas["no_prediction"], unit]


def zone_table(report: Mapping[str, Any]) -> Iterable[list[Any]]:
    """Yield the rows of zones.csv: each zone and class, and what has no prediction; areas in square metres or micrometres."""
    yield ["zone", "class", "pixels", "area", "unit", "share"]
    for zone in report["zones"]:
        unit = _unit_text(zone["unit"])
        yield from ([zone["zone"], one["class"], one["pixels"], one["area"], unit, one["share"]] for one in zone["classes"])
        area = None if zone["area"] is None else max(0.0, zone["area"] - sum(one["area"] for one in zone["classes"]))
        yield [zone["zone"], NO_PREDICTION, zone["no_prediction"], area if zone["no_prediction"] else area and 0.0, unit, None]


def _unit_text(unit: str | None) -> str | None:
    return {"meter": "m2", "micrometer": "um2"}.get(unit or "")
