"""What a person sees while a run goes on: on stderr, and nothing at all where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.records import Block

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Progress", "show_progress"]


class Progress:
    """Counts pixels, of the image at hand and of all; draws when it has a bar to draw on.

    ``pixels`` are those that each image has in all its phases, by name; ``done`` those that an earlier execution has committed.
    """

    def __init__(self, bar: Bar | None, pixels: Mapping[str, int], done: Mapping[str, int]) -> None:
        self._bar, self._pixels, self._done = bar, pixels, dict(done)
        if bar:
            self._all = bar.add_task(f"{len(pixels)} images", total=sum(pixels.values()), completed=sum(done.values()))
            self._one = bar.add_task("", total=None)

    def advance(self, block: Block) -> None:
        """Book one block."""
        if self._bar is None:
            return
        image = block.image.name
        self._done[image] += block.box.area
        self._bar.update(self._all, advance=block.box.area)
        self._bar.update(self._one, description=f"{block.phase} {image}", total=self._pixels[image], completed=self._done[image])


@contextmanager
def show_progress(count: Callable[[], tuple[dict[str, int], dict[str, int]]]) -> Iterator[Progress]:
    """Draw bars with pixels a second and time left on stderr; call ``count``, which gives ``pixels`` and ``done``, only on a terminal."""
    if not sys.stderr.isatty():
        yield Progress(None, {}, {})
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
        yield Progress(bar, *count())
