"""What a run records of the machine and the packages that it was executed with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata

from pipeline import __version__
from pipeline.records import hardware, run_folder, versions


def test_versions_are_those_that_are_installed(monkeypatch):
    """gigaseg, Python and every installed package that can change the numbers; what is not installed is left out."""
    found = versions()
    assert (found["gigaseg"], found["python"]) == (__version__, platform.python_version())
    assert found["numpy"] == metadata.version("numpy")
    monkeypatch.setattr(run_folder, "PACKAGES", ("numpy", "no-such-package"))
    assert set(versions()) == {"gigaseg", "python", "numpy"}


def test_no_package_is_loaded_to_ask_for_its_version():
    """Asking costs no import of torch or Ray."""
    code = "import sys; from pipeline.records import versions; versions(); print('torch' in sys.modules, 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False False\n"


def test_hardware_is_what_this_process_may_use(monkeypatch):
    """Host, system and memory are the machine's; cores are those that the process may run on; all of it is JSON."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    found = hardware()
    assert (found["host"], found["system"], found["cores"]) == (platform.node(), platform.platform(), 3)
    assert found["memory_bytes"] > 2**20
    assert json.loads(json.dumps(found)) == found
