"""What a person sees while a run goes on: pixels of the image at hand and of all, and nothing where nobody looks."""

from __future__ import annotations

import io
import re
import sys

import pytest

from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Block
from pipeline.scheduling.progress import show_progress


def block(name, side=1000):
    image = Image(0, name, f"/{name}.tif", Header((4000, 4000), 1, "uint8"), {"name": "auto"})
    return Block("predict", image, 0, 0, 0, Box(0, 0, side, side))


class Terminal(io.StringIO):
    """A terminal that keeps what was drawn on it."""

    def isatty(self):
        return True


def terminal_for(monkeypatch):
    """Give this test a terminal; called by the test itself, as pytest sets stderr anew before each."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return sys.stderr


def test_without_a_terminal_a_line_a_minute(capsys, monkeypatch):
    """A log gets blocks, speed and time left once a minute, and pixels are not counted for it."""
    clock = iter([100.0, 110.0, 161.0, 170.0, 222.0])
    monkeypatch.setattr("pipeline.scheduling.progress.time.monotonic", lambda: next(clock))
    settled = iter([4, 6, 8])
    with show_progress(lambda: pytest.fail("counted for nobody"), lambda: (next(settled), 10)) as progress:
        for name in "abab":
            progress.advance(block(name))
    told = capsys.readouterr()
    assert told.out == ""
    assert (
        told.err == "6 of 10 blocks (60%), 0.0 Mpx/s, 0:02:02 left, predict b\n8 of 10 blocks (80%), 0.0 Mpx/s, 0:01:01 left, predict b\n"
    )


def test_a_terminal_shows_all_and_the_image_at_hand(monkeypatch):
    """A bar for all images and one for the image of the last block, with what an earlier execution did taken in."""
    terminal, counted = terminal_for(monkeypatch), []

    def count():
        counted.append(1)
        return {"a": 4_000_000, "b": 4_000_000}, {"a": 2_000_000, "b": 0}

    with show_progress(count, lambda: (0, 1)) as progress:
        progress.advance(block("a"))
        progress.advance(block("b"))
        progress._bar.refresh()
        tasks = [(task.description, task.completed, task.total) for task in progress._bar.tasks]
    assert counted == [1]
    assert tasks == [("2 images", 4_000_000, 8_000_000), ("predict b", 1_000_000, 4_000_000)]
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "2 images" in drawn
    assert "50%" in drawn
    assert "25%" in drawn


def test_names_of_images_are_shown_as_they_are(monkeypatch):
    """A name that looks like a style of the terminal library is no style."""
    terminal = terminal_for(monkeypatch)
    with show_progress(lambda: ({"[red]a": 4}, {"[red]a": 0}), lambda: (0, 1)) as progress:
        progress.advance(block("[red]a", side=2))
        progress._bar.refresh()
    assert "predict [red]a" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())


def test_the_terminal_is_given_back(monkeypatch):
    """When the run ends, an error included, the bars are gone and the cursor is there again."""
    terminal = terminal_for(monkeypatch)

    def run():
        with show_progress(lambda: ({"a": 4}, {"a": 0}), lambda: (0, 1)):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run()
    drawn = terminal.getvalue()
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1  # the cursor was hidden, and shown again
    assert drawn.rindex("\x1b[2K") > drawn.rindex("1 images")  # and its lines were wiped
