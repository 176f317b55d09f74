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

__all__ = ["SCORES", "TRAINING", "History"]

TRAINING = ("loss", "rate", "crops_per_second")
"""Columns of history.csv that a row of training fills; ``rate`` is the learning rate."""

SCORES = ("mean_iou", "mean_dice", "macro_f1", "micro_f1", "pixel_accuracy", "cross_entropy")
"""Columns of history.csv that a row of validation fills, before the IoU of each class."""


class History:
    """Writes history.csv, TensorBoard event files and live lines during a training.

    The columns of ``history.csv`` never change: ``step``, ``seconds`` (of training, with those before a resume),
    :data:`TRAINING`, :data:`SCORES`, then ``iou NAME`` of each class. A cell is empty where a row has no value. Each call hands its row
    to the operating system before it returns. The event files lie in ``events`` for ``tensorboard --logdir``. The live lines
    appear on stderr, if stderr is a terminal.

    Args:
        folder: output folder of the training; made if it is missing.
        classes: name of each class; the id is the position.
        total_steps: where training ends; None: unknown.
        step: where a resumed training continues; 0: start over. Rows of later steps, which were written after the checkpoint,
            are dropped from the table and from TensorBoard, and so is a row that a crash cut off.

    Raises:
        InputError: the table has other columns, because it was written for other classes.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with History(folder, ["sky", "sea"], 100) as history:
        ...     history.record_training(10, loss=0.5, parts={}, rate=1e-3, crops_per_second=8.0)
        >>> (folder / "history.csv").read_text().splitlines()[0].partition(",mean_iou")[0]
        'step,seconds,loss,rate,crops_per_second'
    """

    def __init__(self, folder: Path, classes: Sequence[str], total_steps: int | None, *, step: int = 0) -> None:
        self._classes = tuple(classes)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "history.csv"
        # The csv module does not quote a bare carriage return, at which a reader of the table would end the row.
        self._columns = ["step", "seconds", *TRAINING, *SCORES, *(f"iou {name}".replace("\r", " ") for name in classes)]
        rows = _rows_until(path, self._columns, step) if step else []
        self._start_s = time.monotonic() - (float(rows[-1][1]) if rows else 0.0)
        part = path.with_name(".history.csv.part")
        part.write_text(_csv([self._columns, *rows]), encoding="utf-8", newline="")
        part.replace(path)
        self._file = path.open("a", encoding="utf-8", newline="")
        self._events = _open_events(folder / "events", step + 1 if step else 0)
        self._live = _LiveLines(total_steps, step) if sys.stderr.isatty() else None

    def record_training(self, step: int, *, loss: float, parts: Mapping[str, float], rate: float, crops_per_second: float) -> None:
        """Record the state of the training.

        Args:
            step: number of steps done.
            loss: what is minimised.
            parts: its terms by name; for the event files only.
            rate: the learning rate.
            crops_per_second: speed since the last call.
        """
        values = [float(loss), float(rate), round(float(crops_per_second), 2)]
        self._write_row(step, [*values, *(None for _ in (*SCORES, *self._classes))])
        self._write_scalars(step, {f"train/{name}": value for name, value in zip(TRAINING, values, strict=True)})
        self._write_scalars(step, {f"loss/{name}": float(value) for name, value in parts.items()})
        if self._live:
            self._live.show_training(step, float(loss), float(crops_per_second))

    def record_validation(self, step: int, report: Mapping[str, Any]) -> None:
        """Record a validation.

        Args:
            step: number of steps done.
            report: the content of report.json; the cell of a score that is missing or None stays empty.
        """
        scores = {name: report.get(name) for name in SCORES}
        ious = dict(zip(self._classes, (row.get("iou") for row in report["classes"]), strict=True))
        self._write_row(step, [*(None for _ in TRAINING), *scores.values(), *ious.values()])
        self._write_scalars(step, {f"validation/{name}": value for name, value in scores.items()})
        # With the id, names stay different whose only difference is a character that a tag may not hold.
        self._write_scalars(step, {f"iou/{index} {name}": iou for index, (name, iou) in enumerate(ious.items())})
        if self._live:
            self._live.show_validation({"mean": scores["mean_iou"], **ious})

    def close(self) -> None:
        """Write what is pending and close the files."""
        if self._live:
            self._live.close()
        self._file.close()
        self._events.close()

    def __enter__(self) -> Self:
        """Return the history, which is open already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the files."""
        self.close()

    def _write_row(self, step: int, values: Sequence[float | None]) -> None:
        self._file.write(_csv([[step, round(time.monotonic() - self._start_s, 1), *values]]))
        self._file.flush()

    def _write_scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        for tag, value in values.items():
            if value is not None:
                self._events.add_scalar(tag, value, step)


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _rows_until(path: Path, columns: Sequence[str], step: int) -> list[list[str]]:
    """Return the rows up to ``step``, without a last line that has no end and without rows that a power failure damaged."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    complete = text[: text.rfind("\n") + 1]
    header, *rows = list(csv.reader(io.StringIO(complete, newline=""))) or [list(columns)]
    if header != list(columns):
        raise InputError(
            Problem(str(path), ", ".join(header), ", ".join(columns), "Train into another folder, or with the classes of before.")
        )
    return [row for row in rows if len(row) == len(columns) and row[0].isdecimal() and int(row[0]) <= step]


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
