"""Charts of a page: what ``charts.js`` draws, and the same numbers as a table for whoever does not see the drawing.

A template shows a chart by the macro ``chart`` of ``macros.html.j2``; :func:`pipeline.web.render_page` adds the scripts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.web.words import in_digits

__all__ = ["Chart", "Series", "histogram_chart", "interval_chart", "line_chart", "stacked_chart"]


@dataclass(frozen=True)
class Chart:
    """One chart of a page.

    Attributes:
        id: of this page's charts, letters and dashes.
        title: its caption.
        summary: one sentence that says what it shows, for a reader who does not see it.
        spec: what ``charts.js`` draws; the kinds and their fields are at its head.
        head: titles of the columns of the table below it.
        rows: its cells, as text.
    """

    id: str
    title: str
    summary: str
    spec: Mapping[str, Any]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def plain(self) -> dict[str, Any]:
        """Return what is drawn, as JSON."""
        return {"title": self.title, "summary": self.summary, **self.spec}


@dataclass(frozen=True)
class Series:
    """What is drawn in one colour.

    Attributes:
        name: in the legend.
        color: of CSS, such as ``#rrggbb``; None: the next of the page's palette.
        is_dashed: draw its line dashed, as that of a mean among its parts.
    """

    name: str
    color: str | None = None
    is_dashed: bool = False

    def plain(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"name": self.name, "color": self.color, **({"dashed": True} if self.is_dashed else {})}


def histogram_chart(
    id_: str,
    title: str,
    summary: str,
    *,
    x: Mapping[str, Any],
    y: str,
    series: Sequence[Series],
    bins: Sequence[tuple[float, float, Sequence[int]]],
) -> Chart:
    """Return bars over bins, those of several series side by side.

    Args:
        id_: of the chart.
        title: its caption.
        summary: what it shows.
        x: ``{"label", "scale": "linear" or "log2", "domain": [from, to] or None}``.
        y: what is counted.
        series: one a number of each bin.
        bins: from, to and how many of each series.
    """
    spec = {
        "kind": "histogram",
        "x": x,
        "y": {"label": y},
        "series": [one.plain() for one in series],
        "bins": [{"from": low, "to": high, "counts": list(counts)} for low, high, counts in bins],
    }
    rows = [[in_digits(low), in_digits(high), *map(in_digits, counts)] for low, high, counts in bins if any(counts)]
    return Chart(id_, title, summary, spec, ["from", "to below", *(one.name for one in series)], rows)


def stacked_chart(
    id_: str, title: str, summary: str, *, x: str, series: Sequence[Series], rows: Sequence[tuple[str, Sequence[float]]]
) -> Chart:
    """Return one horizontal bar a row, cut into parts.

    Args:
        id_: of the chart.
        title: its caption.
        summary: what it shows.
        x: label of the values.
        series: one a part.
        rows: name of a bar, and its values, none negative.
    """
    spec = {
        "kind": "stacked",
        "x": {"label": x},
        "series": [one.plain() for one in series],
        "rows": [{"name": name, "values": list(values)} for name, values in rows],
    }
    table = [[name, *(in_digits(float(value), 1) for value in values)] for name, values in rows]
    return Chart(id_, title, summary, spec, ["", *(one.name for one in series)], table)


def line_chart(
    id_: str,
    title: str,
    summary: str,
    *,
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    lines: Sequence[tuple[Series, Sequence[Sequence[float]]]],
    **options: Any,
) -> Chart:
    """Return curves.

    Args:
        id_: of the chart.
        title: its caption.
        summary: what it shows.
        x: ``{"label", "scale": "linear", "log" or "whole", "domain": [from, to] or None}``; whole numbers need a domain.
        y: the same of the values.
        lines: points of each series, ``(x, y)`` or ``(x, y, low, high)``; the latter are drawn as a band.
        options: ``diagonal`` draws the line x = y, ``square`` makes both sides equal, ``dots`` marks each point.
    """
    spec = {
        "kind": "lines",
        "x": x,
        "y": y,
        "series": [series.plain() for series, _ in lines],
        "lines": [[list(point) for point in points] for _, points in lines],
        **options,
    }
    rows = [[series.name, _short(point[0]), _short(point[1])] for series, points in lines for point in points]
    return Chart(id_, title, summary, spec, ["", x.get("label", ""), y.get("label", "")], rows)


def interval_chart(
    id_: str,
    title: str,
    summary: str,
    *,
    x: Mapping[str, Any],
    rows: Sequence[tuple[Series, float, float | None, float | None]],
    zero: bool = False,
) -> Chart:
    """Return a dot with its interval a row.

    Args:
        id_: of the chart.
        title: its caption.
        summary: what it shows.
        x: ``{"label", "domain": [from, to] or None}``.
        rows: a series, its value, and the ends of its interval; None: it has none.
        zero: draw a line at 0, as for differences.
    """
    spec = {
        "kind": "intervals",
        "x": x,
        "zero": zero,
        "rows": [{**series.plain(), "value": value, "low": low, "high": high} for series, value, low, high in rows],
    }
    table = [[series.name, _short(value), _short(low), _short(high)] for series, value, low, high in rows]
    return Chart(id_, title, summary, spec, ["", x.get("label", ""), "from", "to"], table)


def _short(value: float | None) -> str:
    return in_digits(None) if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
