"""A call that is repeated in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["repeating"]


@contextmanager
def repeating(action: Callable[[], None], *, pause_s: float) -> Iterator[None]:
    """Call ``action`` in a thread, again and again with a pause before each call, until the ``with`` block ends."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(pause_s):
            action()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
