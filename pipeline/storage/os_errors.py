"""Errors of the operating system, told with the path and the way out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import StoreError

__all__ = ["store_errors"]

WAYS_OUT = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space in your quota",
    errno.EACCES: "give yourself access",
    errno.EPERM: "give yourself access",
    errno.EROFS: "make it writable",
    errno.ENOTDIR: "remove the file that stands where a folder is needed",
    errno.EEXIST: "remove the file that stands where a folder is needed",
}


@contextmanager
def store_errors(path: Path | str) -> Iterator[None]:
    """Turn an OSError into one line that says where, why and what to do.

    Raises:
        StoreError: the ``with`` block raised an OSError.

    Example:
        >>> with store_errors("/full/run.json"):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        pipeline.errors.StoreError: /full/run.json: No space left on device; free space and run again: it resumes
    """
    try:
        yield
    except OSError as error:
        way_out = WAYS_OUT.get(error.errno or 0, "see to the disk")
        raise StoreError(f"{path}: {error.strerror or error}; {way_out} and run again: it resumes") from error
