"""The report: summed counts in; report.json, tables and a page out.

Owns: report.json, the CSV files, index.html, the table on a terminal, how far a run is. May import: scheduling, metrics and below.
Never touches: pixels, models; it can be made again from the ledger at any time.
"""

from __future__ import annotations

from pipeline.report.content import phase_rows, report_of
from pipeline.report.failure_groups import describe_group, group_failures
from pipeline.report.rendering import write_report
from pipeline.report.run_state import RunState
from pipeline.report.terminal import print_table

__all__ = [
    "RunState",
    "describe_group",
    "group_failures",
    "phase_rows",
    "print_table",
    "report_of",
    "write_report",
]
