"""The page of a run, ``report/index.html``: one file that loads nothing, made from report.json, thumbnails and what the run recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import checked_colors
from pipeline.report.change import largest_changes
from pipeline.report.failure_groups import describe_group
from pipeline.report.gallery import Gallery
from pipeline.report.model_card import ExamplePicture, card_values
from pipeline.report.page_charts import charts_of
from pipeline.report.page_tables import area_rows, areas_of, confusion_rows, known_columns, tables_of
from pipeline.report.page_words import (
    PHASES,
    commands_of,
    headline_of,
    main_facts,
    missing_parts,
    provenance_facts,
    recipe_facts,
    score_facts,
    time_facts,
)
from pipeline.report.pictures import FALSE, MISSED, WRONG, hex_color
from pipeline.report.warnings import warning_lines
from pipeline.web import in_area, in_percent, render_page

__all__ = ["build_page", "colors_of"]

HERE = Path(__file__).parent
MOST_WARNINGS = 8  # different ones that the summary repeats; the table of images has all
MOST_ROWS = 1000  # of a table without pages, or a list
ERROR_COLORS = {"false": hex_color(FALSE), "missed": hex_color(MISSED), "wrong": hex_color(WRONG)}


def build_page(
    report: Mapping[str, Any],
    *,
    provenance: Mapping[str, Any] | None = None,
    gallery: Gallery | None = None,
    examples: Sequence[ExamplePicture] = (),
) -> str:
    """Return the page as HTML; any field that only newer reports have may be absent.

    Args:
        report: the content of report.json.
        provenance: ``{"output", "run", "config", "colors"}``: URL or path of the run's folder, the content of run.json, the text of
            config.yaml, the colour of each class. Each may be absent.
        gallery: pictures of the images; None: there are none.
        examples: pictures of the card of the model.
    """
    known = dict(provenance or {})
    run = known.get("run") or {}
    classes = [{**one, "color": color} for one, color in zip(report["classes"], colors_of(report, provenance), strict=True)]
    areas = areas_of(report)
    return render_page(
        HERE / "index.html.j2",
        styles=[HERE / "report.css"],
        scripts=[HERE / "gallery.js"],
        charts=charts_of(report, classes),
        tables=tables_of(report),
        title=f"{headline_of(report)} - segmentation report",
        headline=headline_of(report),
        report=report,
        run=run,
        most_rows=MOST_ROWS,
        classes=classes[:MOST_ROWS],
        has_areas=any("predicted" in one for one in classes),
        facts=main_facts(report, run, (areas[2], areas[0]) if areas else None),
        scores=score_facts(report),
        truth_errors=_truth_errors(report),
        warnings=warning_lines(report, MOST_WARNINGS),
        areas=areas,
        area_rows=area_rows(report, areas[0] if areas else None),
        interval_note=_interval_note(report),
        confusion=confusion_rows(report),
        changes=_changes(report),
        object_columns=known_columns(report.get("instances") or ()),
        groups=[describe_group(one) for one in report["failure_groups"][:MOST_ROWS]],
        card=card_values(report, run, examples),
        **_run_values(report, known),
        **_gallery_values(report, gallery),
    )


def colors_of(report: Mapping[str, Any], provenance: Mapping[str, Any] | None) -> list[str]:
    """Return ``#rrggbb`` of each class: those of the run, else the usual ones."""
    count = len(report["classes"])
    given = ((provenance or {}).get("colors") or [])[:count]
    return checked_colors([*given, *[None] * (count - len(given))])


def _name_of(output: str | None) -> str:
    return (output or "").rstrip("/").rpartition("/")[2]


def _run_values(report: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page says of the run itself; ``known`` is the provenance of :func:`build_page`."""
    run, output = known.get("run") or {}, known.get("output")
    return {
        "name": _name_of(output),
        "config": known.get("config"),
        "times": time_facts(report, run),
        "phases": [(PHASES.get(key, key), row) for key, row in (report["timing"].get("phases") or {}).items()],
        "facts_of_run": provenance_facts(report, run),
        "recipe": recipe_facts(run.get("recipe") or {}),
        "commands": commands_of(output, report["state"], run),
    }


def _changes(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the largest changes with their areas and shares as text."""
    rows = largest_changes(report)
    return [{**row, "area_text": in_area(row["area"], "meter"), "share_text": in_percent(row["share"])} for row in rows]


def _interval_note(report: Mapping[str, Any]) -> str:
    """Return how the intervals were made, or why there are none."""
    how = report.get("intervals")
    if not how:
        return ""
    if not report.get("mean_iou_interval"):
        return f"No intervals: {how['note']}." if how.get("note") else ""
    draws = f"{how['resamples']:,} draws of {how['images']:,} images, seed {how['seed']}"
    made = f"{100 * how['confidence']:g} % intervals: {how['method']}, {draws}."
    return f"{made} {how['note']}." if how.get("note") else made


def _truth_errors(report: Mapping[str, Any]) -> dict[str, str]:
    """Return why the truth of an image could not be counted, by its name: failures of an image that was opened, not of a block of it."""
    opened = {image["name"] for image in report["per_image"] if image["pixels"]}
    return {failure["image"]: failure["cause"] for failure in report["failures"] if failure["block"] is None and failure["image"] in opened}


def _gallery_values(report: Mapping[str, Any], gallery: Gallery | None) -> dict[str, Any]:
    """Return what the gallery shows: pictures with what is known of their images, and which entries its legend needs."""
    pictures = gallery.pictures if gallery else ()
    causes: dict[str, str] = {}
    for failure in report["failures"]:
        causes.setdefault(failure["image"], failure["cause"])
    truth_errors = _truth_errors(report)
    images = [report["per_image"][one.index] for one in pictures]
    named = [(image, causes.get(image["name"], ""), truth_errors.get(image["name"], ""), missing_parts(image)) for image in images]
    return {
        "gallery": gallery,
        "cards": [(one, *known) for one, known in zip(pictures, named, strict=True)],
        "legend": {
            "image": any(one.image for one in pictures),
            "errors": any(one.has_errors for one in pictures),
            "wrong": any(one.has_errors for one in pictures) and len(report["classes"]) > 2,
            "unknown": any(one.has_unknown for one in pictures),
            "ignored": any(one.has_ignored for one in pictures),
        },
        "order": _order(report, images),
        "error_colors": ERROR_COLORS,
    }


def _order(report: Mapping[str, Any], images: Sequence[Mapping[str, Any]]) -> str:
    if any(one.get("mean_iou") is not None for one in images):
        return "lowest mean IoU first"
    return "lowest agreement of overlapping tiles first" if report.get("overlap_agreement") is not None else "in the order of the plan"
