"""A call that is repeated in the background, until the block ends and not a moment longer."""

from __future__ import annotations

import threading
from contextlib import suppress

from pipeline.records.run_lock import repeating


def test_it_is_called_again_and_again():
    """The action is called in another thread for as long as the block goes on."""
    calls, often = [], threading.Event()

    def action():
        calls.append(threading.current_thread())
        if len(calls) == 3:
            often.set()

    with repeating(action, pause_s=0.001):
        assert often.wait(10)
    assert threading.current_thread() not in calls


def test_it_ends_with_the_block():
    """After the block, an error in it included, no call begins and none is still going on."""
    calls, first = [], threading.Event()

    def action():
        first.set()
        calls.append(len(calls))

    before = threading.active_count()
    with suppress(RuntimeError), repeating(action, pause_s=0.001):
        first.wait(10)
        raise RuntimeError
    number = len(calls)
    threading.Event().wait(0.02)
    assert len(calls) == number
    assert threading.active_count() == before


def test_a_long_pause_does_not_hold_the_end_up():
    """The first call comes after a pause, and the end does not wait for it."""
    calls = []
    with repeating(lambda: calls.append(1), pause_s=3600):
        pass
    assert calls == []
