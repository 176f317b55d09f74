"""Failures by cause: one line for one damaged image, and every failure in exactly one group."""

from __future__ import annotations

import csv

from hypothesis import given
from hypothesis import strategies as st

from pipeline.report import describe_group, group_failures, write_report
from pipeline.report.content import Failure, ImageCounts, build_report


def failure(image="slide7", block=0, cause="cannot be decoded", phase="predict", attempts=1):
    name = None if block is None else f"{image}:0.{block}.1"
    return {"image": image, "block": name, "phase": phase, "cause": cause, "attempts": attempts}


def lines(*failures):
    return [describe_group(group) for group in group_failures(failures)]


def test_a_truncated_image_is_one_line():
    """140 blocks that fail at 140 places of one file are one line with their number, the first block and the first cause."""
    causes = [f"/data/slide7.tif: segment {n} at byte {n * 4096}: cannot be decoded (EOFError: short)" for n in range(140)]
    told = lines(*(failure(block=n, cause=cause) for n, cause in enumerate(causes)))
    assert told == [f"predict 140 blocks of slide7 after 1 try, first slide7:0.0.1: {causes[0]}"]


def test_equal_causes_of_several_images_are_one_line():
    """A cause that names each image's own path is one cause; the first three images are named."""
    told = lines(*(failure(name, block=None, cause=f"/data/{name}.tif: no such file", phase="plan") for name in ("Anna", "Bo", "Cy", "Di")))
    assert told == ["plan 4 images (Anna, Bo, Cy, ...) after 1 try, first Anna: /data/Anna.tif: no such file"]


def test_codes_in_names_reach_no_terminal():
    """Names of images and causes are shown as they are, but for codes that a terminal would obey."""
    assert lines(failure("a\x1b[2J", cause="bad\x07")) == ["predict a?[2J:0.0.1 after 1 try: bad?"]


def test_a_block_that_fails_in_several_phases_counts_once():
    """One cause in two phases is one line, which names both and counts blocks, not failures."""
    rows = [failure(block=block, phase=phase) for phase in ("fit", "predict") for block in range(3)]
    assert lines(*rows) == ["fit, predict 3 blocks of slide7 after 1 try, first slide7:0.0.1: cannot be decoded"]
    assert [group["failures"] for group in group_failures(rows)] == [6]


def test_other_causes_are_other_lines():
    """A cause of other words is a group of its own, and so are failures of whole images; groups come in the order of their first."""
    told = lines(failure(), failure(cause="out of memory", attempts=3), failure(block=1), failure(block=None, phase="plan"))
    assert told == [
        "predict 2 blocks of slide7 after 1 try, first slide7:0.0.1: cannot be decoded",
        "predict slide7:0.0.1 after 3 tries: out of memory",
        "plan slide7 after 1 try: cannot be decoded",
    ]


def test_a_cause_of_several_lines_is_one_line():
    """Line breaks become spaces, and what a terminal would obey is not printed."""
    assert lines(failure(cause="one\r\n  two\x1b[2J\n")) == ["predict slide7:0.0.1 after 1 try: one two?[2J"]


failures = st.builds(
    failure,
    st.sampled_from(["", "a", "a+b(", "slide7"]),
    st.one_of(st.none(), st.integers(0, 3)),
    st.sampled_from(["x 1", "x 2", "y", "a+b(.tif 3"]),
    st.sampled_from(["predict", "finish"]),
    st.integers(1, 3),
)


@given(st.lists(failures))
def test_every_failure_is_in_one_group(rows):
    """Counts of all groups add up to the failures, whatever names and causes hold."""
    groups = group_failures(rows)
    assert sum(group["failures"] for group in groups) == len(rows)
    assert all(group["images"] <= group["units"] <= group["failures"] for group in groups)
    assert all(len(group["names"]) == min(3, group["images"]) for group in groups)


def test_groups_are_in_every_report(tmp_path):
    """report.json, failure_groups.csv and the page hold the groups, and failures.csv still every failure."""
    failed = [Failure("a", f"a:0.0.{n}", "predict", f"a.tif: tile {n} is damaged", 3) for n in range(5)]
    report = build_report("partial", [{"name": "x"}], [], [ImageCounts("a")], failures=failed)
    assert [group["failures"] for group in report["failure_groups"]] == [5]
    write_report(report, tmp_path)
    with (tmp_path / "failure_groups.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["failures"], row["unit"], row["first block"], row["attempts"]) == ("5", "block", "a:0.0.0", "3")
    assert len((tmp_path / "failures.csv").read_text().splitlines()) == 6
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "predict 5 blocks of a after 3 tries, first a:0.0.0: a.tif: tile 0 is damaged" in page
