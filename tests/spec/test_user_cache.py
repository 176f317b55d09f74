"""What is kept for later runs: a convenience that never stands in the way."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from pipeline.storage import cache_folder, recall, remember


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gigaseg"


def test_what_is_kept_comes_back(home):
    """A result comes back under its kind and key, and under no other; a later one takes its place."""
    assert recall("trials", "k") is None
    remember("trials", "k", {"backend": "torch", "seconds": 0.1 + 0.2})
    assert recall("trials", "k") == {"backend": "torch", "seconds": 0.1 + 0.2}
    assert recall("trials", "other") is None
    assert recall("halos", "k") is None
    remember("trials", "k", {"backend": "openvino"})
    assert recall("trials", "k") == {"backend": "openvino"}
    assert [path.name for path in (home / "trials").iterdir()] == ["k.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", "\x00"])
def test_what_cannot_be_read_is_nothing(home, content):
    """A damaged file, or one that holds something else, is as good as none, and is replaced."""
    (home / "trials").mkdir(parents=True)
    (home / "trials" / "k.json").write_text(content)
    assert recall("trials", "k") is None
    remember("trials", "k", {"n": 1})
    assert recall("trials", "k") == {"n": 1}


def test_a_cache_that_cannot_be_written_is_left_alone(home):
    """A file that stands where the folder would be, or a home that is read-only, costs no run."""
    home.parent.mkdir(parents=True)
    home.touch()
    remember("trials", "k", {"n": 1})
    assert recall("trials", "k") is None
    assert home.read_bytes() == b""


def test_a_home_that_is_read_only_is_left_alone(home, monkeypatch):
    """Nothing is raised and nothing is written where the disk refuses."""

    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    home.mkdir(parents=True)
    for call in ("mkdir", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            remember("trials", "k", {"n": 1})
        assert recall("trials", "k") is None
    assert list(home.rglob("*.json")) == []


def test_the_folder_is_where_caches_are(home, monkeypatch):
    """XDG_CACHE_HOME where it is set, else .cache of the home folder; asking for it makes nothing."""
    assert cache_folder("trials") == home / "trials"
    assert not home.exists()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("trials") == Path.home() / ".cache" / "gigaseg" / "trials"


def test_a_result_is_json_for_other_tools(home):
    """Any tool reads what is kept."""
    remember("trials", "k", {"a": [1, None, "x"]})
    assert json.loads((home / "trials" / "k.json").read_text()) == {"a": [1, None, "x"]}
