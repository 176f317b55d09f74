"""What happens to freed memory: kept for the next tile or given back, where the C library can be told and the user has not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.backends._process import MALLOC_VARIABLES, give_back_freed_memory, keep_freed_memory, libc

FAULTS = """
import resource
import numpy as np
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEEP = "from pipeline.backends._process import keep_freed_memory\nassert keep_freed_memory()\n"
GIVE = "from pipeline.backends._process import give_back_freed_memory\nassert give_back_freed_memory()\n"
OPEN = """
import torch
from pipeline.plugins import build
from pipeline.config import Recipe
with build("backends", {{"name": "{name}"}}).open(torch.nn.Conv2d(3, 2, 1), Recipe(backend="{name}"), None):
    pass
"""

glibc = pytest.mark.skipif(not libc().startswith("glibc"), reason="not glibc")


def faults(prepare: str) -> int:
    """Page faults of making a buffer of 64 MiB again and again."""
    return int(subprocess.run([sys.executable, "-c", prepare + FAULTS], capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def few() -> float:
    """Far fewer faults than where nobody said anything, even if pages are larger by then."""
    return faults("") / 50


@glibc
def test_large_buffers_are_not_faulted_in_again(few):
    """A buffer that is made again and again costs next to no page faults."""
    assert faults(KEEP) < few


@glibc
def test_large_buffers_are_given_back_again(few):
    """Who was told to keep what is freed can be told to give it back, and the other way round."""
    assert faults(KEEP + GIVE) > few
    assert faults(GIVE + KEEP) < few


@glibc
@pytest.mark.parametrize(("name", "keeps"), [("torch", True), ("onnxruntime", True), ("openvino", False)])
def test_each_backend_says_what_suits_it(name, keeps, few):
    """Freed memory is kept for eager torch, and given back beside OpenVINO, which holds what it computes in."""
    pytest.importorskip(name)
    assert (faults(OPEN.format(name=name)) < few) == keeps


@pytest.mark.parametrize("tell", [keep_freed_memory, give_back_freed_memory])
@pytest.mark.parametrize("name", MALLOC_VARIABLES)
def test_what_the_environment_says_stays(name, tell, monkeypatch):
    """Where the user has said how memory is handled, nothing is changed."""
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr("pipeline.backends._process.ctypes", None)
    assert tell()


@pytest.mark.parametrize("tell", [keep_freed_memory, give_back_freed_memory])
def test_other_libraries_are_left_alone(tell, monkeypatch):
    """Without glibc nothing is called, and nobody is told that it was."""
    for name in MALLOC_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pipeline.backends._process.libc", lambda: "")
    monkeypatch.setattr("pipeline.backends._process.ctypes", None)
    assert not tell()
