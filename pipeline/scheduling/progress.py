"""Progress of a run on stderr: bars on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipeline.records import Block
from pipeline.system import is_json, say

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Progress", "show_progress"]

LINE_S = 60.0  # between two lines without a terminal


class Progress:
    """Counts the pixels and blocks that this execution does, and shows them."""

    def advance(self, block: Block) -> None:
        """Count one block."""


class _Bars(Progress):
    """Bars for all images and for the current one.

    ``pixels`` is the work of each image by name, over all its phases; ``done`` the part that an earlier execution committed.
    """

    def __init__(self, bar: Bar, pixels: Mapping[str, int], done: Mapping[str, int]) -> None:
        self._bar, self._pixels, self._done = bar, pixels, dict(done)
        self._all = bar.add_task(f"{len(pixels)} images", total=sum(pixels.values()), completed=sum(done.values()))
        self._one = bar.add_task("", total=None)

    def advance(self, block: Block) -> None:
        """Move both bars."""
        image = block.image.name
        self._done[image] += block.box.area
        self._bar.update(self._all, advance=block.box.area)
        self._bar.update(self._one, description=f"{block.phase} {image}", total=self._pixels[image], completed=self._done[image])


class _Lines(Progress):
    """A line a minute, counted in blocks: counting the pixels of a million blocks would take too long.

    ``blocks`` returns the numbers of settled blocks and of all blocks.
    """

    def __init__(self, blocks: Callable[[], tuple[int, int]]) -> None:
        self._blocks, self._pixels = blocks, 0
        self._before = blocks()[0]
        self._started = self._told = time.monotonic()

    def advance(self, block: Block) -> None:
        """Print a line if the last one is a minute old."""
        self._pixels += block.box.area
        now = time.monotonic()
        if now - self._told < LINE_S:
            return
        self._told = now
        settled, total = self._blocks()
        seconds = now - self._started
        left = round(seconds * (total - settled) / max(1, settled - self._before))
        speed = f"{self._pixels / seconds / 1e6:.1f} Mpx/s, {timedelta(seconds=left)} left"
        line = f"{settled} of {total} blocks ({settled / total:.0%}), {speed}, {block.phase} {block.image.name}"
        about: dict[str, Any] = {"settled": settled, "blocks": total, "phase": block.phase, "image": block.image.name}
        say(line, event="progress", **about, pixels_per_second=round(self._pixels / seconds), seconds_left=left)


@contextmanager
def show_progress(count: Callable[[], tuple[dict[str, int], dict[str, int]]], blocks: Callable[[], tuple[int, int]]) -> Iterator[Progress]:
    """Show speed and time left: as bars on a terminal (``count`` returns their ``pixels`` and ``done``), else as lines."""
    if not sys.stderr.isatty() or is_json():
        yield _Lines(blocks)
        return
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Speed(ProgressColumn):
        """Megapixels a second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed / 1e6:.1f} Mpx/s" if task.speed else "")

    columns = (BarColumn(), TaskProgressColumn(), Speed(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(TextColumn("{task.description}", markup=False), *columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bars(bar, *count())
