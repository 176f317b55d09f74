"""From a URL or a path to a storage."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable

from pipeline.errors import InputError, Problem
from pipeline.storage.base import Storage, StorageLike
from pipeline.storage.local import LocalStorage

__all__ = ["open_storage"]


def open_storage(where: StorageLike, *, to_write: bool = False) -> Storage:
    """Open the storage at a URL; a storage is returned as it is.

    ``SCHEME://...`` means the one public class of ``pipeline/storage/SCHEME.py``, which takes the URL: a new kind of storage is
    a new file. A path, or ``file://PATH``, is a folder.

    Args:
        where: the URL, the path, or a storage.
        to_write: refuse a kind of storage that can only be read.

    Raises:
        InputError: no storage has that scheme, a package that it needs is missing, or it can only be read.

    Example:
        >>> open_storage("memory://demo").below("masks"), open_storage("/data/runs")
        (MemoryStorage('memory://demo/masks'), LocalStorage('/data/runs'))
    """
    if isinstance(where, Storage):
        return where
    url = os.fspath(where)
    scheme = re.match(r"([a-z][a-z0-9]*)://", url, re.IGNORECASE)
    storage = LocalStorage(url) if scheme is None or scheme[1] == "file" else _class_of(scheme[1].lower(), url)(url)
    if to_write and storage.is_read_only:
        raise InputError(Problem(url, "a web server, which is only read", "a folder, or a URL of s3, gs or az"))
    return storage


def _class_of(scheme: str, url: str) -> Callable[[str], Storage]:
    target = f"pipeline.storage.{scheme}"
    unknown = Problem(
        url,
        f"the scheme {scheme}://",
        "a path, file://, s3://, gs://, az:// or memory://",
        f"To add it, create pipeline/storage/{scheme}.py.",
    )
    try:
        module = importlib.import_module(target)
    except ModuleNotFoundError as missing:
        if missing.name == target:
            raise InputError(unknown) from missing
        raise InputError(
            Problem(url, f"the scheme {scheme}://", "", f"It needs a package that is not installed: pip install {missing.name}")
        ) from missing
    public: object = getattr(module, module.__all__[0])
    if not isinstance(public, type) or not issubclass(public, Storage) or inspect.isabstract(public):
        raise InputError(unknown)
    made: Callable[[str], Storage] = public
    return made
