"""Ctrl-C and SIGTERM: which handler answers them, and that none is lost.

A KeyboardInterrupt may be raised while a lock is held, and the next thread that needs the lock then waits for ever. Python
holds such a lock while it imports, so that a Ctrl-C inside an import is raised when the import is over. A library, or a
callback of the interpreter, may swallow a KeyboardInterrupt: it is remembered, raised once more if the program still runs
after a while, and raised again before work begins. One that the interpreter cannot pass on, as in a ``__del__``, is raised
again at once, and Python's message about it is not shown. ``__main__`` needs this module before anything heavy is imported.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["handle_signals", "remember_interrupts"]

RETRY_SOON_S, RETRY_S = 0.02, 10.0
_was_interrupted = threading.Event()


@contextmanager
def remember_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt at each Ctrl-C, outside imports; one that was swallowed is raised where :func:`handle_signals` begins."""
    with _installed(_raise_outside_imports, (signal.SIGINT, signal.SIGALRM)):
        before, sys.unraisablehook = sys.unraisablehook, _retry_unraisable
        try:
            yield
        finally:
            sys.unraisablehook = before
            _cancel_alarm()
            _was_interrupted.clear()


@contextmanager
def handle_signals(handler: Callable[..., None]) -> Iterator[Callable[[], None]]:
    """Let a handler answer Ctrl-C and SIGTERM; raise KeyboardInterrupt where an earlier Ctrl-C was swallowed.

    Yields:
        A function that installs the handler again, for use after a library has replaced it.
    """
    with _installed(handler, (signal.SIGINT, signal.SIGTERM)) as install:
        if _was_interrupted.is_set():
            _cancel_alarm()
            raise KeyboardInterrupt
        yield install


@contextmanager
def _installed(handler: Callable[..., None], kinds: tuple[signal.Signals, ...]) -> Iterator[Callable[[], None]]:
    """Install a handler for the length of the context; outside the main thread, where Python forbids it, do nothing."""

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


def _raise_outside_imports(_: int, frame: FrameType | None) -> None:
    _was_interrupted.set()
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.setitimer(signal.ITIMER_REAL, RETRY_SOON_S)  # this function handles the alarm as well
            return
        frame = frame.f_back
    signal.setitimer(signal.ITIMER_REAL, RETRY_S)
    raise KeyboardInterrupt


def _retry_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, RETRY_SOON_S)
    else:
        sys.__unraisablehook__(unraisable)


def _cancel_alarm() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.setitimer(signal.ITIMER_REAL, 0)
