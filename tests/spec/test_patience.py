"""Schedulers that do not answer: asked again for a while, then given up."""

from __future__ import annotations

import itertools

import pytest

from pipeline.targets import _patience
from pipeline.targets._patience import LostContactError, patiently


def asking(*answers):
    """A question that raises or returns one answer after the other."""
    left = iter(answers)

    def ask():
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(_patience, "PAUSE_S", 0.01)
    monkeypatch.setattr(_patience, "SILENCE_S", 0.2)


def test_a_scheduler_is_asked_again(capsys):
    """What it says after two refused connections counts; that it was silent is told once."""
    ask = asking(ConnectionError("refused"), ConnectionError("refused"), "fine")
    assert patiently(ask, "http://head:8265", OSError) == "fine"
    assert capsys.readouterr().err.count("http://head:8265 does not answer") == 1


def test_a_long_silence_ends_the_waiting():
    """The last error is told; an error of another kind is no silence."""
    with pytest.raises(LostContactError, match="Slurm has not answered for 0 s: refused"):
        patiently(asking(*itertools.repeat(ConnectionError("refused\nat length"), 99)), "Slurm", OSError)
    with pytest.raises(ValueError, match="wrong"):
        patiently(asking(ValueError("wrong")), "Slurm", OSError)
