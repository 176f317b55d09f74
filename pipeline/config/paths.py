"""Paths as the YAML writes them: files, folders, globs, URLs and samples."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
import zipfile
from contextlib import suppress
from pathlib import Path

from pipeline.errors import Problem

__all__ = [
    "absolute_path",
    "absolute_source",
    "as_spelled",
    "check_exists",
    "exists",
    "expand_glob",
    "is_glob",
    "is_sample",
    "is_url",
    "normal_form",
    "split_glob",
]

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
    first = next(index for index, part in enumerate(parts) if _has_wildcard(part))
    return _ESCAPED.sub(r"\1", "/".join(parts[:first])) or "/", "/".join(parts[first:])


def _has_wildcard(text: str) -> bool:
    return glob.has_magic(_ESCAPED.sub("", text))


def normal_form(name: str) -> str:
    """Return a name in Unicode's form NFC, so that names that look alike are equal on every system."""
    return unicodedata.normalize("NFC", name)


def as_spelled(text: str) -> str:
    """Return a path or a glob as the disk spells it, whether the user wrote NFC or NFD.

    A path that exists as given, or in no form, is returned unchanged.
    """
    if text.isascii() or is_url(text) or is_sample(text) or os.path.lexists(text):
        return text
    if _has_wildcard(text):
        root, rest = split_glob(text)
        return f"{glob.escape(as_spelled(root))}/{rest}"
    for form in (normal_form(text), unicodedata.normalize("NFD", text)):
        if os.path.lexists(form):
            return form
    path = Path(text)
    folder, wanted = Path(as_spelled(str(path.parent))), normal_form(path.name)
    alike = sorted(entry.name for entry in folder.iterdir() if normal_form(entry.name) == wanted) if folder.is_dir() else []
    return str(folder / (alike[0] if alike else path.name))


def exists(path: str) -> bool:
    """Whether a file or folder exists, on the disk or in a zip; False for a name too long for the system."""
    return os.path.exists(path) or _is_in_zip(path)  # noqa: PTH110 - Path.exists raises where a name is too long


def _is_in_zip(path: str) -> bool:
    """Whether a path such as ``a.ome.zarr.zip/labels/nuclei`` exists inside a zip, at its root or in its one folder."""
    above = next((str(parent) for parent in Path(path).parents if os.path.exists(parent)), "/")  # noqa: PTH110 - as above
    if not zipfile.is_zipfile(above):
        return False
    inside = path.removeprefix(above).strip("/")
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(above) as packed:
        return any(f"/{inside}/" in f"/{name}" for name in packed.namelist())
    return False


def expand_glob(pattern: str) -> list[str]:
    """Return the paths that a glob matches, sorted and without hidden files; ``**`` is any number of folders.

    The folder before the first wildcard must be spelled as on the disk; the rest matches names in NFC and in NFD.
    """
    patterns = {pattern}
    if not pattern.isascii() and _has_wildcard(pattern):
        root, rest = split_glob(pattern)
        patterns |= {f"{glob.escape(root)}/{unicodedata.normalize(form, rest)}" for form in ("NFC", "NFD")}
    return sorted({path for one in patterns for path in glob.glob(one, recursive=True)})  # noqa: PTH207 - Path.glob matches hidden files as well


def check_exists(text: str, where: str) -> Problem | None:
    """Return the problem of an entry of ``images`` that does not exist; None for URLs and samples, which are looked up later."""
    text = as_spelled(text)
    if is_url(text) or is_sample(text) or exists(text):
        return None
    if not glob.has_magic(text):
        return Problem(where, f"{text!r}, which does not exist", "a file, a folder, a glob, a URL or a CSV list")
    if not expand_glob(text):
        return Problem(where, f"{text!r}, which matches nothing", "a glob that matches at least one image")
    return None
