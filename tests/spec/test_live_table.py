"""The table on a terminal: what fits, in the order that people look for, whatever the names of images hold."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from pipeline.records import Receipt
from pipeline.scheduling.block_queue import Position
from pipeline.scheduling.live_table import ImageRow, ImageRows, LiveTable, fold_middle, pace_text
from pipeline.statistics import Counts

SIZES = [(120, 40), (80, 24), (40, 12)]


def receipt(name, *, phase="predict", matrix=None, **fields):
    confusion = None if matrix is None else np.array(matrix)
    counts = None if confusion is None else Counts(confusion.sum(axis=0), confusion=confusion)
    return Receipt(phase, name, f"{name}:0.0.0", counts=counts, **fields)


def drawn(rows, *, width=80, height=24, num_images=10_000, share=0.47, **options):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, legacy_windows=False, **options)
    load = ["2 actors", "88% busy", "peak memory of an actor 921 MiB"]
    console.print(LiveTable(num_images, share, pace_text(12_300_000, 302), load, lambda most: rows[:most]))
    return console.file.getvalue()


def lines_of(rows, **options):
    return drawn(rows, color_system=None, **options).splitlines()


def working(number, name="slides/2026/a long name of a scan that is folded"):
    return [ImageRow(f"{name} {index:05}", Position("predict", index, 100)) for index in range(number)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_table_fits_the_terminal(width, height):
    """As many images as there are lines, no line longer than the terminal, and the number of those that are not shown."""
    done = ImageRow("b" * 300, None, 3, 0.91234)
    lines = lines_of([done, *working(500)], width=width, height=height)
    assert len(lines) == height - 1
    assert max(cell_len(line) for line in lines) <= width
    shown = sum("%" in line for line in lines[1:]) - ("busy" in "".join(lines))
    assert lines[-1] == f"and {10_000 - shown:,} more images"
    text = "\n".join(lines)
    assert all(word in text for word in ("10,000 images", "47%", "12.3 Mpx/s", "0:05:02 left", "2 actors", "done", "0.9123"))


def test_a_low_terminal_keeps_the_bar():
    """Where there is no line for an image, the bar of the run remains."""
    assert [line[:13] for line in lines_of(working(3), height=3)] == ["10,000 images", "2 actors, 88%"]


def test_what_does_not_fit_a_narrow_line_is_left_out():
    """The line of actors loses its last parts as a whole."""
    assert lines_of(working(1), width=40)[1:3] == ["12.3 Mpx/s, 0:05:02 left", "2 actors, 88% busy"]
    assert lines_of(working(1), width=60)[1] == "2 actors, 88% busy, peak memory of an actor 921 MiB"


def test_columns_without_content_are_left_out():
    """No column of failures while nothing failed, and none of IoU while no image with truth is finished."""
    title = lines_of(working(2))[2]
    assert title.split() == ["image", "phase", "done"]
    assert lines_of([ImageRow("a", None, 2)])[2].split() == ["image", "phase", "done", "failed"]
    assert lines_of([ImageRow("a", None, 0, 0.5)])[2].split() == ["image", "phase", "done", "IoU"]


def test_all_images_are_shown_where_they_fit():
    """No line counts the others where there are none."""
    assert "more images" not in drawn(working(2), num_images=2)


def test_failures_are_red_and_a_terminal_without_colours_gets_none(monkeypatch):
    """NO_COLOR is obeyed; the column says what is meant without it."""
    rows = [ImageRow("a", None, 2)]
    assert "\x1b[31m       2" in drawn(rows, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    plain = drawn(rows, color_system="standard")
    assert "\x1b[31m" not in plain
    assert "failed" in plain


@pytest.mark.parametrize("name", ["[red]a[/red]", "<script>", "日本語" * 60, "a\u202eb", "a\x1b[2Jb", "é" * 300, "a\nb"])
def test_no_name_harms_the_table(name):
    """Styles, wide letters, codes and line breaks in a name change neither the number nor the width of lines."""
    lines = lines_of([ImageRow(name, Position("predict", 1, 4)), *working(2)], width=60)
    assert len(lines) == 2 + 1 + 3 + 1
    assert max(map(cell_len, lines)) <= 60
    assert not set("\x1b\u202e") & set("".join(lines))
    if len(name) < 15 and name.isprintable():
        assert name in lines[3]


@pytest.mark.parametrize("cells", range(1, 30))
@pytest.mark.parametrize("name", ["scan_00017.ome", "日本語の顕微鏡画像", "x"])
def test_a_folded_name_has_the_cells_that_it_was_given(name, cells):
    """Wide letters at the fold included; the end of the name is kept."""
    folded = fold_middle(name, cells)
    assert cell_len(folded) == cells
    assert cells < 8 or folded.rstrip()[-2:] == name[-2:] or name == "x"


def test_images_in_work_come_first_and_the_newest_before_the_others():
    """Then finished images, the last finished first; those without a block so far are not shown."""
    rows = ImageRows()
    for name in ("a", "b", "c", "d", "a"):
        rows.add(receipt(name))
    rows.finish("b")
    rows.finish("a")
    rows.finish("unknown")
    assert rows.open == ["c", "d"]
    position = Position("predict", 1, 2)
    assert [row.name for row in rows.newest(lambda _: position, 10)] == ["d", "c", "a", "b"]
    assert [row.name for row in rows.newest(lambda _: position, 3)] == ["d", "c", "a"]
    assert [row.position for row in rows.newest(lambda _: position, 3)] == [position, position, None]


def iou_of(*receipts, **options):
    rows = ImageRows()
    for one in receipts:
        rows.add(one, **options)
    rows.finish("a")
    (row,) = rows.newest(lambda _: None, 1)
    return row.iou


def test_the_iou_is_that_of_all_blocks():
    """Counts of blocks are added up; those of a phase without a result are not the mask's."""
    parts = [receipt("a", matrix=[[90, 0], [5, 0]]), receipt("a", matrix=[[0, 0], [0, 5]]), receipt("a", phase="fit")]
    assert iou_of(*parts) == pytest.approx((90 / 95 + 5 / 10) / 2)


def test_an_iou_that_is_not_known_is_not_shown():
    """Without truth, with truth that could not be counted, or where an earlier execution did some of the blocks."""
    part = receipt("a", matrix=[[1, 0], [0, 1]])
    assert iou_of(part) == 1
    assert iou_of(receipt("a")) is None
    assert iou_of(part, receipt("a", truth_error="value 7")) is None
    assert iou_of(part, is_known=False) is None


def test_failed_blocks_are_counted():
    """In work and afterwards."""
    rows = ImageRows()
    rows.add(receipt("a", cause="damaged"))
    rows.add(receipt("a"))
    assert [row.failed for row in rows.newest(lambda _: Position("predict", 2, 4), 1)] == [1]
    rows.finish("a")
    assert [row.failed for row in rows.newest(lambda _: None, 1)] == [1]
