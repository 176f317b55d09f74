"""Paths as the YAML writes them: files, folders, globs, URLs and samples."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from pipeline.errors import Problem

__all__ = ["absolute_path", "absolute_source", "check_exists", "expand_glob", "is_glob", "is_sample", "is_url", "split_glob"]

SAMPLE = "sample:"
_ESCAPED = re.compile(r"\[([*?\[])\]")


def is_sample(text: str) -> bool:
    """Whether a text names a sample, such as ``sample:nuclei``."""
    return text.startswith(SAMPLE)


def is_url(text: str) -> bool:
    """Whether a text is a URL (``scheme://``)."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def is_glob(text: str) -> bool:
    """Whether a text holds wildcards and is no file's name."""
    return glob.has_magic(text) and not os.path.lexists(text)


def absolute_source(text: str, base: Path) -> str:
    """Return an entry of ``images`` or ``truth`` with an absolute path; URLs, samples and a leading placeholder stay.

    Example:
        >>> absolute_source("more/../slides/*.tif", Path("/data")), absolute_source("s3://bucket/a.ome.zarr", Path("/data"))
        ('/data/slides/*.tif', 's3://bucket/a.ome.zarr')
        >>> absolute_source("*.tif", Path("/data/[1]"))
        '/data/[[]1]/*.tif'
    """
    if not text or is_url(text) or is_sample(text) or text.startswith(("{image}", "{folder}")):
        return text
    exact = absolute_path(text, base)
    if text.startswith(("/", "~/")) or not glob.has_magic(text) or os.path.lexists(exact):
        return exact
    return absolute_path(text, Path(glob.escape(str(base))))


def absolute_path(text: str, base: Path) -> str:
    """Return the absolute path of a text that is no glob; ``~/`` is the home folder."""
    path = Path(text).expanduser() if text.startswith("~/") else Path(text)
    return os.path.normpath(base / path)  # Path.resolve would replace a link by its target


def split_glob(pattern: str) -> tuple[str, str]:
    """Split a glob into the folder before its first wildcard and the rest.

    Example:
        >>> split_glob("/data/[[]1]/*/a.tif")
        ('/data/[1]', '*/a.tif')
    """
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if glob.has_magic(_ESCAPED.sub("", part)))
    return _ESCAPED.sub(r"\1", "/".join(parts[:first])) or "/", "/".join(parts[first:])


def expand_glob(pattern: str) -> list[str]:
    """Return the paths that a glob matches, sorted and without hidden files; ``**`` is any number of folders."""
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob matches hidden files as well


def check_exists(text: str, where: str) -> Problem | None:
    """Return the problem of an entry of ``images`` that does not exist; None for URLs and samples, which are looked up later."""
    if is_url(text) or is_sample(text) or Path(text).exists():
        return None
    if not glob.has_magic(text):
        return Problem(where, f"{text!r}, which does not exist", "a file, a folder, a glob, a URL or a CSV list")
    if not expand_glob(text):
        return Problem(where, f"{text!r}, which matches nothing", "a glob that matches at least one image")
    return None
