"""Web pages: one template environment, one style, and the libraries of others that draw charts, tables and deep zoom.

A page is one file: styles, scripts and data are written into it, and its content security policy lets nothing else run or load.

Owns: the frame of every page, words for numbers, the vendored libraries with their licences. May import: errors.
Never touches: runs, pixels, the network while a page is made.
"""

from __future__ import annotations

from pipeline.web.charts import Chart, Series, histogram_chart, interval_chart, line_chart, stacked_chart
from pipeline.web.pages import VENDOR, data_uri, render_page
from pipeline.web.tables import Column, DataTable, data_table
from pipeline.web.words import in_area, in_bytes, in_digits, in_percent, in_pixels, in_seconds

__all__ = [
    "VENDOR",
    "Chart",
    "Column",
    "DataTable",
    "Series",
    "data_table",
    "data_uri",
    "histogram_chart",
    "in_area",
    "in_bytes",
    "in_digits",
    "in_percent",
    "in_pixels",
    "in_seconds",
    "interval_chart",
    "line_chart",
    "render_page",
    "stacked_chart",
]
