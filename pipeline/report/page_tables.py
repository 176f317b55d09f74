"""The tables of a report's page: classes, confusion, areas, and the long ones that a script shows page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.report.gallery import rank_images
from pipeline.report.page_words import missing_parts
from pipeline.web import Column, DataTable, data_table, in_area, in_percent

__all__ = ["MOST_CLASSES", "OBJECT_COLUMNS", "area_rows", "areas_of", "confusion_rows", "known_columns", "tables_of"]

MOST_CLASSES = 64  # of the matrix: a larger one cannot be read; report.json holds it
MOST_IOU_COLUMNS = 6  # of the table of images
OBJECT_COLUMNS = {
    "truth": ("truth", "count"),
    "predicted": ("predicted", "count"),
    "AP at IoU 0.5": ("ap50", "score"),
    "AP at 0.75": ("ap75", "score"),
    "mean AP, 0.5 to 0.95": ("mean_ap", "score"),
    "F1 at 0.5": ("f1_50", "score"),
    "PQ": ("pq", "score"),
    "SQ": ("sq", "score"),
    "RQ": ("rq", "score"),
    "AJI": ("aji", "score"),
    "object Dice": ("object_dice", "score"),
    "splits": ("splits", "count"),
    "merges": ("merges", "count"),
    "per mm²": ("per_mm2", "score"),
    "per hectare": ("per_hectare", "score"),
}


def known_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return title and key of the columns of objects that have a value in any row."""
    rows = list(rows)
    return {title: key for title, (key, _) in OBJECT_COLUMNS.items() if any(row.get(key) is not None for row in rows)}


def areas_of(report: Mapping[str, Any]) -> tuple[str, list[dict[str, float | None]], float] | None:
    """Return the unit, predicted and true area of each class, and the area of all images, in the square of the unit.

    None: the pixel size of some image is unknown, or they have different units. A class without truth has None.
    """
    areas = report.get("areas")
    if not areas:
        return None
    return areas["unit"], [{key: one[key] for key in ("truth", "predicted")} for one in areas["classes"]], areas["all"]


def area_rows(report: Mapping[str, Any], unit: str | None) -> list[tuple[str, str, str, str]]:
    """Return how much has a prediction, was skipped or failed: what, pixels, share, area."""
    per_image = [(_parts(one), one["pixel_area"][0]) for one in report["per_image"] if one["pixels"]] if unit else []
    rows = []
    for word, pixels in _parts(report).items():
        area = sum(parts.get(word, 0) * size for parts, size in per_image)
        share = in_percent(pixels / report["pixels"]) if report["pixels"] else in_percent(None)
        rows.append((word, f"{pixels:,}", share, in_area(area, unit) if unit and pixels else ""))
    return rows


def _parts(counts: Mapping[str, Any]) -> dict[str, int]:
    """Return into how many pixels of each kind an image, or all of them, fall."""
    skipped, no_data, failed = missing_parts(counts)
    return {
        "predicted": counts["pixels"] - skipped - no_data - failed,
        "skipped on purpose": skipped,
        **({"without data": no_data} if no_data else {}),
        "failed or not done": failed,
        "all": counts["pixels"],
    }


def confusion_rows(report: Mapping[str, Any]) -> list[list[tuple[int, float | None, str]]] | None:
    """Return count, share of the row and text of each cell; None: there is no truth, or there are too many classes to read it."""
    if report.get("confusion") is None or len(report["classes"]) > MOST_CLASSES:
        return None
    rows = []
    for counts in report["confusion"]:
        total = sum(counts)
        shares = [count / total if total else None for count in counts]
        rows.append([(count, share, in_percent(share)) for count, share in zip(counts, shares, strict=True)])
    return rows


def tables_of(report: Mapping[str, Any]) -> list[DataTable]:
    """Return the long tables: images, worst first; objects of each image; zones; failures; files that are left out."""
    made = (_images(report), _objects(report), _zones(report), _failures(report), _left_out(report))
    return [table for table in made if table.total]


def _images(report: Mapping[str, Any]) -> DataTable:
    images, names = report["per_image"], [one["name"] for one in report["classes"]]
    shown = names if len(names) <= MOST_IOU_COLUMNS else []
    failed: dict[str, int] = {}
    for failure in report["failures"]:
        failed[failure["image"]] = failed.get(failure["image"], 0) + 1
    has_warnings = any(image.get("warnings") for image in images)
    area_column, in_unit = _area_column(images) or (Column("area"), round)
    columns = [
        Column("rank", "count"),
        Column("image"),
        Column("mean IoU", "score"),
        *(Column(f"IoU {name}", "score") for name in shown),
        Column("pixels right", "percent"),
        Column("tiles agree", "percent"),
        Column("size, px", "count"),
        area_column,
        Column("no prediction", "percent"),
        Column("failures", "count"),
        *([Column("warnings")] if has_warnings else []),
    ]

    def row(place: int, image: Mapping[str, Any]) -> list[Any]:
        pixels, area = image["pixels"], image.get("pixel_area")
        ious = [one.get("iou") for one in image["classes"][: len(shown)]]
        scores = [image.get("mean_iou"), *ious, image.get("pixel_accuracy"), image.get("overlap_agreement")]
        missing = image["no_prediction"] / pixels if pixels else None
        size = in_unit(pixels * area[0]) if area and area_column.kind != "text" else None
        told = ["; ".join(image.get("warnings", ()))] if has_warnings else []
        return [place, image["name"], *scores, pixels, size, missing, failed.get(image["name"]), *told]

    rows = (row(place, images[index]) for place, index in enumerate(rank_images(report), 1))
    return data_table("images", "Images, worst first", columns, rows, len(images))


def _area_column(images: Sequence[Mapping[str, Any]]) -> tuple[Column, Callable[[float], float]] | None:
    """Return the column of areas, in the unit that fits the largest, and what turns an area into its value.

    None: no area is known, or they have different units.
    """
    known = [(one["pixels"] * one["pixel_area"][0], one["pixel_area"][1]) for one in images if one.get("pixel_area")]
    if len({unit for _, unit in known}) != 1:
        return None
    return _column_of(max(area for area, _ in known), known[0][1])


def _column_of(largest: float, unit: str) -> tuple[Column, Callable[[float], float]]:
    """Return a column of areas in the unit that fits the largest, and what turns an area into its value."""
    small, large, size = {"micrometer": ("µm²", "mm²", 1e6), "meter": ("m²", "ha", 1e4)}[unit]
    if largest < size:
        return Column(f"area, {small}", "count"), round
    return Column(f"area, {large}", "score"), lambda area: area / size


def _objects(report: Mapping[str, Any]) -> DataTable:
    images = report["per_image"]
    columns: list[Column] = [Column("image"), Column("class"), *(Column(title, kind) for title, (_, kind) in OBJECT_COLUMNS.items())]
    rows = (
        [images[index]["name"], one["class"], *(one.get(key) for key, _ in OBJECT_COLUMNS.values())]
        for index in rank_images(report)
        for one in images[index].get("instances", ())
    )
    total = sum(len(image.get("instances", ())) for image in images)
    return data_table("objects", "Objects of each image, worst image first", columns, rows, total, most_bytes=2_000_000)


def _zones(report: Mapping[str, Any]) -> DataTable:
    """Return the table of zones: a row for each zone and class."""
    zones = report.get("zones") or ()
    units = {zone["unit"] for zone in zones}
    unit = next(iter(units)) if len(units) == 1 else None
    column, in_unit = _column_of(max(zone["area"] or 0.0 for zone in zones), unit) if unit else (Column("area"), None)
    columns = [Column("zone"), Column("class"), Column("pixels", "count"), column, Column("share of the zone", "percent")]
    rows = (
        [zone["zone"], one["class"], one["pixels"], in_unit(one["area"]) if in_unit and one["area"] is not None else None, one["share"]]
        for zone in zones
        for one in zone["classes"]
    )
    total = sum(len(zone["classes"]) for zone in zones)
    return data_table("zones", "Classes of each zone, over all images; outside: in no zone", columns, rows, total, most_bytes=2_000_000)


def _failures(report: Mapping[str, Any]) -> DataTable:
    columns = [Column("image"), Column("block"), Column("phase"), Column("cause"), Column("attempts", "count")]
    rows = ([one["image"], one["block"], one["phase"], one["cause"], one["attempts"]] for one in report["failures"])
    return data_table("failures", "Each failure", columns, rows, len(report["failures"]), most_bytes=1_000_000)


def _left_out(report: Mapping[str, Any]) -> DataTable:
    rows = ([one["path"], one["reason"]] for one in report.get("left_out", ()))
    return data_table(
        "left-out",
        "Files that are no images of this run",
        [Column("file"), Column("why")],
        rows,
        len(report.get("left_out", ())),
        most_bytes=500_000,
    )
