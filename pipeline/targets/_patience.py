"""A scheduler that does not answer for a while is asked again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.targets import say

__all__ = ["LostContactError", "patiently"]

T = TypeVar("T")
PAUSE_S, MOST_PAUSE_S = 2.0, 15.0
SILENCE_S = 300.0  # a head that is started again, or a network that is cut, may take minutes


class LostContactError(Exception):
    """The scheduler has not answered for a long time, or has forgotten the job."""


def patiently(ask: Callable[[], T], who: str, no_answer: type[Exception] | tuple[type[Exception], ...]) -> T:
    """Ask again, with longer and longer pauses, while there is no answer.

    Args:
        ask: what is asked.
        who: who is asked, for messages.
        no_answer: what ``ask`` raises where there is no answer now.

    Raises:
        LostContactError: there was none for five minutes.
    """
    silent_since, pause = time.monotonic(), PAUSE_S
    while True:
        try:
            return ask()
        except no_answer as error:
            silent_s = time.monotonic() - silent_since
            if silent_s > SILENCE_S:
                raise LostContactError(f"{who} has not answered for {silent_s:.0f} s: {str(error).partition(chr(10))[0]}") from error
            if pause == PAUSE_S:
                say(f"{who} does not answer; trying again for {SILENCE_S:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, MOST_PAUSE_S)
