"""The table that a terminal shows while a run goes on: a bar for the whole run, then a line an image.

The driver draws it on stderr, and ``gigaseg status --watch`` draws it from the output folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate, islice
from typing import TYPE_CHECKING

import numpy as np

from pipeline.engine import phase
from pipeline.errors import counted, printable
from pipeline.plugins import build
from pipeline.records import Receipt
from pipeline.scheduling.block_queue import Position
from pipeline.statistics import Counts

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.text import Text

__all__ = ["ImageRow", "ImageRows", "LiveTable", "busy_text", "fold_middle", "pace_text"]

MOST_FINISHED = 500  # images that are kept after their last block: more than a terminal has lines
NARROW, WIDE = 60, 90  # columns of a terminal: below, an image has no bar; from here on, a long one
ROW_BARS = 10, 24  # cells of the bar of an image
MOST_BAR = 40  # cells of the bar of the run
LEAST_NAME = 8  # cells of a name
SCORE = 6  # cells of an IoU


@dataclass(frozen=True)
class ImageRow:
    """One line of the table.

    Attributes:
        position: None: every block of every phase is settled.
        failed: its blocks that are quarantined.
        iou: mean IoU over the classes; None: the image is in work, or this is not known.
    """

    name: str
    position: Position | None
    failed: int = 0
    iou: float | None = None


@dataclass
class _Sums:
    """What the receipts of one image add up to.

    Attributes:
        confusion: None: nothing was counted against truth.
        is_known: whether the receipts that were added are all that count.
        iou: of an image that seemed to be finished before; None: it did not, or was not known.
    """

    failed: int = 0
    confusion: np.ndarray | None = None
    is_known: bool = True
    iou: float | None = None


class ImageRows:
    """The images in work, and those that were finished last. A receipt costs the same however many images there are."""

    def __init__(self) -> None:
        self._open: dict[str, _Sums] = {}
        self._finished: dict[str, ImageRow] = {}

    @property
    def open(self) -> list[str]:
        """Names of the images in work, the oldest first."""
        return list(self._open)

    def add(self, receipt: Receipt, *, is_known: bool = True) -> None:
        """Add the receipt of a block.

        ``is_known``: whether every block of the image that counts is added exactly once; otherwise its IoU is not shown.
        """
        sums = self._open.get(receipt.image)
        if sums is None:
            before = self._finished.pop(receipt.image, None)
            sums = self._open[receipt.image] = _Sums() if before is None else _Sums(before.failed, iou=before.iou)
        sums.failed += not receipt.ok
        sums.is_known &= not receipt.truth_error
        confusion = None if receipt.counts is None else receipt.counts.confusion
        if receipt.counts is not None and phase(receipt.phase).is_result:
            sums.is_known &= is_known and sums.iou is None
            if not sums.is_known:
                sums.confusion = None
            elif confusion is not None:
                sums.confusion = confusion.copy() if sums.confusion is None else np.add(sums.confusion, confusion, out=sums.confusion)

    def finish(self, name: str) -> None:
        """Note that an image is finished; one of which nothing was added is not shown."""
        if sums := self._open.pop(name, None):
            self._finished[name] = ImageRow(name, None, sums.failed, _mean_iou(sums))
            if len(self._finished) > MOST_FINISHED:
                del self._finished[next(iter(self._finished))]

    def forget(self, name: str) -> None:
        """Show an image no more, until another of its blocks is added."""
        self._open.pop(name, None)
        self._finished.pop(name, None)

    def newest(self, position_of: Callable[[str], Position | None], most: int) -> list[ImageRow]:
        """Return at most so many lines: images in work, the last begun first, then finished ones, the last finished first."""
        rows = [ImageRow(name, position_of(name), self._open[name].failed) for name in islice(reversed(self._open), most)]
        return [*rows, *islice(reversed(self._finished.values()), most - len(rows))]


def _mean_iou(sums: _Sums) -> float | None:
    if not sums.is_known:
        return None
    if sums.confusion is None:
        return sums.iou
    score: float | None = build("metrics", {"name": "semantic"}).compute(Counts(sums.confusion.sum(axis=0), confusion=sums.confusion))[
        "mean_iou"
    ]
    return score


@dataclass(frozen=True)
class LiveTable:
    """What a terminal shows of a run; fits whatever size the terminal has when it is drawn.

    Attributes:
        num_images: of the run.
        share: of the run that is done, 0 to 1; None: not known.
        pace: speed and time left.
        load: actors, how busy they are, their memory.
        rows: returns at most so many lines.
        above, below: what is shown over and under the table; a line each.
    """

    num_images: int
    share: float | None
    pace: Sequence[str]
    load: Sequence[str]
    rows: Callable[[int], list[ImageRow]]
    above: Sequence[Text] = ()
    below: Sequence[Text] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it: as many images as the height allows, in lines that are no longer than the width."""
        from rich.console import Group

        width, height = options.max_width, console.size.height
        pen = _Pen(width, is_ascii=options.ascii_only, has_colors=console.color_system is not None and not console.no_color)
        head = [*self.above, *self._head(pen)]
        room = height - 1 - len(head) - len(self.below) - 2  # titles of the table, and how many more images there are
        rows = self.rows(room) if room > 0 else []
        lines: list[RenderableType] = [*head, *_image_lines(rows, pen)]
        if 0 < len(rows) < self.num_images:
            lines.append(pen.line(f"and {_images(self.num_images - len(rows), 'more image')}", "dim"))
        yield Group(*lines, *self.below)

    def _head(self, pen: _Pen) -> Iterator[Text]:
        """Yield the bar of the run, its speed and its load; on a narrow terminal a line each, without what does not fit."""
        title, share = f"{_images(self.num_images)} ", "" if self.share is None else f" {_percent(self.share)}"
        pace, load = _fitting(self.pace, pen.width), _fitting(self.load, pen.width)
        is_narrow = pen.width < NARROW
        tail = share if is_narrow or not pace else f"{share}  {pace}"
        bar = pen.line(title)
        bar.append_text(pen.bar(self.share or 0.0, max(0, min(MOST_BAR, pen.width - len(title) - len(tail)))))
        yield bar.append(tail)
        if is_narrow and pace:
            yield pen.line(pace)
        if load:
            yield pen.line(load, "dim")


def _fitting(parts: Sequence[str], width: int) -> str:
    """Return as many of the first parts as fit in a line, and at least one if there is any."""
    lines = accumulate(parts, "{}, {}".format)
    return max((line for at, line in enumerate(lines) if not at or len(line) <= width), key=len, default="")


class _Pen:
    """Draws lines of text for a terminal of some width."""

    def __init__(self, width: int, *, is_ascii: bool, has_colors: bool) -> None:
        self.width, self.is_ascii, self.has_colors = width, is_ascii, has_colors

    def line(self, text: str = "", style: str = "") -> Text:
        """Return a line that is cut at the edge instead of being folded."""
        from rich.text import Text

        return Text(text, style=style, no_wrap=True, overflow="crop" if self.is_ascii else "ellipsis")

    def bar(self, share: float, cells: int) -> Text:
        """Return a bar; without colours the rest of it is blank."""
        full = round(min(1.0, share) * cells)
        letter = "#" if self.is_ascii else "━"
        bar = self.line().append(letter * full, "bar.finished" if share >= 1 else "bar.complete")
        return bar.append((letter if self.has_colors else " ") * (cells - full), "bar.back")


def _image_lines(rows: Sequence[ImageRow], pen: _Pen) -> Iterator[Text]:
    """Yield the titles and a line an image; columns in which no line has anything are left out."""
    if not rows:
        return
    bar = 0 if pen.width < NARROW else ROW_BARS[pen.width >= WIDE]
    phases = max(len("phase"), *(len(_phase(row)) for row in rows))
    columns = [f"{'phase':{phases}}", f"{'done':>{bar + 5 if bar else 4}}"]
    has_failed, has_iou = any(row.failed for row in rows), any(row.iou is not None for row in rows)
    columns += [f"{'failed':>6}"] * has_failed + [f"{'IoU':>{SCORE}}"] * has_iou
    names = max(LEAST_NAME, pen.width - sum(len(column) + 2 for column in columns))
    names = min(names, max(len("image"), *(_cells(printable(row.name)) for row in rows)))
    yield pen.line("  ".join([fold_middle("image", names), *columns]), "dim")
    for row in rows:
        share = 1.0 if row.position is None else row.position.settled / max(1, row.position.blocks)
        line = pen.line(f"{fold_middle(row.name, names, is_ascii=pen.is_ascii)}  {_phase(row):{phases}}  ")
        line.append_text(pen.bar(share, bar)).append(f"{' ' if bar else ''}{_percent(share)}")
        if has_failed:
            line.append(f"  {row.failed or '':>6}", "red")
        if has_iou:
            line.append("" if row.iou is None else f"  {row.iou:{SCORE}.4f}")
        yield line


def _phase(row: ImageRow) -> str:
    return "done" if row.position is None else printable(row.position.phase)


def _images(number: int, word: str = "image") -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _percent(share: float) -> str:
    """Return a share in four cells; only what is complete is 100 %."""
    return f"{int(100 * share):>3}%"


def busy_text(actors: float | None, busy_share: float | None, peak_bytes: int = 0) -> list[str]:
    """Return the number of actors, how busy they are and their peak memory, each with its unit, as far as they are known.

    Example:
        >>> busy_text(2, 0.876, 921 << 20)
        ['2 actors', '88% busy', 'peak memory of an actor 921 MiB']
        >>> busy_text(None, None, 0)
        []
    """
    parts = [] if actors is None else [counted(round(actors), "actor")]
    if busy_share is not None:
        parts.append(f"{busy_share:.0%} busy")
    if peak_bytes:
        parts.append(f"peak memory of an actor {peak_bytes / 2**20:,.0f} MiB")
    return parts


def pace_text(pixels_per_second: float | None, seconds_left: float | None) -> list[str]:
    """Return speed and time left, each with its unit, as far as they are known.

    Example:
        >>> pace_text(12_300_000, 302.4), pace_text(9_500, None)
        (['12.3 Mpx/s', '0:05:02 left'], ['9.5 kpx/s'])
    """
    speed = pixels_per_second or 0
    parts = [f"{speed / 1e6:.1f} Mpx/s" if speed >= 1e5 else f"{speed / 1e3:.1f} kpx/s"] if speed else []
    return parts if seconds_left is None else [*parts, f"{timedelta(seconds=round(seconds_left))} left"]


def fold_middle(name: str, cells: int, *, is_ascii: bool = False) -> str:
    """Return a name in so many cells of a terminal: padded, or with an ellipsis in place of its middle.

    The end of a name stays longer than its beginning: names of one folder differ there.

    Example:
        >>> fold_middle("slides/2026/scan_00017", 12), fold_middle("a", 3)
        ('slid…n_00017', 'a  ')
    """
    from rich.cells import set_cell_size

    name = printable(name)
    if _cells(name) <= cells:
        return set_cell_size(name, cells)
    gap = "..." if is_ascii else "…"
    first = max(0, (cells - len(gap)) // 3 + 1)
    last = max(0, cells - len(gap) - first)
    return set_cell_size(set_cell_size(name, first) + gap + set_cell_size(name[::-1], last)[::-1], cells)


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
