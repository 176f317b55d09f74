"""What a training leaves behind while it goes on: history.csv, TensorBoard event files and, on a terminal, live lines."""

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
    """history.csv, TensorBoard event files and live lines, written as training goes on.

    ``history.csv`` is one table with the same columns from its first byte: ``step``, ``seconds`` (of training, those before a
    resume included), :data:`TRAINING`, :data:`SCORES`, then ``iou NAME`` of each class. A row is on its way to the disk
    when the call returns; a cell is empty where a row has no value. The event files lie in ``events`` for ``tensorboard --logdir``.
    The live lines are drawn on stderr, if it is a terminal.

    Args:
        folder: of the training; made if it is missing.
        classes: name of each class; the id is the position.
        total_steps: where training ends; None: nobody knows.
        step: where a resumed training goes on. Rows of later steps, written after its checkpoint, and a row that was cut
            off by a crash are dropped; TensorBoard is told to forget the same. 0: start over.

    Raises:
        InputError: the table to go on with has other columns, as the classes were others.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with History(folder, ["sky", "sea"], 100) as history:
        ...     history.train(10, loss=0.5, parts={}, rate=1e-3, crops_per_second=8.0)
        >>> (folder / "history.csv").read_text().splitlines()[0].partition(",mean_iou")[0]
        'step,seconds,loss,rate,crops_per_second'
    """

    def __init__(self, folder: Path, classes: Sequence[str], total_steps: int | None, *, step: int = 0) -> None:
        self._classes = tuple(classes)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "history.csv"
        # A reader of the table would end the row at a bare carriage return, which the csv module does not quote.
        self._columns = ["step", "seconds", *TRAINING, *SCORES, *(f"iou {name}".replace("\r", " ") for name in classes)]
        rows = _kept(path, self._columns, step) if step else []
        self._begin = time.monotonic() - (float(rows[-1][1]) if rows else 0.0)
        part = path.with_name(".history.csv.part")
        part.write_text(_csv([self._columns, *rows]), encoding="utf-8", newline="")
        part.replace(path)
        self._file = path.open("a", encoding="utf-8", newline="")
        self._events = _events(folder / "events", step + 1 if step else 0)
        self._live = _Live(total_steps, step) if sys.stderr.isatty() else None

    def train(self, step: int, *, loss: float, parts: Mapping[str, float], rate: float, crops_per_second: float) -> None:
        """Book what training has come to.

        Args:
            step: number of steps done.
            loss: what is minimised.
            parts: the terms that it is the sum of, by name; in the event files only.
            rate: the learning rate.
            crops_per_second: speed since the last call.
        """
        values = [float(loss), float(rate), round(float(crops_per_second), 2)]
        self._row(step, [*values, *(None for _ in (*SCORES, *self._classes))])
        self._scalars(step, {f"train/{name}": value for name, value in zip(TRAINING, values, strict=True)})
        self._scalars(step, {f"loss/{name}": float(value) for name, value in parts.items()})
        if self._live:
            self._live.train(step, float(loss), float(crops_per_second))

    def validate(self, step: int, report: Mapping[str, Any]) -> None:
        """Book a validation.

        Args:
            step: number of steps done.
            report: the content of report.json; what it has not, or has as None, stays empty.
        """
        scores = {name: report.get(name) for name in SCORES}
        ious = dict(zip(self._classes, (one.get("iou") for one in report["classes"]), strict=True))
        self._row(step, [*(None for _ in TRAINING), *scores.values(), *ious.values()])
        self._scalars(step, {f"validation/{name}": value for name, value in scores.items()})
        # The id keeps names apart that differ only in what a tag may not hold.
        self._scalars(step, {f"iou/{index} {name}": iou for index, (name, iou) in enumerate(ious.items())})
        if self._live:
            self._live.validate({"mean": scores["mean_iou"], **ious})

    def close(self) -> None:
        """Write what is pending; once is enough."""
        if self._live:
            self._live.close()
        self._file.close()
        self._events.close()

    def __enter__(self) -> Self:
        """Nothing more to open."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close, however training ended."""
        self.close()

    def _row(self, step: int, values: Sequence[float | None]) -> None:
        self._file.write(_csv([[step, round(time.monotonic() - self._begin, 1), *values]]))
        self._file.flush()

    def _scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        for tag, value in values.items():
            if value is not None:
                self._events.add_scalar(tag, value, step)


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _kept(path: Path, columns: Sequence[str], step: int) -> list[list[str]]:
    """Rows up to ``step``; without the last line if it has no end, and without what a dead disk cache left of others."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    header, *rows = list(csv.reader(io.StringIO(whole, newline=""))) or [list(columns)]
    if header != list(columns):
        raise InputError(
            Problem(str(path), ", ".join(header), ", ".join(columns), "Train into another folder, or with the classes of before.")
        )
    return [row for row in rows if len(row) == len(columns) and row[0].isdecimal() and int(row[0]) <= step]


def _events(folder: Path, purge_step: int) -> Any:
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped]  # it ships no types

    # Files are named by the second, and one of the same name would be overwritten.
    return SummaryWriter(str(folder), purge_step=purge_step, flush_secs=10, filename_suffix=f".{time.time_ns()}")


class _Live:
    """Step, loss, speed and time left on one line, the last validation on the next."""

    def __init__(self, total: int | None, step: int) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.text import Text

        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}", markup=False))
        # Validation stops the steps for a while: the time left rests on the last hour.
        self._bar = Progress(*columns, TimeRemainingColumn(), TextColumn("left"), speed_estimate_period=3600)
        self._task = self._bar.add_task("", total=total, completed=step)
        self._scores = Text(no_wrap=True, overflow="ellipsis")
        self._lines = Live(Group(self._bar, self._scores), console=Console(stderr=True), refresh_per_second=2)
        self._lines.start()

    def train(self, step: int, loss: float, crops_per_second: float) -> None:
        self._bar.update(self._task, completed=step, description=f"loss {loss:.4g}  {crops_per_second:.3g} crops/s")

    def validate(self, ious: Mapping[str, float | None]) -> None:
        parts = (f"{name} {'–' if iou is None else format(iou, '.3f')}" for name, iou in ious.items())
        self._scores.plain = "IoU  " + "  ".join(parts)

    def close(self) -> None:
        self._lines.stop()
