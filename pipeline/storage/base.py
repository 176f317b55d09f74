"""What every storage can do with bytes, whether they lie in a folder, in memory or in a bucket.

A storage is a root; a key is a path below it. Files are replaced as a whole, so that a reader never needs a lock::

    storage = open_storage("runs/demo")            a folder; "memory://demo" for tests and notebooks
    storage.put("run.json", b"{}")                 readers see the old bytes or the new ones
    storage.create("ledger/epoch-000001.json", b"me")    of any number of callers one gets True
    storage.below("masks")                         the storage whose keys lie under masks/
"""

from __future__ import annotations

import copy
import io
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Self

from pipeline.errors import InputError, Problem, StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["Storage", "StorageLike"]


class Storage(ABC):
    """Bytes by key under one root. A value: two storages of one URL are equal, and a storage travels between processes.

    Keys are relative and have ``/`` between their parts. Every method raises StoreError where the storage fails, and InputError
    where a key leads out of the root. ``durable`` means that what was written survives a power cut once the call has returned;
    without it a call is faster, and what it wrote may be gone after a power cut.
    """

    is_shared: ClassVar[bool] = True
    """Whether every process that opens the URL finds the same bytes."""

    is_read_only: ClassVar[bool] = False
    """Whether nothing can be written there, whoever asks."""

    segment_bytes: ClassVar[int] = 1 << 20
    """How large a file should grow by :meth:`append` before the caller begins the next one."""

    guard: Callable[[], None] | None = None
    """Called right before a change becomes visible; raises where the caller may not write any more. See :meth:`guarded`."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The text from which :func:`pipeline.storage.open_storage` opens an equal storage."""

    @abstractmethod
    def below(self, prefix: str) -> Storage:
        """Return the storage whose root is ``prefix``; nothing is read or written."""

    @abstractmethod
    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Return bytes ``start`` to ``stop`` (None: the end), fewer where the file is shorter; None where there is no file."""

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Return the size of a file in bytes; None where there is no file."""

    def sizes(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Return the size of each of many files in bytes, None where there is no file: faster than asking for one after the other."""
        return {key: self.size(key) for key in keys}

    def version(self, key: str) -> str | None:
        """Return a text that differs after each change of a file, as far as the storage can tell; None where there is no file."""
        size = self.size(key)
        return None if size is None else str(size)

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """Return every key that begins with ``prefix``, sorted; files that are being written are left out."""

    @abstractmethod
    def put(self, key: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        """Write or replace a file; a reader sees the old bytes or the new ones, never a part."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Write a durable file that does not exist yet; of any number of callers exactly one gets True."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a file; nothing happens where there is none. A power cut may bring it back."""

    @abstractmethod
    def delete_tree(self, prefix: str) -> None:
        """Remove every file below ``prefix``, which is not empty. A power cut may bring them back."""

    @abstractmethod
    def replace_tree(self, prefix: str) -> AbstractContextManager[Storage]:
        """Give an empty storage, whose files take the place of those below ``prefix`` when the ``with`` block ends well.

        When the block fails, the files below ``prefix`` stay as they are.
        """

    def guarded(self, guard: Callable[[], None] | None) -> Self:
        """Return an equal storage that calls ``guard`` right before each of its changes becomes visible, also in storages below it.

        A process that has lost the right to write may be in the middle of a write: what it has written so far is dropped.
        ``guard`` travels with the storage, so it can be pickled.
        """
        made = copy.copy(self)
        made.guard = guard
        return made

    def _before_change(self) -> None:
        """Ask the guard, if there is one; a storage calls this right before anything is written over, added or removed."""
        if self.guard is not None:
            self.guard()

    def creates_once(self) -> bool:
        """Return whether :meth:`create` keeps its promise; some servers of object stores let every caller win."""
        return True

    def append(self, key: str, data: bytes, at: int | None = None, *, durable: bool = True) -> None:
        """Write ``data`` at the end of a file, which is made where it is missing.

        One process at a time may append to a file. Where a storage cannot write behind a file's end, as object stores cannot,
        the whole file is written again: see :attr:`segment_bytes`.

        Args:
            key: of the file.
            data: what to append.
            at: number of bytes written so far; a shorter file raises StoreError. A call that failed may be repeated: what it
                wrote behind ``at`` is overwritten. None: the end of the file as it is.
            durable: see the class.
        """
        before = self.get(key, 0, at) or b""
        if at is not None and len(before) < at:
            raise StoreError(f"{self.url}/{key}: has {len(before)} bytes, and {at} were written: another program has cut the file")
        self.put(key, before + data, durable=durable)

    def open(self, key: str) -> BinaryIO:
        """Open a file for reading, seekable; raises FileNotFoundError where there is none."""
        data = self.get(key)
        if data is None:
            raise FileNotFoundError(f"{self.url}/{key}")
        return io.BytesIO(data)

    @contextmanager
    def local_file(self, key: str, *, durable: bool = True) -> Iterator[Path]:
        """Give the path of a local file to write, which becomes the file ``key`` when the ``with`` block ends well.

        The path ends as the key does. When the block fails, the file ``key`` stays as it is.
        """
        with tempfile.TemporaryDirectory(prefix="gigaseg-") as folder:
            path = Path(folder, self._checked(key).rpartition("/")[2])
            yield path
            self.put(key, path.read_bytes(), durable=durable)

    @contextmanager
    def local_folder(self, prefix: str) -> Iterator[Path]:
        """Give the path of a local folder that holds the files below ``prefix`` inside the ``with`` block, to read."""
        with tempfile.TemporaryDirectory(prefix="gigaseg-") as folder:
            for key in self.list(f"{prefix}/"):
                path = Path(folder, key.removeprefix(f"{prefix}/"))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.get(key) or b"")
            yield Path(folder)

    def zarr(self, prefix: str = "") -> Store:
        """Return the files below ``prefix`` as a read-only store of zarr-python."""
        from pipeline.storage.zarr_store import ZarrStore

        return ZarrStore(self.below(prefix) if prefix else self)

    def has(self, name: str) -> bool:
        """Return whether anything has a name: a file, or a folder with files in it; in a folder of a disk also an empty one, or a link."""
        return self.size(name) is not None or bool(self.list(f"{name}/"))

    def exists(self) -> bool:
        """Return whether there is anything at the root: a folder, even an empty one, or a file below it."""
        return bool(self.list())

    def make(self) -> None:  # noqa: B027 - most storages have no folders to make
        """Make the root, where a storage has folders: without it, every other method of such a storage raises StoreError."""

    def remove_if_empty(self) -> None:  # noqa: B027 - nor to remove
        """Remove the root, where a storage has folders, unless something is in it."""

    def remove_leftovers(self, older_than_s: float) -> None:  # noqa: B027 - most storages leave nothing behind
        """Remove files that killed processes began and that have not changed for so many seconds, where a storage has any."""

    def __str__(self) -> str:
        """Return the URL, for messages."""
        return self.url

    def __repr__(self) -> str:
        """Return the class and the URL."""
        return f"{type(self).__name__}({self.url!r})"

    def __eq__(self, other: object) -> bool:
        """Return whether the other is the same kind of storage at the same URL."""
        return isinstance(other, Storage) and type(self) is type(other) and self.url == other.url

    def __hash__(self) -> int:
        """Hash the URL."""
        return hash(self.url)

    def _checked(self, key: str) -> str:
        """Return a key; raises InputError where it is empty, absolute, has an empty part, ``.`` or ``..``, or a NUL."""
        if "\0" in key or not {"", ".", ".."}.isdisjoint(key.split("/")):
            raise InputError(Problem(self.url, repr(key), "a path inside this folder"))
        return key

    def _checked_prefix(self, prefix: str) -> str:
        """Return what keys may begin with: as :meth:`_checked`, and the last part may be empty."""
        if folder := prefix.rpartition("/")[0]:
            self._checked(folder)
        if prefix.startswith("/") or "\0" in prefix:
            self._checked(prefix)
        return prefix


StorageLike = Storage | str | os.PathLike[str]
"""A storage, or the URL or path that opens one."""
