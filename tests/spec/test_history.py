"""The history of a training: one table, event files that TensorBoard reads, and a resume that does not show."""

from __future__ import annotations

import contextlib
import csv
import math
import struct

import pytest

from pipeline.errors import InputError
from pipeline.training.history import SCORES, TRAINING, History

NAMES = ["background", "nucleus"]
VALUES = dict(zip(SCORES, (0.9, 0.95, 0.95, 0.97, 0.97, None), strict=True))
REPORT = {**VALUES, "classes": [{"iou": 0.9}, {"iou": None}], "confusion": [[9, 1], [0, 0]]}


def table(folder):
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def steps(folder):
    return [int(row["step"]) for row in table(folder)]


def train(history, step, **more):
    history.record_training(
        step, **{"loss": 1 / step, "parts": {"cross_entropy": 0.3, "dice": 0.2}, "rate": 1e-3, "crops_per_second": 31.25, **more}
    )


def events(folder, kinds=("scalar",)):
    """The records of the event files in the order of TensorBoard, (kind, step, tag, value), after checking their checksums."""
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event

    def masked(data):
        crc = crc32c(data)
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    found = []
    for path in sorted((folder / "events").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            body = data[12 : 12 + length]
            assert struct.unpack("<I", data[8:12])[0] == masked(data[:8])
            assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked(body)
            event = Event.FromString(body)
            if event.HasField("session_log"):
                found.append(("session", event.step, "", event.session_log.status))
            found += [("scalar", event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return [one for one in found if one[0] in kinds]


def test_columns_are_the_same_from_the_start(tmp_path):
    """The table has its documented header before its first row, and each row has a cell in every column."""
    with History(tmp_path, NAMES, None) as history:
        header = (tmp_path / "history.csv").read_text(encoding="utf-8")
        train(history, 1)
        history.record_validation(1, REPORT)
    columns = ["step", "seconds", "loss", "rate", "crops_per_second", *SCORES, "iou background", "iou nucleus"]
    assert header == ",".join(columns) + "\n"
    assert [len(line.split(",")) for line in (tmp_path / "history.csv").read_text(encoding="utf-8").splitlines()] == [len(columns)] * 3


def test_a_row_holds_what_was_recorded_and_is_empty_elsewhere(tmp_path):
    """Numbers are read back exactly; a value that is missing or None is an empty cell."""
    with History(tmp_path, NAMES, 100) as history:
        train(history, 3)
        history.record_validation(3, REPORT)
    trained, judged = table(tmp_path)
    assert [float(trained[name]) for name in TRAINING] == [1 / 3, 1e-3, 31.25]
    assert {trained[name] for name in (*SCORES, "iou background", "iou nucleus")} == {""}
    assert {judged[name] for name in (*TRAINING, "cross_entropy", "iou nucleus")} == {""}
    assert [float(judged[name]) for name in SCORES[:-1]] == [REPORT[name] for name in SCORES[:-1]]
    assert float(judged["iou background"]) == 0.9
    assert float(judged["seconds"]) >= float(trained["seconds"]) >= 0


def test_a_row_is_there_before_the_next_step(tmp_path):
    """Others can read a row as soon as it is recorded, long before the history is closed."""
    with History(tmp_path, NAMES, 100) as history:
        for step in (1, 2, 3):
            train(history, step)
            assert steps(tmp_path) == list(range(1, step + 1))


@pytest.mark.parametrize("name", ["a,b", 'say "x"', "two\nlines", "bare\rreturn", "=1+1", "größe", "<b>"])
def test_any_class_name_is_a_column(tmp_path, name):
    """Commas, quotes and line ends in a class name damage no row, also after a resume."""
    with History(tmp_path, [name, "other"], 9) as history:
        history.record_validation(1, REPORT)
    with History(tmp_path, [name, "other"], 9, step=1) as history:
        history.record_validation(2, REPORT)
    assert [list(row.values())[-2:] for row in table(tmp_path)] == [["0.9", ""]] * 2
    assert list(table(tmp_path)[0])[-2:] == [f"iou {name}".replace("\r", " "), "iou other"]


def test_resume_drops_what_the_checkpoint_does_not_know(tmp_path):
    """Rows after the step of the checkpoint are dropped, earlier rows stay byte for byte, and seconds continue from the last of these."""
    with History(tmp_path, NAMES, 100) as history:
        history._start_s -= 1000
        for step in (5, 10, 15, 20):
            train(history, step)
        history.record_validation(10, REPORT)
    before = (tmp_path / "history.csv").read_text(encoding="utf-8").splitlines()
    with History(tmp_path, NAMES, 100, step=10) as history:
        assert (tmp_path / "history.csv").read_text(encoding="utf-8").splitlines() == [*before[:3], before[5]]
        train(history, 15)
    assert steps(tmp_path) == [5, 10, 10, 15]
    assert 1000 <= float(table(tmp_path)[-1]["seconds"]) < 1100


def test_a_resumed_table_is_that_of_a_training_without_interruption(tmp_path):
    """Apart from times, a crash and a resume do not show in the table."""

    def go(folder, first, last, start):
        with History(folder, NAMES, 30, step=start) as history:
            for step in range(first, last + 1):
                train(history, step)
                if step % 10 == 0:
                    history.record_validation(step, REPORT)

    go(tmp_path / "whole", 1, 30, 0)
    go(tmp_path / "broken", 1, 17, 0)
    go(tmp_path / "broken", 11, 30, 10)
    whole, broken = ([{**row, "seconds": ""} for row in table(tmp_path / name)] for name in ("whole", "broken"))
    assert broken == whole


@pytest.mark.parametrize("torn", ["1", "12,3", "9,3.1,0.2", '9,3.1,"'])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    """A last line without its end, which a crash leaves, is dropped, even if its rest looks like an early step."""
    with History(tmp_path, NAMES, 100) as history:
        train(history, 8)
    with (tmp_path / "history.csv").open("a", encoding="utf-8") as file:
        file.write(torn)
    with History(tmp_path, NAMES, 100, step=10) as history:
        train(history, 11)
    assert steps(tmp_path) == [8, 11]
    assert float(table(tmp_path)[1]["loss"]) == 1 / 11


@pytest.mark.parametrize("left", [b"", b"step,sec", None, b"\0" * 40])
def test_a_table_without_a_header_starts_over(tmp_path, left):
    """After a crash before the first row, or without the table, a training continues with an empty table."""
    if left is not None:
        (tmp_path / "history.csv").write_bytes(left)
    with History(tmp_path, NAMES, 100, step=10) as history:
        train(history, 11)
    assert steps(tmp_path) == [11]


def test_lines_of_zero_bytes_are_dropped(tmp_path):
    """A line of zero bytes between rows, which a power failure leaves, is dropped."""
    with History(tmp_path, NAMES, 100) as history:
        train(history, 8)
    with (tmp_path / "history.csv").open("ab") as file:
        file.write(b"\0" * 50 + b"\n")
    with History(tmp_path, NAMES, 100, step=10):
        assert steps(tmp_path) == [8]


def test_a_start_at_zero_forgets_an_earlier_training(tmp_path):
    """A training that starts over keeps no row of an older table, whatever its classes."""
    with History(tmp_path, ["a", "b", "c"], 100) as history:
        train(history, 8)
    with History(tmp_path, NAMES, 100) as history:
        train(history, 1)
    assert steps(tmp_path) == [1]
    assert events(tmp_path, ("session",))[-1] == ("session", 0, "", 1)


def test_going_on_with_other_classes_is_refused(tmp_path):
    """A table of other classes stays as it is, and the message names both lists of columns."""
    with History(tmp_path, ["a", "b"], 100) as history:
        train(history, 8)
    before = (tmp_path / "history.csv").read_bytes()
    with pytest.raises(InputError, match="iou a, iou b; expected .*iou background, iou nucleus"):
        History(tmp_path, NAMES, 100, step=8)
    assert (tmp_path / "history.csv").read_bytes() == before


def test_event_files_read_back(tmp_path):
    """Every number of the table and every term of the loss is a float32 scalar with its step; None is left out."""
    with History(tmp_path, ["sky & sea", "sky + sea"], 100) as history:
        train(history, 4)
        history.record_validation(4, REPORT)
    found = {tag: (step, value) for _, step, tag, value in events(tmp_path)}
    assert {step for step, _ in found.values()} == {4}
    trained = {"train/loss": 0.25, "train/rate": 1e-3, "train/crops_per_second": 31.25, "loss/cross_entropy": 0.3, "loss/dice": 0.2}
    judged = {f"validation/{name}": VALUES[name] for name in SCORES[:-1]} | {"iou/0_sky___sea": 0.9}
    assert {tag: value for tag, (_, value) in found.items()} == pytest.approx(trained | judged, rel=1e-6)


def test_event_files_keep_apart_classes_whose_names_become_equal(tmp_path):
    """Two names that differ only in characters that a tag may not hold are two curves."""
    with History(tmp_path, ["a+b", "a&b"], 100) as history:
        history.record_validation(4, {**REPORT, "classes": [{"iou": 0.25}, {"iou": 0.75}]})
    assert {tag: value for _, _, tag, value in events(tmp_path) if tag.startswith("iou/")} == {"iou/0_a_b": 0.25, "iou/1_a_b": 0.75}


def test_a_resume_tells_tensorboard_where_it_continues(tmp_path):
    """A second file of the same second does not replace the first, and starts a session at the first step that is done again."""
    for first, resumed in ((1, 0), (6, 5)):
        with History(tmp_path, NAMES, 100, step=resumed) as history:
            for step in range(first, first + 8):
                train(history, step)
    assert len(list((tmp_path / "events").iterdir())) == 2
    started = [(step, status) for _, step, _, status in events(tmp_path, ("session",))]
    assert started == [(0, 1), (6, 1)]
    assert [step for _, step, tag, _ in events(tmp_path) if tag == "train/loss"] == [*range(1, 9), *range(6, 14)]


def test_a_loss_that_is_not_finite_is_recorded_as_it_is(tmp_path):
    """A training that diverges has nan in the table and in the event files."""
    with History(tmp_path, NAMES, 100) as history:
        train(history, 2, loss=float("nan"))
    assert table(tmp_path)[0]["loss"] == "nan"
    assert [math.isnan(value) for _, _, tag, value in events(tmp_path) if tag == "train/loss"] == [True]


def test_it_closes_when_training_fails_and_twice(tmp_path):
    """An error during training leaves a complete table and complete event files; closing again does nothing."""
    history = History(tmp_path, NAMES, 100)
    with contextlib.suppress(ZeroDivisionError), history:
        train(history, 1)
        raise ZeroDivisionError
    history.close()
    assert steps(tmp_path) == [1]
    assert [tag for _, _, tag, _ in events(tmp_path)][:1] == ["train/loss"]


def test_nothing_is_drawn_without_a_terminal(tmp_path, capfd):
    """Without a terminal neither stdout nor stderr gets a byte."""
    with History(tmp_path, NAMES, 100) as history:
        train(history, 1)
        history.record_validation(1, REPORT)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("total", [100, None])
def test_a_terminal_shows_step_loss_speed_and_the_last_validation(tmp_path, capfd, monkeypatch, total):
    """On a terminal, stderr shows steps, loss, crops per second and the IoU of each class by its exact name; stdout stays empty."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with History(tmp_path, ["[red]sky", "<b>sea"], total) as history:
        train(history, 4)
        history.record_validation(4, REPORT)
    out, err = capfd.readouterr()
    assert out == ""
    for text in (f"4/{total or '?'}", "loss 0.25", "31.2 crops/s", "mean 0.900", "[red]sky 0.900", "<b>sea –"):
        assert text in err
