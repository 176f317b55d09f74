"""Fixtures of the tests that train."""

from __future__ import annotations

import pytest

from tests.training.scene import write_scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    """A folder of six grey images with truth."""
    return write_scene(tmp_path_factory.mktemp("discs"))


@pytest.fixture
def mine(tmp_path):
    """A folder of six grey images with truth that a test may change."""
    return write_scene(tmp_path, 6)
