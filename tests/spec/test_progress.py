"""What a person sees while a run goes on: a table on a terminal, a line a minute elsewhere, at next to no cost."""

from __future__ import annotations

import io
import re
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.config import Compute, Recipe
from pipeline.engine import Job
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Block, Receipt, RunFolder, run_lock
from pipeline.scheduling import RunSpec, Stage, execute, progress
from pipeline.scheduling.block_queue import BlockQueue
from pipeline.scheduling.monitoring import Monitor
from pipeline.scheduling.progress import show_progress
from pipeline.statistics import Counts
from pipeline.system import say


def block(name, number=0, side=1000):
    image = Image(0, name, f"/{name}.tif", Header((4000, 4000), 1, "uint8"), {"name": "auto"})
    return Block("predict", image, 0, 0, number, Box(0, number * side, side, (number + 1) * side))


def stages(*names, side=1000):
    return {name: [Stage("predict", [block(name, number, side) for number in range(4)])] for name in names}


class Scene:
    """A run whose blocks a test settles; ``progress`` shows it."""

    def __init__(self, images):
        self.images, self.queue, self.monitor = images, BlockQueue(images), Monitor("out")
        self.queue.begin()
        self.monitor.begin(images, self.queue)
        self.monitor.actors = lambda: 2

    def shown(self):
        area = sum(stage.area for some in self.images.values() for stage in some)
        return show_progress(self.queue, self.monitor, lambda: (area, 0))

    def settle(self, shown, name, number, **fields):
        (one,) = (one for one in self.images[name][0].blocks if one.col == number)
        receipt = Receipt(one.phase, name, one.id, one.key, seconds={"compute": 0.5}, **fields)
        self.queue.settle(receipt)
        self.monitor.settled(one, receipt)
        shown.advance(one, receipt, one.box.area)


class Terminal(io.StringIO):
    """A terminal that keeps what was drawn on it."""

    def isatty(self):
        return True

    @property
    def words(self):
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())


def terminal_for(monkeypatch, **environment):
    """Give this test a terminal; called by the test itself, as pytest sets stderr anew before each."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    for name, value in {"TERM": "xterm", "COLUMNS": "120", "LINES": "40", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(progress, "DRAW_S", 0.01)
    monkeypatch.setattr(progress, "LEAST_REST", 0)
    return sys.stderr


def wait_for(terminal, text):
    """Wait until a text is drawn; a drawing that never comes fails the test."""
    until = time.monotonic() + 20
    while text not in terminal.words:
        assert time.monotonic() < until, terminal.words
        time.sleep(0.01)


def test_without_a_terminal_a_line_a_minute(capsys, monkeypatch):
    """A log gets blocks, speed, time left and busy actors once a minute, and pixels are not counted for it."""
    scene = Scene(stages("a", "b"))
    clock = [time.monotonic()]
    monkeypatch.setattr("pipeline.scheduling.progress.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(Monitor, "busy_share", 0.876)
    with show_progress(scene.queue, scene.monitor, lambda: pytest.fail("counted for nobody")) as shown:
        for name, number, seconds in (("a", 0, 10), ("b", 0, 51), ("a", 1, 9), ("b", 1, 52)):
            clock[0] += seconds
            scene.settle(shown, name, number)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "2 of 8 blocks (25%), 32.8 kpx/s, 0:03:03 left, 2 actors, 88% busy, predict b",
        "4 of 8 blocks (50%), 32.8 kpx/s, 0:02:02 left, 2 actors, 88% busy, predict b",
    ]


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch, term):
    """Nothing is drawn on it."""
    terminal = terminal_for(monkeypatch, TERM=term)
    scene = Scene(stages("a"))
    with scene.shown() as shown:
        scene.settle(shown, "a", 0)
        time.sleep(0.1)
    assert terminal.getvalue() == ""


def test_a_terminal_shows_the_run_and_its_images(monkeypatch):
    """A bar for the run with speed and time left, actors, and a line an image; one without a block so far is only counted."""
    terminal = terminal_for(monkeypatch)
    scene = Scene(stages("a", "b", "c"))
    confusion = np.array([[9, 0], [1, 10]])
    with scene.shown() as shown:
        for number in range(4):
            scene.settle(shown, "a", number, counts=Counts(confusion.sum(axis=0), confusion=confusion))
        scene.settle(shown, "b", 0, peak_bytes=921 << 20)
        scene.settle(shown, "b", 1, cause="damaged")
        wait_for(terminal, " 50%")
        wait_for(terminal, "Mpx/s")
    drawn = terminal.words
    assert "3 images" in drawn
    assert "2 actors, " in drawn
    assert "peak memory of an actor 921 MiB" in drawn
    assert re.search(r"b +predict +\S+ +50% +1", drawn)
    assert re.search(r"a +done +\S+ +100% +0.9045", drawn)  # mean of 9 / 10 and 10 / 11
    assert "and 1 more image" in drawn


def test_the_speed_is_that_of_the_last_minute(monkeypatch):
    """Or that since the first block, where blocks take longer; the time until the first block does not count."""
    scene = Scene(stages("a", "b"))
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    table = progress._Table(scene.queue, scene.monitor, (8_000_000, 0))

    def drawn(seconds, *numbers):
        for number in numbers:
            scene.settle(table, "a", number)
        clock[0] = seconds
        return list(table.table().pace)

    assert drawn(100) == drawn(110) == []
    assert drawn(112, 0) == ["0.5 Mpx/s", "0:00:14 left"]
    assert drawn(120, 1, 2) == ["0.3 Mpx/s", "0:00:17 left"]
    assert drawn(175) == ["31.7 kpx/s", "0:02:38 left"]  # two blocks in the last 63 s
    assert drawn(310) == ["15.0 kpx/s", "0:05:33 left"]  # three in 200 s
    assert drawn(320, 3) == ["6.9 kpx/s", "0:09:40 left"]  # one in the last 145 s


def test_messages_appear_above_the_table(monkeypatch):
    """A line on stderr is not overwritten by the next drawing, and its brackets are no style."""
    terminal = terminal_for(monkeypatch)
    scene = Scene(stages("a"))
    with scene.shown() as shown:
        scene.settle(shown, "a", 0)
        wait_for(terminal, " 25%")
        say("actor 3 [bold]ready[/bold]")
        scene.settle(shown, "a", 1)
        wait_for(terminal, " 50%")
    assert terminal.words.count("actor 3 [bold]ready[/bold]") == 1


def test_the_terminal_is_given_back(monkeypatch):
    """When the run ends, a second Ctrl-C included, the table is gone and the cursor is there again."""
    terminal = terminal_for(monkeypatch)
    scene = Scene(stages("a"))

    def run():
        with scene.shown():
            wait_for(terminal, "1 image")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    drawn = terminal.getvalue()
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1  # the cursor was hidden, and shown again
    assert drawn.rindex("\x1b[2K") > drawn.rindex("1 image")  # and its lines were wiped
    assert sys.stderr is terminal


def test_drawing_leaves_most_of_the_time_to_the_run(monkeypatch):
    """The pause after a drawing is two hundred times as long as the drawing took, and at least a quarter of a second."""
    pauses, clock = [], iter([0.0, 0.001, 0.0, 0.02])
    least, rest = progress.DRAW_S, progress.LEAST_REST
    terminal = terminal_for(monkeypatch)

    class Ended(threading.Event):
        def wait(self, pause):
            pauses.append(pause)
            return len(pauses) > 2

    monkeypatch.setattr(progress, "DRAW_S", least)
    monkeypatch.setattr(progress, "LEAST_REST", rest)
    monkeypatch.setattr(run_lock, "threading", SimpleNamespace(Event=Ended, Thread=threading.Thread))
    monkeypatch.setattr(progress.time, "thread_time", lambda: next(clock))
    with Scene(stages("a")).shown():
        pass
    assert pauses == [0.0, 0.25, 4.0]
    assert "1 image" in terminal.words


def test_an_execution_records_its_speed(tmp_path):
    """run.json says how many pixels a second got a result, how busy the actors were, and how many there were at once."""
    image = replace(block("blank").image, header=Header((16, 160), 1, "uint8"), reader={"name": "tests.benchmarks.scheduler"})
    boxes = [Box(0, col * 16, 16, (col + 1) * 16) for col in range(10)]
    blocks = [Block("count", image, 0, 0, col, box, "key") for col, box in enumerate(boxes)]
    one = {"name": "blank", "shape": [16, 160], "planes": 1, "truth": None, "count_key": ""}
    classes = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    plan = {"classes": classes, "metrics": [], "model": {}, "images": [one], "rejected": []}
    folder = RunFolder(tmp_path)
    job = Job(folder.storage, Recipe(core=16, block=16), classes=classes)
    execute(RunSpec(folder, job, {"blank": [Stage("count", blocks)]}, plan, "serial", Compute()))
    found = folder.read()
    assert found["pixels_per_second"] == pytest.approx(16 * 160 / found["seconds"], rel=0.05)
    assert found["actors"] == 1
    assert 0 <= found["busy_share"] <= 1
