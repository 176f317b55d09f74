"""Tables as CSV files that spreadsheets open without harm."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

__all__ = ["csv_text"]


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV: an undefined value is an empty cell, and text that a spreadsheet would take for a formula gets an apostrophe."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # The csv module does not quote a lone carriage return, and a reader would end the row there.
    text = value.replace("\r", " ")
    # A spreadsheet takes text for a formula that starts with one of these.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
