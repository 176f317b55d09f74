"""An error of the operating system becomes one line with the path, the reason and the way out."""

from __future__ import annotations

import errno
import os

import pytest

from pipeline.errors import StoreError
from pipeline.storage import store_errors


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "free space in your quota"),
        (errno.EACCES, "give yourself access"),
        (errno.EROFS, "make it writable"),
        (errno.ENOTDIR, "remove the file that stands where a folder is needed"),
        (errno.EIO, "see to the disk"),
    ],
)
def test_each_reason_has_its_way_out(number, way_out):
    """The line says where, why, what to do, and that the run resumes; the cause is kept for a developer."""
    with pytest.raises(StoreError) as told, store_errors("/runs/a"):
        raise OSError(number, os.strerror(number))
    assert str(told.value) == f"/runs/a: {os.strerror(number)}; {way_out} and run again: it resumes"
    assert told.value.exit_code == 1
    assert isinstance(told.value.__cause__, OSError)


def test_an_error_without_a_number_says_what_it_says():
    """Libraries raise OSError with a text alone."""
    with pytest.raises(StoreError, match="^/runs/a: the server hung up; see to the disk"), store_errors("/runs/a"):
        raise OSError("the server hung up")


def test_other_errors_pass():
    """A fault of the program is not blamed on the disk, and what goes well raises nothing."""
    with store_errors("/runs/a"):
        pass
    for error in (ValueError("x"), KeyboardInterrupt(), StoreError("told already")):
        with pytest.raises(type(error)) as told, store_errors("/runs/a"):
            raise error
        assert told.value is error
