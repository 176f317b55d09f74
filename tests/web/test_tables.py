"""Tables of a page: bounded, and the same with and without scripts."""

from __future__ import annotations

import json

from pipeline.web import Column, data_table

COLUMNS = (Column("image"), Column("IoU", "score"), Column("size", "count"), Column("missing", "percent"))


def test_a_page_without_scripts_has_the_first_rows_as_text() -> None:
    """Cells are words; a number that is missing is a dash, and a column in which nothing is known is left out."""
    made = data_table("t", "Images", COLUMNS, [["a", 0.92456789, 1234, None], ["b", None, 0, None]], 2)
    assert [column.title for column in made.columns] == ["image", "IoU", "size"]
    assert made.first == [["a", "0.925", "1,234"], ["b", "–", "0"]]
    assert made.plain() == {"columns": ["text", "score", "count"], "rows": [["a", 0.924568, 1234], ["b", None, 0]]}


def test_a_difference_has_its_sign() -> None:
    """A gain is a plus, so that it is no score; without a value it is a dash."""
    made = data_table("t", "Changes", (Column("image"), Column("B − A", "change")), [["a", 0.0126], ["b", -0.5], ["c", None]], 3)
    assert [row[1] for row in made.first] == ["+0.013", "-0.500", "–"]


def test_a_table_is_bounded() -> None:
    """At most 10,000 rows and the bytes that are given, whatever names hold; the rest is counted."""
    many = data_table("t", "Images", COLUMNS, ([str(index), 0.5, 1, 0.0] for index in range(20_000)), 20_000)
    assert (len(many.rows), many.left_out, len(many.first)) == (10_000, 10_000, 25)
    long = data_table("t", "Images", COLUMNS, (["\u202e" * 300, 0.5, 1, 0.0] for _ in range(1000)), 1000, most_bytes=100_000)
    assert 40 < len(long.rows) < 60
    assert len(json.dumps(long.rows, separators=(",", ":"))) <= 100_000
