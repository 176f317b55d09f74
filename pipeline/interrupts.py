"""Signals that ask a program to end: who answers them, and that none is lost.

A KeyboardInterrupt may come between taking a lock and giving it back, and whoever wants it next waits for ever. Inside an
import that would be Python's own lock, so it is raised when the import is over; elsewhere it is raised once more if the
program has not ended after a while. By a library, or inside a callback of the interpreter, it may be swallowed: it is
remembered, and raised again before work begins.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["handled_by", "remembered"]

BOTH = (signal.SIGINT, signal.SIGTERM)
SOON_S, LATER_S = 0.02, 10.0
_asked = threading.Event()


@contextmanager
def remembered() -> Iterator[None]:
    """Raise KeyboardInterrupt at each Ctrl-C, but not inside imports, and once more where `handled_by` begins if it went unheard."""
    with _installed(_remember, (signal.SIGINT, signal.SIGALRM)):
        try:
            yield
        finally:
            _forget_alarm()
            _asked.clear()


@contextmanager
def handled_by(handler: Callable[..., None]) -> Iterator[Callable[[], None]]:
    """Let a handler, called with the signal's number and frame, answer Ctrl-C and SIGTERM.

    Yields:
        What installs it, to be called once more after anything that replaces it.

    Raises:
        KeyboardInterrupt: a Ctrl-C came before and went unheard.
    """
    with _installed(handler, BOTH) as install:
        if _asked.is_set():
            _forget_alarm()
            raise KeyboardInterrupt
        yield install


@contextmanager
def _installed(handler: Callable[..., None], kinds: tuple[signal.Signals, ...]) -> Iterator[Callable[[], None]]:
    """Install a handler while this lasts; Python allows it in the main thread alone, and elsewhere nothing is done."""

    def install() -> None:
        if threading.current_thread() is threading.main_thread():
            for kind in kinds:
                signal.signal(kind, handler)

    before = [signal.getsignal(kind) for kind in kinds]
    install()
    try:
        yield install
    finally:
        if threading.current_thread() is threading.main_thread():
            for kind, former in zip(kinds, before, strict=True):
                signal.signal(kind, former)


def _remember(_: int, frame: FrameType | None) -> None:
    _asked.set()
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.setitimer(signal.ITIMER_REAL, SOON_S)  # its alarm comes here, too
            return
        frame = frame.f_back
    signal.setitimer(signal.ITIMER_REAL, LATER_S)
    raise KeyboardInterrupt


def _forget_alarm() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.setitimer(signal.ITIMER_REAL, 0)
