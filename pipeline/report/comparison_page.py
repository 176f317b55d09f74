"""comparison.html: one page without further files that shows how two runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import counted
from pipeline.report.object_differences import OBJECT_SCORES
from pipeline.report.setting_differences import setting_text
from pipeline.web import Chart, Column, DataTable, Series, data_table, histogram_chart, interval_chart, render_page

__all__ = ["comparison_page", "describe_changes", "describe_difference", "describe_images", "model_name"]

MOST_CLASSES = 40  # of the chart: more are too close to read
LEAST_IMAGES = 5  # fewer make no histogram
BINS = 20
SCORES = (Column("IoU A", "score"), Column("IoU B", "score"), Column("B − A", "change"))


def comparison_page(comparison: Mapping[str, Any]) -> str:
    """Return the page of a comparison, as :func:`pipeline.report.compare_reports` returns it."""
    tables = [
        _classes_table(comparison),
        _objects_table(comparison),
        _images_table(comparison),
        _settings_table(comparison),
        _others_table(comparison),
        _warnings_table(comparison),
    ]
    return render_page(
        Path(__file__).with_name("comparison.html.j2"),
        charts=[_classes_chart(comparison), *_images_chart(comparison)],
        tables=tables,
        title=f"Comparison of two {comparison['kind']}s",
        comparison=comparison,
        verdict=describe_difference(comparison),
        sameness=describe_images(comparison),
        changes=describe_changes(comparison),
        models={key: model_name(comparison[key]) for key in ("a", "b")},
    )


def describe_difference(comparison: Mapping[str, Any]) -> str:
    """Return the difference of the mean IoU as a sentence; without an interval it does not say which run is better."""
    mean = comparison["mean"]
    if mean["difference"] is None:
        return "The compared images hold no pixel to score."
    what = f"mean IoU {mean['a']:.3f} in A, {mean['b']:.3f} in B: {mean['difference']:+.3f}"
    if mean["interval"] is None:
        return f"{what[0].upper()}{what[1:]}. Too few images for an interval, so this may be chance."
    low, high = mean["interval"]
    word = "B is better" if low > 0 else "B is worse" if high < 0 else "No clear difference"
    return f"{word}: {what} (95 % interval {low:+.3f} to {high:+.3f})."


def describe_changes(comparison: Mapping[str, Any]) -> str:
    """Return on how many images B is better or worse, as a sentence."""
    better, worse, similar = (f"{comparison[verdict]:,}" for verdict in ("better", "worse", "similar"))
    limit = f"by {comparison['changed_from']} of mean IoU or more"
    return (
        f"{counted(comparison['images'], 'image')} compared: B is better on {better} and worse on {worse}, {limit}; similar on {similar}."
    )


def describe_images(comparison: Mapping[str, Any]) -> str:
    """Return whether both were judged by the same images, as a sentence."""
    images = "validation images" if comparison["kind"] == "training" else "images"
    if comparison["same_images"]:
        return f"Both were judged by the same {comparison['images']:,} {images}."
    if comparison["warnings"] and comparison["images"] == comparison["a"]["images"] == comparison["b"]["images"]:
        return f"Both were judged by the same {comparison['images']:,} {images}, some of them by other truth."
    totals = " and ".join(f"{comparison[key]['images']:,} of {key.upper()}" for key in ("a", "b"))
    warned = ", some of them by other truth" if comparison["warnings"] else ""
    return f"The {images} differ: of {totals}, {comparison['images']:,} are in both and compared{warned}."


def model_name(run: Mapping[str, Any]) -> str:
    """Return how a run names its model, such as ``bundle nuclei``; empty where masks that existed were scored."""
    return " ".join(run["model"][key] for key in ("name", "path") if run["model"].get(key))


def _classes_chart(comparison: Mapping[str, Any]) -> Chart:
    known = [row for row in comparison["classes"] if row["difference"] is not None]
    largest = sorted(known, key=lambda row: -abs(row["difference"]))[:MOST_CLASSES]
    shown = [row for row in known if row in largest]
    if comparison["mean"]["difference"] is not None:
        shown.append({**comparison["mean"], "name": "mean"})
    ends = [end for row in shown for end in (row["difference"], *(row["interval"] or ()), 0)]
    margin = 0.05 * (max(ends, default=0) - min(ends, default=0)) or 0.01
    left_out = f" The {MOST_CLASSES} classes that differ most." if len(known) > MOST_CLASSES else ""
    return interval_chart(
        "classes",
        "Difference of IoU, B − A",
        f"Right of 0, B is better. A line is a 95 % interval; one that crosses 0 shows no clear difference.{left_out}",
        x={"label": "IoU in B minus IoU in A", "domain": [min(ends, default=0) - margin, max(ends, default=0) + margin]},
        rows=[(Series(row["name"]), row["difference"], *(row["interval"] or (None, None))) for row in shown],
        zero=True,
    )


def _images_chart(comparison: Mapping[str, Any]) -> list[Chart]:
    """Return a histogram of the images' differences; none where there are too few."""
    changes = [row["difference"] for row in comparison["per_image"] if row["difference"] is not None]
    if len(changes) < LEAST_IMAGES:
        return []
    most = max(0.01, *map(abs, changes))
    counts, edges = np.histogram(changes, BINS, (-most, most))
    bins = [(float(low), float(high), [int(count)]) for low, high, count in zip(edges, edges[1:], counts, strict=False)]
    return [
        histogram_chart(
            "images",
            "Difference of each image",
            "How many images changed by how much: right of 0, B is better.",
            x={"label": "mean IoU in B minus mean IoU in A", "scale": "linear", "domain": [-most, most]},
            y="images",
            series=[Series("images")],
            bins=bins,
        )
    ]


def _classes_table(comparison: Mapping[str, Any]) -> DataTable:
    columns = [Column("class"), *SCORES, Column("95 % interval from", "change"), Column("to", "change")]
    rows = [*comparison["classes"], {**comparison["mean"], "name": "mean"}]
    cells = [[row["name"], row["a"], row["b"], row["difference"], *(row["interval"] or (None, None))] for row in rows]
    return data_table("classes", "IoU of each class, over the pixels of all compared images", columns, cells, len(rows))


def _objects_table(comparison: Mapping[str, Any]) -> DataTable:
    scores = (Column("A", "score"), Column("B", "score"), Column("B − A", "change"))
    columns = [Column("class"), Column("score"), *scores, Column("95 % interval from", "change"), Column("to", "change")]
    cells = [
        [row["class"], OBJECT_SCORES[row["metric"]], row["a"], row["b"], row["difference"], *(row["interval"] or (None, None))]
        for row in comparison["objects"]
    ]
    return data_table("objects", "Scores of objects, over all compared images", columns, cells, len(cells))


def _settings_table(comparison: Mapping[str, Any]) -> DataTable:
    rows = [[row["key"], setting_text(row["a"]), setting_text(row["b"])] for row in comparison["settings"] or ()]
    return data_table("settings", "Keys of the YAML whose values differ", [Column("key"), Column("A"), Column("B")], rows, len(rows))


def _images_table(comparison: Mapping[str, Any]) -> DataTable:
    columns = [Column("image"), Column("mean IoU A", "score"), Column("mean IoU B", "score"), SCORES[2], Column("B is")]
    rows = comparison["per_image"]
    cells = ([row["name"], row["a"], row["b"], row["difference"], row["verdict"]] for row in rows)
    return data_table("images", "Mean IoU of each image, the one that lost most first", columns, cells, len(rows))


def _others_table(comparison: Mapping[str, Any]) -> DataTable:
    rows = [(name, f"only in {key.upper()}") for key in ("a", "b") for name in comparison[f"only_in_{key}"]]
    rows += [(row["name"], row["reason"]) for row in comparison["left_out"]]
    return data_table("others", "Images that are not compared", [Column("image"), Column("why")], rows, len(rows))


def _warnings_table(comparison: Mapping[str, Any]) -> DataTable:
    rows = [(row["name"], row["reason"]) for row in comparison["warnings"]]
    return data_table("warnings", "Images that were judged by other truth", [Column("image"), Column("what differs")], rows, len(rows))
