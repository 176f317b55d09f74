"""What a person sees while a run goes on: on stderr, and nothing at all where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.receipts import Receipt

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Progress", "show_progress"]


class Progress:
    """Counts pixels; draws when it has something to draw on.

    Args:
        bar: a rich progress; None: draw nothing.
        pixels: of all blocks of all phases.
        done: of those already committed.
    """

    def __init__(self, bar: Bar | None, pixels: int, done: int) -> None:
        self._bar = bar
        self._task = bar.add_task("all images", total=pixels, completed=done, image="") if bar else None

    def advance(self, receipt: Receipt, pixels: int) -> None:
        """Book one block."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=pixels, image=f"{receipt.phase} {receipt.image}")


@contextmanager
def show_progress(pixels: int, done: int = 0) -> Iterator[Progress]:
    """Draw a bar with pixels a second and time left on stderr, if it is a terminal."""
    if not sys.stderr.isatty():
        yield Progress(None, pixels, done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Speed(ProgressColumn):
        """Megapixels a second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed / 1e6:.1f} Mpx/s" if task.speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), Speed(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, TextColumn("{task.fields[image]}"), console=Console(stderr=True), transient=True) as bar:
        yield Progress(bar, pixels, done)
