"""Sizes and versions of the files of a storage: one request for a file, one listing for a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.storage._object_store import ObjectStorage
from pipeline.storage.base import Storage
from pipeline.storage.local_files import is_unfinished

__all__ = ["Entry", "Folder", "entries_below", "entry_of", "folder_of", "is_seen", "read_version"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a storage."""

    key: str
    size: int  # bytes
    version: str  # a file that was replaced has another one


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies directly in a folder."""

    files: Mapping[str, Entry] = field(default_factory=dict)  # by name, sorted
    folders: tuple[str, ...] = ()  # names, sorted


def entry_of(storage: Storage, key: str) -> Entry | None:
    """Return what is known of a file; None where there is none."""
    if isinstance(storage, ObjectStorage):
        import obstore

        try:
            return _entry(key, _ask(storage, key, obstore.head))
        except FileNotFoundError:
            return None
    version, size = storage.version(key), storage.size(key)
    return None if version is None or size is None else Entry(key, size, version)


def is_seen(storage: Storage, key: str) -> bool:
    """Whether a file can be seen, by one request that is not repeated; where access is refused, it cannot."""
    if isinstance(storage, ObjectStorage):
        import obstore
        from obstore.exceptions import BaseError

        try:
            store, name = storage.address(key)
            obstore.head(store, name)
        except (BaseError, OSError):
            return False
        return True
    return storage.size(key) is not None


def entries_below(storage: Storage) -> list[Entry]:
    """Return every file of a storage, sorted by key."""
    if isinstance(storage, ObjectStorage):
        import obstore

        start = len(storage.prefix) + 1 if storage.prefix else 0
        try:
            found = _ask(storage, "", lambda store, name: list(obstore.list(store, name or None, chunk_size=1000)))
        except FileNotFoundError:  # how some servers say that nothing lies below a prefix
            return []
        below = (_entry(str(one["path"])[start:], one) for page in found for one in page)
        # Without a key: the empty object that consoles put in the place of a folder.
        return _sorted(entry for entry in below if entry.key and not any(map(is_unfinished, entry.key.split("/"))))
    entries = (entry_of(storage, key) for key in storage.list())
    return [entry for entry in entries if entry is not None]


def folder_of(storage: Storage) -> Folder:
    """Return what lies directly at the root of a storage; an object store lists nothing below the folders there."""
    if isinstance(storage, ObjectStorage):
        import obstore

        try:
            found = _ask(storage, "", lambda store, name: obstore.list_with_delimiter(store, name or None))
        except FileNotFoundError:
            return Folder()
        # As above: the object of the folder's own name is no file in it.
        files = [_entry(str(one["path"]).rpartition("/")[2], one) for one in found["objects"] if one["path"] != storage.prefix]
        here = {entry.key: entry for entry in _sorted(files)}
        return Folder(here, tuple(sorted(str(one).rpartition("/")[2] for one in found["common_prefixes"])))
    keys = storage.list()
    found_here = (entry_of(storage, key) for key in keys if "/" not in key)
    return Folder(
        {entry.key: entry for entry in found_here if entry is not None},
        tuple(sorted({key.partition("/")[0] for key in keys if "/" in key})),
    )


def read_version(storage: Storage, key: str, version: str, start: int, stop: int) -> bytes | None:
    """Return bytes ``start`` to ``stop`` of one version of a file; None where the file is gone or has another version now."""
    if isinstance(storage, ObjectStorage) and version.startswith('"'):  # other tags do not identify bytes
        import obstore
        from obstore.exceptions import PreconditionError

        options: Any = {"if_match": version, "range": (start, stop)}

        def read(store: Any, name: str) -> bytes | None:
            try:
                return bytes(obstore.get(store, name, options=options).bytes())
            except (PreconditionError, FileNotFoundError):
                return None

        return _ask(storage, key, read)
    data = storage.get(key, start, stop)
    found = entry_of(storage, key)
    return data if found is not None and found.version == version else None


def _ask(storage: ObjectStorage, key: str, action: Callable[[Any, str], T]) -> T:
    """Return what an action returns for obstore's store of the bucket and the name of a file in it."""
    name = storage.address(key)[1] if key else storage.prefix
    return storage._request(key, lambda store: action(store, name))  # noqa: SLF001 - the same package


def _entry(key: str, facts: Mapping[str, Any]) -> Entry:
    return Entry(key, int(facts["size"]), str(facts["e_tag"] or f"{facts['size']} {facts['last_modified']}"))


def _sorted(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: entry.key)
