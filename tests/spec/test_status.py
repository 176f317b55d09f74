"""`gigaseg status`: one object for machines, a few lines for people, and an honest word on whether the run lives."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from referencing import Registry, Resource

from pipeline.cli import main
from pipeline.errors import StoreError
from pipeline.records import Holder, Ledger, RunFolder
from pipeline.storage import LocalStorage
from tests.conftest import blobs, save_tiff
from workflows.live_status import RecentSpeed, watch_run
from workflows.run_view import RunView, describe
from workflows.status import status

SCHEMAS = {
    name: json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8")) for name in ("status.schema.json", "report.schema.json")
}
REGISTRY = Registry().with_resources([("report.schema.json", Resource.from_contents(SCHEMAS["report.schema.json"]))])
VALIDATOR = jsonschema.Draft202012Validator(SCHEMAS["status.schema.json"], registry=REGISTRY)
ELSEWHERE = replace(Holder.here(), host="n1", boot="another", pid=7)


@pytest.fixture
def done(engine, tmp_path, traced):
    """A run of two images of four blocks, one of them cut short in the file."""
    save_tiff(tmp_path / "images" / "a.tif", blobs((128, 128)))
    data = save_tiff(tmp_path / "images" / "b.tif", blobs((128, 128))).read_bytes()
    (tmp_path / "images" / "b.tif").write_bytes(data[:-4096])
    return engine(images=["images/"], model={"name": "traced.model"}, normalize=None, tiling={"halo": 0})


def as_json(folder, capsys, **options):
    capsys.readouterr()
    status(folder, as_json=True, **options)
    summary = json.loads(capsys.readouterr().out)
    VALIDATOR.validate(summary)
    return summary


def as_text(folder, capsys):
    capsys.readouterr()
    status(folder)
    return capsys.readouterr().out.replace(str(folder), "OUT").splitlines()


def resumed_elsewhere(folder, *, counter=1):
    """The run as it looks while a process of another machine goes on with it, or has died there."""
    run = RunFolder(folder)
    with Ledger.open(run.ledger, holder=ELSEWHERE) as ledger:
        epoch = ledger.epoch
    run.ledger.delete(f"released-{epoch:06d}")
    run.ledger.put(f"beat-{epoch:06d}", b"%d" % counter)
    run.write(state="running", ended=None)
    return run.ledger, f"beat-{epoch:06d}"


def test_the_object_of_a_finished_run(done, capsys):
    """State and exit code, blocks of each phase with their number, pixels, seconds by stage, bytes, failures and their groups."""
    found = as_json(done.folder, capsys)
    assert (found["state"], found["exit_code"], found["holder"], found["sign_of_life"]) == ("partial", 3, None, None)
    assert (found["images"], found["pixels"], found["blocks"]) == (2, 2 * 128 * 128, 8)
    report = done.report
    assert found["predicted"] == report["pixels"] - report["no_prediction"]
    assert (found["failures"], found["failure_groups"]) == (report["failures"], report["failure_groups"])
    assert {name: (row["blocks"] + row["failed"], row["total"]) for name, row in found["phases"].items()} == {
        "predict": (8, 8),
        "finish": (2, 2),
    }
    assert (found["blocks_settled"], found["blocks_total"], found["blocks_done"]) == (10, 10, 7)
    assert found["pixels_per_second"] > 0
    assert found["seconds_left"] is None
    assert found["stage_seconds"].keys() >= {"read", "compute", "write"}
    assert found["written_bytes"] > 0


def test_the_lines_of_a_finished_run(done, capsys):
    """State, share of the pixels, blocks by phase, and one line a cause of failures."""
    head, numbers, phases, failed = as_text(done.folder, capsys)
    assert head == "OUT: partial"
    assert numbers.startswith("2 images, 87.5% of 0.0 Mpx predicted, 7 of 8 blocks done, ")
    assert phases == "blocks by phase: predict 7 of 8 (1 failed), finish 2 of 2"
    assert failed.startswith("predict b:0.1.1 after 1 try: ")


def test_codes_of_a_folder_of_others_reach_no_terminal(done, capsys):
    """The lines show names of phases, which are read from the folder, without what a terminal would obey."""
    RunFolder(done.folder).write(phases={"predict\x1b[2J": 8})
    assert "predict?[2J 0 of 8" in as_text(done.folder, capsys)[2]


def test_a_run_of_this_machine_is_seen_at_once(done, capsys):
    """The process that holds the run is looked up: no wait, its host and pid are told."""
    folder = RunFolder(done.folder)
    with Ledger.open(folder.ledger):
        folder.write(state="running")
        started = time.monotonic()
        found = as_json(done.folder, capsys)
        assert time.monotonic() - started < 2
        assert (found["state"], found["exit_code"]) == ("running", None)
        assert found["sign_of_life"] == {"alive": True, "age_seconds": 0.0, "seen": "process"}
        assert found["holder"]["pid"] == Holder.here().pid
        assert as_text(done.folder, capsys)[0].startswith(f"OUT: running on host {Holder.here().host} (pid {Holder.here().pid})")


def test_a_killed_run_of_this_machine_is_interrupted(done, capsys):
    """A process that is gone left `running` behind: it is not believed, and the way out is told."""
    folder = RunFolder(done.folder)
    with Ledger.open(folder.ledger, holder=replace(Holder.here(), birth="long ago")):
        folder.write(state="running")
        found = as_json(done.folder, capsys)
        assert (found["state"], found["exit_code"], found["sign_of_life"]["alive"]) == ("interrupted", 130, False)
        assert "is gone; run it again to resume" in as_text(done.folder, capsys)[0]


def test_a_live_run_of_another_machine_shows_its_last_sign(done, capsys, monkeypatch):
    """Its counter moves while `status` looks: the age is that of the last move, seen from here."""
    ledger, beat = resumed_elsewhere(done.folder)
    monkeypatch.setattr("pipeline.records.sign_of_life.time.sleep", lambda _: ledger.put(beat, b"2"))
    assert as_text(done.folder, capsys)[0] == "OUT: running on host n1 (pid 7), last sign of life 0 s ago"
    ledger.put(beat, b"1")
    assert as_json(done.folder, capsys)["sign_of_life"] == {"alive": True, "age_seconds": 0.0, "seen": "counter"}


def test_a_silent_run_of_another_machine_is_not_called_dead_at_once(done, capsys, monkeypatch):
    """One look of 4 s says that there was no sign; only after 30 s it is probably dead."""
    resumed_elsewhere(done.folder)
    clock = [1000.0]
    monkeypatch.setattr("pipeline.records.sign_of_life.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("pipeline.records.sign_of_life.time.sleep", lambda seconds: clock.append(clock.pop() + seconds))
    assert "no sign of life for 4 s: if there is none for 30 s, it is probably dead" in as_text(done.folder, capsys)[0]
    view = RunView(RunFolder(done.folder))
    assert view.look()["sign_of_life"]["alive"] is None
    clock[0] += 300
    summary = view.look()
    VALIDATOR.validate(summary)
    assert (summary["state"], summary["sign_of_life"]["alive"]) == ("running", False)
    assert summary["actors"] is summary["pixels_per_second"] is summary["seconds_left"] is None
    assert "no sign of life for 5 min: probably dead; run it again to resume" in describe(summary)[0]


class Growing:
    """A run that goes on while it is watched: each pause does what the test says."""

    def __init__(self, monkeypatch, *steps):
        self.steps = list(steps)
        monkeypatch.setattr("workflows.live_status.time.sleep", self.sleep)

    def sleep(self, _):
        step = self.steps.pop(0)
        step()


def watched(folder, capsys, **options):
    capsys.readouterr()
    code = watch_run(RunView(RunFolder(folder)), as_json=False, every=None, **options)
    return code, capsys.readouterr().out.replace(str(folder), "OUT").splitlines()


def test_a_watch_prints_changes_and_ends_with_the_run(done, capsys, monkeypatch):
    """One line a change and none where nothing changed; at the end what the exit code means, which is also its own."""
    folder = RunFolder(done.folder)
    receipts = next((done.folder / "ledger").glob("*.jsonl")).read_bytes().splitlines(keepends=True)
    with Ledger.open(folder.ledger) as ledger:
        folder.write(state="running")
        Growing(
            monkeypatch,
            lambda: None,
            lambda: folder.ledger.append("000001.jsonl", receipts[-1]),  # of a process that has lost the run
            lambda: ledger.append_row("note", {}),
            lambda: folder.write(state="partial"),
        )
        code, lines = watched(done.folder, capsys)
    assert code == 3
    assert lines[0].startswith("OUT: running on host ")
    assert lines[1].startswith("10 of 10 blocks (100%)")
    assert lines[-1] == "OUT: partial: the run ended with exit code 3 (done but for what is quarantined)"
    assert len(lines) == 5, lines


def test_the_speed_is_that_of_the_last_minute(monkeypatch):
    """Blocks that were settled since the last look before the first one; a start, or the process before, does not count."""
    clock = [0.0]
    monkeypatch.setattr("workflows.live_status.time.monotonic", lambda: clock[0])
    life = {"kind": "run", "state": "running", "sign_of_life": {"alive": True}, "holder": "one", "pixels": 1000, "blocks_total": 100}
    speed = RecentSpeed()

    def look(seconds, settled, **changes):
        clock[0] = seconds
        found = speed.put_into({**life, "blocks_settled": settled, "pixels_per_second": None, "seconds_left": None, **changes})
        return found["pixels_per_second"], found["seconds_left"]

    assert [look(seconds, 10) for seconds in (0, 20, 40)] == [(None, None)] * 3
    assert look(45, 20) == (20.0, 40.0)
    assert look(50, 30) == (20.0, 35.0)
    assert look(110, 60) == (5.0, 80.0)  # two looks within a minute
    assert look(111, 60, sign_of_life={"alive": False}) == (None, None)
    assert look(200, 60, holder="two") == (None, None)
    assert look(201, 61, holder="two") == (10.0, 39.0)


def test_a_watch_survives_a_store_that_is_away(done, capsys, monkeypatch):
    """An output that cannot be read for a while is told once, and the watch goes on."""
    folder = RunFolder(done.folder)
    with Ledger.open(folder.ledger):
        folder.write(state="running")
        looks = RunView.look
        failing = iter([False, True, True, False])

        def look(self, wait_s=0.0):
            if next(failing):
                raise StoreError("bucket: no route to host")
            return looks(self, wait_s)

        monkeypatch.setattr(RunView, "look", look)
        Growing(monkeypatch, lambda: None, lambda: None, lambda: folder.write(state="done"))
        code, lines = watched(done.folder, capsys)
    assert code == 0
    assert [line for line in lines if "no route" in line] == ["bucket: no route to host"]


def test_a_watch_with_json_is_one_object_a_line(done, capsys, monkeypatch):
    """Each line is an object of the same schema, the last one with the exit code."""
    folder = RunFolder(done.folder)
    with Ledger.open(folder.ledger):
        folder.write(state="running")
        Growing(monkeypatch, lambda: folder.write(state="partial"))
        capsys.readouterr()
        assert watch_run(RunView(folder), as_json=True, every=None) == 3
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for one in found:
        VALIDATOR.validate(one)
    assert [one["exit_code"] for one in found] == [None, 3]


def test_a_terminal_gets_a_table(done, monkeypatch):
    """On a terminal: a bar for all blocks, a line an image, numbers, failures; names are no styles."""
    folder = RunFolder(done.folder)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "40")
    with Ledger.open(folder.ledger):
        folder.write(state="running")
        Growing(monkeypatch, lambda: folder.write(state="partial"))
        monkeypatch.setattr(sys, "stdout", Terminal())
        assert watch_run(RunView(folder), as_json=False, every=None) == 3
        drawn = sys.stdout.getvalue()
    words = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)
    assert re.search(r"2 images \S+ +100%", words)
    assert re.search(r"a +done +\S+ +100%", words)
    assert re.search(r"b +done +\S+ +100% +1", words)
    assert "7 of 8 blocks done" in words
    assert "predict b:0.1.1 after 1 try" in words
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1  # the cursor is back


class Counted(LocalStorage):
    """Counts the bytes that are read of the ledger."""

    read = 0

    def below(self, prefix):
        return Counted(f"{self.url}/{prefix}") if prefix == "ledger" else super().below(prefix)

    def get(self, key, start=0, stop=None):
        data = super().get(key, start, stop)
        if key.endswith(".jsonl"):
            Counted.read += len(data or b"")
        return data


def test_a_look_costs_what_is_new(done):
    """However long a run's ledger is, a second look reads none of it again."""
    view = RunView(RunFolder(Counted(done.folder)))
    view.look()
    assert Counted.read > 1000
    Counted.read = 0
    view.look()
    assert Counted.read == 0


def test_the_command_passes_its_options(done, capsys):
    """`gigaseg status DIR --watch` of a run that has ended prints it and ends with its code."""
    assert main(["status", str(done.folder), "--watch"]) == 3
    assert "exit code 3" in capsys.readouterr().out
    assert main(["status", str(done.folder)]) == 0
