"""JSON lines on stderr: every line an object, with the fields that collectors know, and text where nobody asked for JSON."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import warnings
from datetime import datetime

import pytest

from pipeline.cli import main
from pipeline.system import events
from tests.conftest import UNET, blobs, engine_yaml, save_tiff


@pytest.fixture
def lines(monkeypatch):
    """Lines of JSON that are written during a test."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    events.write_json()
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.captureWarnings(False)
    root.handlers[:] = before
    events.logger.setLevel(logging.NOTSET)


def test_text_is_for_people(capsys):
    """Without JSON a message is its text on stderr, and a record, which log.txt has, is nothing."""
    events.say("left out: 3 files", event="note", number=3)
    events.record("begin", event="run begins")
    assert capsys.readouterr() == ("", "left out: 3 files\n")
    assert not events.is_json()


def test_a_message_is_one_object(lines):
    """Time with its zone, level in lower case, event, message, and the fields as they are, whatever the text holds."""
    events.say('a\n"b"', event="note", number=3)
    events.record("quarantine", event="block quarantined", level="warning", image="a", attempts=2)
    one, other = lines()
    assert datetime.fromisoformat(one["timestamp"]).tzinfo is not None
    assert {**one, "timestamp": 0} == {"timestamp": 0, "level": "info", "event": "note", "message": 'a\n"b"', "number": 3}
    assert (other["level"], other["event"], other["image"], other["attempts"]) == ("warning", "block quarantined", "a", 2)


def test_other_libraries_speak_json_too(lines):
    """Warnings of Python and records of other loggers are objects, with their logger and their traceback."""
    with warnings.catch_warnings():
        logging.captureWarnings(False)
        logging.captureWarnings(True)  # again, as pytest has replaced what shows warnings since the fixture
        warnings.simplefilter("always")
        warnings.warn("odd tag", stacklevel=1)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("library.x").exception("cannot read %s", "a.tif")
    one, other = lines()
    assert "odd tag" in one["message"]
    assert (one["logger"], one["level"]) == ("py.warnings", "warning")
    assert (other["logger"], other["message"], other["level"]) == ("library.x", "cannot read a.tif", "error")
    assert "ValueError: broken" in other["traceback"]


def test_asking_twice_writes_once(lines):
    """A second call of write_json does not double the lines."""
    events.write_json()
    events.say("one")
    assert len(lines()) == 1


def run(tmp_path, *arguments, **environment):
    import os

    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment, cwd=tmp_path)


def test_a_run_tells_its_events(tmp_path):
    """All of stderr is JSON: begin, each quarantined block with its fields, images that are done, end; log.txt stays text."""
    save_tiff(tmp_path / "images" / "a.tif", blobs((128, 128)))
    data = save_tiff(tmp_path / "images" / "b.tif", blobs((128, 128))).read_bytes()
    (tmp_path / "images" / "b.tif").write_bytes(data[:-4096])
    (tmp_path / "images" / "note.txt").write_text("x")
    path = engine_yaml(tmp_path, images=["images/"], model={"name": "histogram", "classes": 2}, normalize=None, tiling={"halo": 0})
    ended = run(tmp_path, "run", str(path), "--log-json")
    assert ended.returncode == 3, ended.stderr
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    assert all({"timestamp", "level", "event", "message"} <= one.keys() for one in told)
    of = {name: [one for one in told if one["event"] == name] for name in {one["event"] for one in told}}
    (begin,) = of["run begins"]
    assert (begin["runner"], begin["output"]) == ("serial", str(tmp_path / "out"))
    lost = of["block quarantined"][0]
    assert (lost["image"], lost["block"], lost["attempts"], lost["level"]) == ("b", "b:0.1.1", 1, "warning")
    assert {"phase", "seconds", "cause"} <= lost.keys()
    assert {one["image"] for one in of["image done"]} == {"a", "b"}
    assert [one["state"] for one in of["run ends"]] == ["partial"]
    assert len(of["failures of one cause"]) == 1
    assert "class 0" in ended.stdout
    assert re.search(
        r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+\d\d:\d\d quarantine ", (tmp_path / "out" / "log.txt").read_text(), re.MULTILINE
    )


def test_errors_are_objects(tmp_path):
    """Wrong input ends with 2 and one object a problem; the environment asks for JSON as the option does."""
    path = engine_yaml(tmp_path, images=["gone.tif"], model=UNET, tiling={"core": "x"})
    ended = run(tmp_path, "run", str(path), GIGASEG_LOG_JSON="1")
    assert ended.returncode == 2
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    assert told
    assert {(one["event"], one["level"], one["exit_code"]) for one in told} == {("error", "error", 2)}
    assert any("tiling.core" in one["message"] for one in told)


def test_without_the_option_nothing_changes(tmp_path, capsys):
    """Errors of the command are text with the program's name in front."""
    assert main(["run", str(tmp_path / "gone.yaml")]) == 2
    assert capsys.readouterr().err.startswith("gigaseg: ")
