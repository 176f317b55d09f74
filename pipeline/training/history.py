"""The history of a training: history.csv, TensorBoard event files and, on a terminal, live lines."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.errors import InputError, Problem
from pipeline.storage import open_storage

__all__ = ["HISTORY", "SCORES", "TRAINING", "History"]

HISTORY = "history.csv"
"""Name of the table in the output folder."""

TRAINING = ("loss", "rate", "crops_per_second")
"""Columns of history.csv that a row of training fills; ``rate`` is the learning rate."""

SCORES = ("mean_iou", "mean_dice", "macro_f1", "micro_f1", "pixel_accuracy", "cross_entropy")
"""Columns of history.csv that a row of validation fills, before the IoU of each class."""


class History:
    """Writes history.csv, event files in ``events`` for ``tensorboard --logdir`` and, if stderr is a terminal, live lines.

    The columns of ``history.csv`` never change: ``step``, ``seconds`` (of training, with those before a resume),
    :data:`TRAINING`, :data:`SCORES`, then ``iou NAME`` of each class. A cell is empty where a row has no value. Each call hands its row
    to the operating system before it returns.

    Args:
        output: folder of the training; made if it is missing.
        classes: name of each class; the id is the position.
        total_steps: where training ends; None: unknown.
        step: where a resumed training continues; 0: start over. Rows of later steps, which were written after the checkpoint,
            are dropped from the table and from TensorBoard, and so is a row that a crash cut off.

    Raises:
        InputError: the table has other columns, because it was written for other classes.
    """

    def __init__(self, output: Path, classes: Sequence[str], total_steps: int | None, *, step: int = 0) -> None:
        self._output, self._classes = open_storage(output), tuple(classes)
        self._output.make()
        # The csv module does not quote a bare carriage return, at which a reader of the table would end the row.
        self._columns = ["step", "seconds", *TRAINING, *SCORES, *(f"iou {name}".replace("\r", " ") for name in classes)]
        rows = self._rows_until(step) if step else []
        self._start_s = time.monotonic() - (float(rows[-1][1]) if rows else 0.0)
        self._output.put(HISTORY, _csv_lines([self._columns, *rows]))
        self._events = _open_events(output / "events", step + 1 if step else 0)
        self._live = _LiveLines(total_steps, step) if sys.stderr.isatty() else None

    def record_training(self, step: int, *, loss: float, parts: Mapping[str, float], rate: float, crops_per_second: float) -> None:
        """Record the state after ``step`` steps: the loss, its terms by name, the learning rate, the speed since the last call.

        Only the event files have the terms.
        """
        values = [float(loss), float(rate), round(float(crops_per_second), 2)]
        self._write_row(step, [*values, *(None for _ in (*SCORES, *self._classes))])
        self._write_scalars(step, {f"train/{name}": value for name, value in zip(TRAINING, values, strict=True)})
        self._write_scalars(step, {f"loss/{name}": float(value) for name, value in parts.items()})
        if self._live:
            self._live.show_training(step, float(loss), float(crops_per_second))

    def record_validation(self, step: int, report: Mapping[str, Any]) -> None:
        """Record the content of report.json after ``step`` steps; the cell of a score that is missing or None stays empty."""
        scores = {name: report.get(name) for name in SCORES}
        ious = dict(zip(self._classes, (row.get("iou") for row in report["classes"]), strict=True))
        self._write_row(step, [*(None for _ in TRAINING), *scores.values(), *ious.values()])
        self._write_scalars(step, {f"validation/{name}": value for name, value in scores.items()})
        # With the id, names stay different whose only difference is a character that a tag may not hold.
        self._write_scalars(step, {f"iou/{index} {name}": iou for index, (name, iou) in enumerate(ious.items())})
        if self._live:
            self._live.show_validation({"mean": scores["mean_iou"], **ious})

    def close(self) -> None:
        """Write what is pending and end the live lines."""
        if self._live:
            self._live.close()
        self._events.close()

    def __enter__(self) -> Self:
        """Return the history, which is open already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the history."""
        self.close()

    def _write_row(self, step: int, values: Sequence[float | None]) -> None:
        row = _csv_lines([[step, round(time.monotonic() - self._start_s, 1), *values]])
        self._output.append(HISTORY, row, durable=False)

    def _rows_until(self, step: int) -> list[list[str]]:
        """Return the rows up to ``step``, without a last line that has no end and without rows that a power failure damaged."""
        text = (self._output.get(HISTORY) or b"").decode("utf-8", errors="replace")
        complete = text[: text.rfind("\n") + 1]
        header, *rows = list(csv.reader(io.StringIO(complete, newline=""))) or [self._columns]
        if header != self._columns:
            found, expected = ", ".join(header), ", ".join(self._columns)
            way_out = "Train into another folder, or with the classes of before."
            raise InputError(Problem(f"{self._output}/{HISTORY}", found, expected, way_out))
        return [row for row in rows if len(row) == len(self._columns) and row[0].isdecimal() and int(row[0]) <= step]

    def _write_scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        for tag, value in values.items():
            if value is not None:
                self._events.add_scalar(tag, value, step)


def _csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _open_events(folder: Path, purge_step: int) -> Any:
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped]  # it ships no types

    # By default a file is named by the second, and would overwrite one of the same second.
    return SummaryWriter(str(folder), purge_step=purge_step, flush_secs=10, filename_suffix=f".{time.time_ns()}")


class _LiveLines:
    """One line with step, loss, speed and time left, and one with the last validation."""

    def __init__(self, total: int | None, step: int) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.text import Text

        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}", markup=False))
        # Steps pause during validation, so the time left is estimated from the last hour.
        self._bar = Progress(*columns, TimeRemainingColumn(), TextColumn("left"), speed_estimate_period=3600)
        self._task = self._bar.add_task("", total=total, completed=step)
        self._scores = Text(no_wrap=True, overflow="ellipsis")
        self._lines = Live(Group(self._bar, self._scores), console=Console(stderr=True), refresh_per_second=2)
        self._lines.start()

    def show_training(self, step: int, loss: float, crops_per_second: float) -> None:
        self._bar.update(self._task, completed=step, description=f"loss {loss:.4g}  {crops_per_second:.3g} crops/s")

    def show_validation(self, ious: Mapping[str, float | None]) -> None:
        parts = (f"{name} {'–' if iou is None else format(iou, '.3f')}" for name, iou in ious.items())
        self._scores.plain = "IoU  " + "  ".join(parts)

    def close(self) -> None:
        self._lines.stop()
