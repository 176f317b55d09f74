"""Signals that ask a program to end: who answers them, and that none is lost.

While a library is imported, or inside a callback of the interpreter, the KeyboardInterrupt that a Ctrl-C raises may be
swallowed. It is therefore remembered, and raised again before work begins.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["handled_by", "remembered"]

BOTH = (signal.SIGINT, signal.SIGTERM)
_asked = threading.Event()


@contextmanager
def remembered() -> Iterator[None]:
    """Raise KeyboardInterrupt at each Ctrl-C, as Python does, and once more where `handled_by` begins if it went unheard."""
    _asked.clear()
    with _installed(_remember, (signal.SIGINT,)):
        yield


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


def _remember(*_: Any) -> None:
    _asked.set()
    raise KeyboardInterrupt
