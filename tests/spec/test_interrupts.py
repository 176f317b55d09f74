"""Ctrl-C and SIGTERM: who answers, and that none is lost."""

from __future__ import annotations

import importlib
import signal
import threading
import time
from contextlib import suppress

import pytest

from pipeline.system import handle_signals, remember_interrupts


def handlers():
    return [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]


def test_a_swallowed_ctrl_c_is_raised_where_work_begins():
    """What a library swallowed while it was imported ends the program before its first block."""
    before = handlers()
    with remember_interrupts():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), handle_signals(lambda *_: None):
            pytest.fail("work began")
    assert handlers() == before


def test_an_import_is_not_broken_off(tmp_path, monkeypatch):
    """A Ctrl-C inside an import is raised when that is over, so that no lock of Python's stays behind."""
    (tmp_path / "interrupted_module.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nended = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    before, seen = handlers(), []

    def work():
        seen.append(importlib.import_module("interrupted_module"))
        time.sleep(10)

    with remember_interrupts(), pytest.raises(KeyboardInterrupt):
        work()
    assert seen[0].ended
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert handlers() == before


def test_a_program_that_does_not_end_is_asked_again(monkeypatch):
    """Whatever lock the first KeyboardInterrupt left behind, a second one ends the wait for it."""
    monkeypatch.setattr("pipeline.system.interrupts.RETRY_S", 0.05)
    lock = threading.Lock()
    lock.acquire()
    with remember_interrupts():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            lock.acquire(timeout=10)


def test_an_earlier_program_is_forgotten():
    """A second program of the same process is not ended by what the first one was asked."""
    with remember_interrupts(), suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with remember_interrupts(), handle_signals(lambda *_: None):
        pass


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_the_handler_answers_and_goes(kind):
    """Inside, the handler is called, also after another was put in its place; outside, all is as before."""
    before, heard = handlers(), []
    with remember_interrupts(), handle_signals(lambda number, _frame: heard.append(number)) as install:
        signal.raise_signal(kind)
        signal.signal(kind, signal.SIG_IGN)
        install()
        signal.raise_signal(kind)
    assert heard == [kind, kind]
    assert handlers() == before


def test_another_thread_changes_nothing():
    """Outside of the main thread, where Python allows no handlers, work goes on without."""
    before, seen = handlers(), []

    def work():
        with remember_interrupts(), handle_signals(lambda *_: None):
            seen.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_one_that_cannot_be_passed_on_is_raised_again_and_not_shown(capsys):
    """A Ctrl-C inside a ``__del__`` ends the program soon after, without Python's message; that of another error is shown."""

    class Held:
        def __init__(self, end):
            self.end = end

        def __del__(self):
            self.end()

    def fail():
        raise ValueError("not an interrupt")

    def wait_after_interrupt():
        Held(lambda: signal.raise_signal(signal.SIGINT))
        time.sleep(10)

    with remember_interrupts():
        with pytest.raises(KeyboardInterrupt):
            wait_after_interrupt()
        assert capsys.readouterr().err == ""
        Held(fail)
        assert "not an interrupt" in capsys.readouterr().err
