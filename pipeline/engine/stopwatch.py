"""Seconds that a block spends in each stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Stopwatch"]


class Stopwatch:
    """Seconds that one block spent in each stage; a stage inside another one is not counted twice.

    Example:
        >>> watch = Stopwatch()
        >>> with watch("compute"), watch("stitch"):
        ...     pass
        >>> list(watch.seconds)
        ['stitch', 'compute']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = 0.0  # of the stages inside the one that is running

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time inside the context to a stage."""
        start, before, self._inner = time.perf_counter(), self._inner, 0.0
        try:
            yield
        finally:
            took = time.perf_counter() - start
            self.seconds[stage] = self.seconds.get(stage, 0.0) + took - self._inner
            self._inner = before + took
