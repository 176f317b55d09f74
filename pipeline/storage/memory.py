"""The memory of this process: small jobs that leave no files, and tests."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar
from uuid import uuid4

from typing_extensions import override

from pipeline.storage.base import Storage

__all__ = ["MemoryStorage"]

_files: dict[str, bytes] = {}
_lock = threading.RLock()


class MemoryStorage(Storage):
    """A part of this process's memory, ``memory://NAME/PREFIX``; other processes that open the name see a memory of their own.

    The bytes stay until they are deleted or the process ends. Nothing here outlives a power cut.

    Example:
        >>> storage = MemoryStorage("memory://example")
        >>> storage.put("a/b", b"12")
        >>> storage.below("a").get("b"), storage.list()
        (b'12', ['a/b'])
        >>> storage.delete_tree("a")
    """

    is_shared: ClassVar[bool] = False

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    @property
    @override
    def url(self) -> str:
        return self._url

    @override
    def below(self, prefix: str) -> MemoryStorage:
        return MemoryStorage(self._name(prefix)).guarded(self.guard)

    @override
    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        data = _files.get(self._name(key))
        return None if data is None else data[start:stop]

    @override
    def size(self, key: str) -> int | None:
        data = _files.get(self._name(key))
        return None if data is None else len(data)

    @override
    def version(self, key: str) -> str | None:
        data = _files.get(self._name(key))
        return None if data is None else hashlib.blake2b(data, digest_size=16).hexdigest()

    @override
    def list(self, prefix: str = "") -> list[str]:
        start = f"{self.url}/{self._checked_prefix(prefix)}"
        with _lock:
            names = [name for name in _files if name.startswith(start)]
        return sorted(name.removeprefix(f"{self.url}/") for name in names)

    @override
    def put(self, key: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        self._before_change()
        with _lock:
            _files[self._name(key)] = bytes(data)

    @override
    def create(self, key: str, data: bytes) -> bool:
        name = self._name(key)
        self._before_change()
        with _lock:
            if name in _files:
                return False
            _files[name] = bytes(data)
        return True

    @override
    def delete(self, key: str) -> None:
        self._before_change()
        with _lock:
            _files.pop(self._name(key), None)

    @override
    def delete_tree(self, prefix: str) -> None:
        folder = self.below(prefix)
        with _lock:
            for key in folder.list():
                folder.delete(key)

    @override
    @contextmanager
    def replace_tree(self, prefix: str) -> Iterator[Storage]:
        made, folder = MemoryStorage(f"memory://{uuid4()}"), self.below(prefix)
        try:
            yield made
            with _lock:
                self.delete_tree(prefix)
                for key in made.list():
                    folder.put(key, _files[made._name(key)])
        finally:
            for key in made.list():
                made.delete(key)

    def _name(self, key: str) -> str:
        return f"{self.url}/{self._checked(key)}"
