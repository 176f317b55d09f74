"""The report: summed counts in, report.json, tables and a page out. Knows nothing of how the counts came about."""

from __future__ import annotations

from pipeline.report.build import Failure, ImageCounts, ReportInput, build_report
from pipeline.report.files import write_report
from pipeline.report.table import print_table

__all__ = ["Failure", "ImageCounts", "ReportInput", "build_report", "print_table", "write_report"]
