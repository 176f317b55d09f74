"""Paths as the YAML writes them: files, folders, globs, URLs and samples."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from pipeline.errors import Problem

__all__ = ["absolute", "expand", "is_pattern", "is_remote", "is_sample", "missing", "plain", "split_pattern"]

SAMPLE = "sample:"
_ESCAPED = re.compile(r"\[([*?\[])\]")


def is_sample(text: str) -> bool:
    """Whether it names a sample, such as ``sample:nuclei``."""
    return text.startswith(SAMPLE)


def is_remote(text: str) -> bool:
    """Whether it is a URL (``scheme://``), which is kept as it is."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def is_pattern(text: str) -> bool:
    """Whether wildcards are meant; a file that has such a name is that file."""
    return glob.has_magic(text) and not os.path.lexists(text)


def absolute(text: str, base: Path) -> str:
    """Return a path of the YAML as an absolute one; URLs, samples and ``{image}`` or ``{folder}`` in front stay.

    Example:
        >>> absolute("more/../slides/*.tif", Path("/data")), absolute("s3://bucket/a.ome.zarr", Path("/data"))
        ('/data/slides/*.tif', 's3://bucket/a.ome.zarr')
        >>> absolute("*.tif", Path("/data/[1]"))
        '/data/[[]1]/*.tif'
    """
    if not text or is_remote(text) or is_sample(text) or text.startswith(("{image}", "{folder}")):
        return text
    exact = plain(text, base)
    if text.startswith(("/", "~/")) or not glob.has_magic(text) or os.path.lexists(exact):
        return exact
    return plain(text, Path(glob.escape(str(base))))


def plain(text: str, base: Path) -> str:
    """Return a path as an absolute one, whatever letters it holds; ``~/`` is the home folder.

    Example:
        >>> plain("../a[1].tif", Path("/data/lists"))
        '/data/a[1].tif'
    """
    path = Path(text).expanduser() if text.startswith("~/") else Path(text)
    return os.path.normpath(base / path)  # not Path.resolve: a link keeps the name it was given


def split_pattern(pattern: str) -> tuple[str, str]:
    """Split a glob into the folder before its first wildcard and the rest.

    Example:
        >>> split_pattern("/data/[[]1]/*/a.tif")
        ('/data/[1]', '*/a.tif')
    """
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if glob.has_magic(_ESCAPED.sub("", part)))
    return _ESCAPED.sub(r"\1", "/".join(parts[:first])) or "/", "/".join(parts[first:])


def expand(pattern: str) -> list[str]:
    """Return what a glob matches, sorted; ``**`` is any number of folders, and hidden files are left out."""
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes hidden files too


def missing(text: str, where: str) -> Problem | None:
    """Return the problem of an image that is not there; None where there is one, or where it cannot be known yet."""
    if is_remote(text) or is_sample(text) or Path(text).exists():
        return None
    if not glob.has_magic(text):
        return Problem(where, f"{text!r}, which does not exist", "a file, a folder, a glob, a URL or a CSV list")
    if not expand(text):
        return Problem(where, f"{text!r}, which matches nothing", "a glob that matches at least one image")
    return None
