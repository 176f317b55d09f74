"""Progress of a run on stderr: a table on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.records import Block, Receipt, repeating
from pipeline.scheduling.block_queue import BlockQueue
from pipeline.scheduling.live_table import ImageRow, ImageRows, LiveTable, busy_text, pace_text
from pipeline.scheduling.monitoring import Monitor
from pipeline.system import is_json, say

__all__ = ["Progress", "show_progress"]

LINE_S = 60.0  # between two lines without a terminal
DRAW_S = 0.25  # at least, between two drawings of the table
LEAST_REST = 200  # times as long as it took to draw the table, until it is drawn again: drawing takes at most 0.5 % of the time
RECENT_S = 60.0  # over which the speed of the table is measured


class Progress:
    """Counts the pixels and blocks that this execution does, and shows them."""

    def advance(self, block: Block, receipt: Receipt, pixels: int) -> None:
        """Count one block, which the queue has settled.

        ``pixels``: of the block; 0 where its phase takes hardly any time.
        """


class _Table(Progress):
    """The table on a terminal. The driver counts; a thread of its own draws what was counted."""

    def __init__(self, queue: BlockQueue, monitor: Monitor, pixels: tuple[int, int]) -> None:
        self._queue, self._monitor = queue, monitor
        self._pixels, self._done = pixels
        self._resumed = queue.begun
        self._images, self._lock = ImageRows(), threading.Lock()
        self._begun = time.monotonic(), self._done  # time, pixels that were done by then
        self._seen = deque[tuple[float, int]]()  # the same, over the last minute

    def advance(self, block: Block, receipt: Receipt, pixels: int) -> None:
        """Count one block."""
        with self._lock:
            self._done += pixels
            self._images.add(receipt, is_known=receipt.image not in self._resumed)
            if self._queue.is_image_finished(receipt.image):
                self._images.finish(receipt.image)

    def table(self) -> LiveTable:
        """Return what is to be drawn now."""
        done = self._done
        rate = self._rate(time.monotonic(), done)
        return LiveTable(
            num_images=self._queue.num_images,
            share=done / self._pixels if self._pixels else None,
            pace=pace_text(rate, max(0, self._pixels - done) / rate if rate else None),
            load=busy_text(self._monitor.actors(), self._monitor.busy_share, self._monitor.peak_bytes),
            rows=self._rows,
        )

    def _rate(self, now: float, done: int) -> float:
        """Return pixels a second over the last minute, or since the first block where the last minute had none; 0 before that."""
        if done == self._begun[1]:
            self._begun = now, done  # actors take time to start, which tells nothing about their speed
            self._seen.clear()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] >= RECENT_S:
            self._seen.popleft()
        when, before = self._seen[0] if self._seen[0][1] < done else self._begun
        return (done - before) / (now - when) if now > when else 0.0

    def _rows(self, most: int) -> list[ImageRow]:
        with self._lock:
            return self._images.newest(self._queue.position, most)


class _Lines(Progress):
    """A line a minute, counted in blocks: counting the pixels of a million blocks would take too long."""

    def __init__(self, queue: BlockQueue, monitor: Monitor) -> None:
        self._queue, self._monitor, self._pixels = queue, monitor, 0
        self._before = queue.num_settled
        self._started = self._told = time.monotonic()

    def advance(self, block: Block, receipt: Receipt, pixels: int) -> None:
        """Print a line if the last one is a minute old."""
        self._pixels += pixels
        now = time.monotonic()
        if not pixels or now - self._told < LINE_S:
            return
        self._told = now
        settled, total = self._queue.num_settled, self._queue.total_blocks
        seconds = now - self._started
        left = round(seconds * (total - settled) / max(1, settled - self._before))
        actors, busy = self._monitor.actors(), self._monitor.busy_share
        parts = [*pace_text(self._pixels / seconds, left), *busy_text(actors, busy)]
        line = f"{settled} of {total} blocks ({settled / total:.0%}), {', '.join(parts)}, {block.phase} {block.image.name}"
        about: dict[str, Any] = {"settled": settled, "blocks": total, "phase": block.phase, "image": block.image.name}
        about |= {"pixels_per_second": round(self._pixels / seconds), "seconds_left": left, "actors": actors, "busy_share": busy}
        say(line, event="progress", **about)


@contextmanager
def show_progress(queue: BlockQueue, monitor: Monitor, count: Callable[[], tuple[int, int]]) -> Iterator[Progress]:
    """Show speed, time left and images: as a table on a terminal, else as lines.

    ``count`` returns the pixels of the run, and how many of them an earlier execution has done; it is called for a table.
    """
    if not sys.stderr.isatty() or is_json() or os.environ.get("TERM", "") in ("dumb", "unknown"):
        yield _Lines(queue, monitor)
        return
    from rich.console import Console
    from rich.live import Live

    table = _Table(queue, monitor, count())

    def draw() -> float:
        """Draw the table; return how long to rest, which is many times what the drawing took."""
        before = time.thread_time()
        live.update(table.table(), refresh=True)
        return max(DRAW_S, LEAST_REST * (time.thread_time() - before))

    # What is printed meanwhile appears above the table. Text for a file or a pipe on stdout stays there.
    with (
        Live(console=Console(stderr=True), auto_refresh=False, transient=True, redirect_stdout=sys.stdout.isatty()) as live,
        repeating(draw, pause_s=0.0),
    ):
        yield table
