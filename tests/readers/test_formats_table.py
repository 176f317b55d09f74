"""The table of formats in the README is what the readers do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.readers.formats_table import table

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_the_readme_has_the_table():
    """Each cell is what a small file of each dialect shows; `python -m tests.readers.formats_table` prints what belongs there."""
    assert table() in README.read_text(encoding="utf-8")
