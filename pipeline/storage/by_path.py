"""Atomic writes for callers that still hold a path instead of a storage and a key; to be removed with the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.storage.local import LocalStorage

__all__ = ["appears_whole", "put_text"]


def put_text(path: Path, text: str) -> None:
    """Write a small file as :meth:`pipeline.storage.Storage.put` does, and the folders above it."""
    storage = LocalStorage(path.parent)
    storage.make()
    storage.put(path.name, text.encode())


@contextmanager
def appears_whole(path: Path) -> Iterator[Path]:
    """Give a path to write as :meth:`pipeline.storage.Storage.local_file` does, and make the folders above the file."""
    storage = LocalStorage(path.parent)
    storage.make()
    with storage.local_file(path.name, durable=False) as made:
        yield made
