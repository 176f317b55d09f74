"""Charts: what a browser draws and what the table below says are the same numbers."""

from __future__ import annotations

from pipeline.web import Series, histogram_chart, interval_chart, line_chart, stacked_chart


def test_a_histogram_lists_the_bins_that_hold_something() -> None:
    """The drawing has every bin, the table those that are not empty."""
    bins = [(0.0, 0.5, [0, 0]), (0.5, 1.0, [3, 1200])]
    x = {"label": "IoU", "scale": "linear"}
    made = histogram_chart(
        "iou", "IoU", "All are good.", x=x, y="images", series=[Series("truth"), Series("predicted", "#ff0000")], bins=bins
    )
    assert [one["counts"] for one in made.spec["bins"]] == [[0, 0], [3, 1200]]
    assert made.spec["series"] == [{"name": "truth", "color": None}, {"name": "predicted", "color": "#ff0000"}]
    assert (made.head, made.rows) == (["from", "to below", "truth", "predicted"], [["0.500", "1.000", "3", "1,200"]])


def test_a_bar_keeps_its_parts() -> None:
    """Each row of the table has the values of one bar."""
    made = stacked_chart("time", "Time", "", x="seconds", series=[Series("read"), Series("write")], rows=[("host/1", [1.25, 0])])
    assert made.spec["rows"] == [{"name": "host/1", "values": [1.25, 0]}]
    assert made.rows == [["host/1", "1.2", "0.0"]]


def test_a_line_keeps_its_points() -> None:
    """Options reach the drawing; the table has a row a point."""
    axes = {"x": {"label": "step"}, "y": {"label": "loss"}}
    made = line_chart("loss", "Loss", "", lines=[(Series("a"), [(1, 0.5), (2, 0.25, 0.2, 0.3)])], diagonal=True, **axes)
    assert made.spec["lines"] == [[[1, 0.5], [2, 0.25, 0.2, 0.3]]]
    assert made.spec["diagonal"] is True
    assert made.rows == [["a", "1", "0.5"], ["a", "2", "0.25"]]


def test_a_mean_is_dashed_among_its_parts() -> None:
    """Only a series that says so is dashed."""
    axes = {"x": {"label": "step", "scale": "whole", "domain": [0, 2]}, "y": {"label": "IoU"}}
    made = line_chart(
        "iou", "IoU", "", lines=[(Series("a"), [(1, 0.5)]), (Series("mean", "var(--ink)", is_dashed=True), [(1, 0.5)])], **axes
    )
    assert made.spec["series"] == [{"name": "a", "color": None}, {"name": "mean", "color": "var(--ink)", "dashed": True}]


def test_an_interval_may_be_missing() -> None:
    """A value without an interval is a dot, and a dash in the table."""
    made = interval_chart(
        "d", "Difference", "", x={"label": "B - A"}, rows=[(Series("a"), 0.5, 0.4, 0.6), (Series("b"), 0.1, None, None)], zero=True
    )
    assert [one["low"] for one in made.spec["rows"]] == [0.4, None]
    assert made.rows == [["a", "0.5", "0.4", "0.6"], ["b", "0.1", "–", "–"]]
