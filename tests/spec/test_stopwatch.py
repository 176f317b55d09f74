"""Seconds of a block by stage, each counted once."""

from __future__ import annotations

import time

import pytest

from pipeline.engine import Stopwatch


def test_a_stage_inside_another_is_counted_once(monkeypatch):
    """What a stage takes is its own time: that of the stages inside it is theirs, however deep, also where one fails."""
    now = iter([0, 1, 3, 3, 3, 7, 12, 20])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    watch = Stopwatch()
    with watch("compute"):  # 0 to 20
        with watch("stitch"):  # 1 to 3
            pass
        with pytest.raises(ValueError, match="planted"), watch("count"), watch("stitch"):  # 3 to 12, and 3 to 7 inside it
            raise ValueError("planted")
    assert watch.seconds == {"stitch": 2 + 4, "count": 9 - 4, "compute": 20 - 2 - 9}


def test_a_stage_that_comes_again_is_added_to(monkeypatch):
    """A block that is read in two goes took both of them to be read, and stages come in the order in which they ended."""
    now = iter([0, 1, 2, 4, 7, 11])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    watch = Stopwatch()
    for stage in ("read", "write", "read"):
        with watch(stage):
            pass
    assert list(watch.seconds.items()) == [("read", 1 + 4), ("write", 2)]
