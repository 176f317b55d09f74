"""The libraries of others are the ones that are named."""

from __future__ import annotations

import hashlib

import pytest

from pipeline.web import VENDOR
from tests.web.vendoring import LIBRARIES, Library


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda one: one.package)
def test_a_library_is_the_one_that_is_named(library: Library) -> None:
    """No byte of a library differs from what npm ships, and its licence lies beside it."""
    assert hashlib.sha256(library.path.read_bytes()).hexdigest() == library.sha256
    assert "copyright" in library.license_path.read_text(encoding="utf-8").lower()


def test_nothing_else_is_vendored() -> None:
    """Every file of the folder belongs to a library of the list."""
    known = {path for one in LIBRARIES for path in (one.path, one.license_path)}
    assert set(VENDOR.iterdir()) == known
