"""Paths and URLs, and the errors of the libraries that open and decode files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EINVAL, EIO, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM
from typing import TYPE_CHECKING

from pipeline.errors import BlockError, GigasegError, InputError, Problem, StoreError

if TYPE_CHECKING:
    from pipeline.geometry import Box

__all__ = ["asking", "bare_path", "is_remote", "local_path", "opening", "reading"]

LASTING = (ENOENT, ENOTDIR, EISDIR, EACCES, EPERM, ELOOP, ENAMETOOLONG, EINVAL)
"""Failures of the system that another try does not cure; a damaged offset in a file gives the last."""


class ServerError(OSError):
    """A server or a network failed; another try may succeed."""

    def __str__(self) -> str:
        """Return the message alone: the number of the error says nothing more."""
        return str(self.strerror)


def is_remote(path: str) -> bool:
    """Whether a path is a URL of a storage other than a disk of this machine.

    Example:
        >>> [is_remote(path) for path in ("s3://bucket/a.tif", "file:///a.tif", "/data/a.tif", "array://0f/a")]
        [True, False, False, False]
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None and not path.startswith(("file://", "array://"))


def bare_path(path: str) -> str:
    """Return a path on this machine without ``file://``, or a URL of a storage as it is."""
    return path.removeprefix("file://")


def local_path(path: str) -> str:
    """Return a path on this machine, without ``file://``; refuse another kind of URL."""
    if is_remote(path):
        way_out = "Copy the file to a disk, or convert it to OME-Zarr: gigaseg convert."
        raise InputError(Problem(path, "a format that is not read over a network, at a URL", "a path of this machine", way_out))
    return bare_path(path)


@contextmanager
def asking(url: str) -> Iterator[None]:
    """Turn the failures of a storage into an OSError: of an image, another try may succeed."""
    try:
        yield
    except StoreError as error:
        raise ServerError(EIO, str(error) if url in str(error) else f"{url}: {error}") from error


@contextmanager
def opening(path: str) -> Iterator[None]:
    """Turn what a library raises on a header into an :class:`~pipeline.errors.InputError` that names the file.

    A failure that may be temporary stays an OSError, see :func:`_temporary`.
    """
    try:
        with asking(path):
            yield
    except GigasegError:
        raise
    except FileNotFoundError as error:
        raise InputError(Problem(path, "no file at this URL" if is_remote(path) else "no file at this path")) from error
    except Exception as error:  # decoders raise anything at all on a damaged header
        damaged = InputError(Problem(path, f"a file that cannot be opened ({type(error).__name__}: {error})"))
        raise (_temporary(error, path) or damaged) from error


@contextmanager
def reading(path: str, box: Box) -> Iterator[None]:
    """Turn what a library raises while it decodes into a :class:`~pipeline.errors.BlockError` that names file and region.

    A failure that may be temporary stays an OSError, see :func:`_temporary`.
    """
    try:
        with asking(path):
            yield
    except (GigasegError, MemoryError):
        raise
    except BaseException as error:  # decoders may raise anything on damaged pixels
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # zarrs raises a BaseException
            raise
        where = f"{path}: rows {box.y0}..{box.y1}, columns {box.x0}..{box.x1}"
        damaged = BlockError(f"{where}: cannot be decoded ({type(error).__name__}: {error})")
        raise (_temporary(error, where) or damaged) from error


def _temporary(error: BaseException, where: str) -> OSError | None:
    """Return an error that names the place of a failure of the system (a lost mount, no free handle); None for any other failure.

    Example:
        >>> _temporary(OSError(5, "Input/output error"), "a.tif"), _temporary(OSError("image file is truncated"), "a.tif")
        (OSError(5, 'a.tif: Input/output error'), None)
    """
    if isinstance(error, ServerError):
        return error
    in_text = re.search(r"\(os error (\d+)\)", str(error))  # zarrs puts the number into the text alone
    number = error.errno if isinstance(error, OSError) else int(in_text[1]) if in_text else None
    return None if number is None or number in LASTING else OSError(number, f"{where}: {os.strerror(number)}")
