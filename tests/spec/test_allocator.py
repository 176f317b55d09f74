"""Freed memory is kept for the next tile, where the C library can be told so and the user has not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.allocator import ENVIRONMENT, keep_freed_memory, libc

FAULTS = """
import resource, sys
import numpy as np
from pipeline.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not libc().startswith("glibc"), reason="not glibc")
def test_large_buffers_are_not_faulted_in_again():
    """A buffer of 64 MiB that is made again and again costs next to no page faults; without it, all of them each time."""
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("plain", "keep")
    )
    assert kept < plain / 10


def test_what_the_environment_says_stays(monkeypatch):
    """Where the user has said how memory is handled, nothing is changed."""
    monkeypatch.setenv(next(iter(ENVIRONMENT)), "1")
    monkeypatch.setattr("pipeline.allocator.ctypes", None)
    assert keep_freed_memory()


def test_other_libraries_are_left_alone(monkeypatch):
    """Without glibc nothing is called, and nobody is told that it was."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pipeline.allocator.libc", lambda: "")
    monkeypatch.setattr("pipeline.allocator.ctypes", None)
    assert not keep_freed_memory()
