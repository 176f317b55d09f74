"""The report: summed counts in; report.json, tables and a page out.

Owns: report.json, the CSV files, index.html, the table on a terminal, the comparison of two runs, how far a run is.
May import: scheduling, metrics and below.
Never touches: pixels but those of thumbnails and of a model's examples, networks; it can be made again from the ledger at any time.
"""

from __future__ import annotations

from pipeline.report.comparison import compare_reports
from pipeline.report.comparison_rendering import print_comparison, write_comparison
from pipeline.report.content import phase_rows, report_of
from pipeline.report.failure_groups import describe_group, group_failures
from pipeline.report.gallery import MOST_PICTURES, rank_images
from pipeline.report.intervals import intervals_of
from pipeline.report.model_card import keep_examples
from pipeline.report.object_differences import object_sums
from pipeline.report.pictures import ERRORS, error_kinds, hex_color, outlines_png, palette_png, shrink
from pipeline.report.rendering import write_report
from pipeline.report.run_state import RunState
from pipeline.report.terminal import print_table, print_warnings, print_worst

__all__ = [
    "ERRORS",
    "MOST_PICTURES",
    "RunState",
    "compare_reports",
    "describe_group",
    "error_kinds",
    "group_failures",
    "hex_color",
    "intervals_of",
    "keep_examples",
    "object_sums",
    "outlines_png",
    "palette_png",
    "phase_rows",
    "print_comparison",
    "print_table",
    "print_warnings",
    "print_worst",
    "rank_images",
    "report_of",
    "shrink",
    "write_comparison",
    "write_report",
]
