"""The files of a Zarr store (a folder, a URL, or a zip of either) and its metadata, whose size is checked before parsing.

The metadata of each node is read from its own file. Consolidated metadata is never used: it may be out of date.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zipfile
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NoReturn

from typing_extensions import override

from pipeline.errors import InputError, Problem, StoreError
from pipeline.readers._files import local_path
from pipeline.readers._remote_file import open_file
from pipeline.readers._remote_folders import IN_ARCHIVE, METADATA
from pipeline.storage import LocalStorage, Storage, folder_of, is_seen, open_storage

__all__ = ["METADATA", "Node", "ZipStorage", "child_nodes", "is_inside", "open_files", "read_node"]

MAX_METADATA_BYTES = 1 << 26  # of one file; consolidated metadata or the labels of a whole plate may be long
MOST_CHILDREN = 50  # folders of a storage that are looked into
OPEN_ARCHIVES = 4  # zips whose directory is kept: reading it again for each field of a plate would take minutes


def open_files(path: str) -> Storage:
    """Return the storage below a path, read-only for a zip; the path may be empty.

    Raises:
        InputError: the path or the URL does not exist, or is a file but no zip.
    """
    local = _local(path)
    if local is None:
        found = IN_ARCHIVE.fullmatch(path.rstrip("/"))
        if found is None:
            return open_storage(path)
        return _in_archive(_Archive(open_file(found[1]), found[1]), found[2] or "")
    above = next(one for one in (local, *local.parents) if os.path.lexists(one))
    if above.is_file():
        stat = above.stat()
        archive = _local_archive(str(above), stat.st_size, stat.st_mtime_ns)
        return _in_archive(archive, "" if above == local else local.relative_to(above).as_posix())
    if above != local:
        raise InputError(Problem(path, "no file at this path"))
    return LocalStorage(local)


def _local(path: str) -> Path | None:
    """Return a local path; None for a URL that a storage opens."""
    try:
        storage = open_storage(path)
    except InputError:
        return Path(local_path(path))  # its error says how to read such a URL
    return storage.root if isinstance(storage, LocalStorage) else None


def is_inside(name: Any) -> bool:
    """Whether a path from metadata stays below the group.

    Example:
        >>> is_inside("A/1/0"), is_inside("../../etc"), is_inside("/etc"), is_inside(""), is_inside(3)
        (True, False, False, False, False)
    """
    return isinstance(name, str) and "\0" not in name and "\\" not in name and {"", ".", ".."}.isdisjoint(name.split("/"))


class _Archive:
    """An open zip, whose directory is read once."""

    def __init__(self, file: str | BinaryIO, url: str) -> None:
        self.url, self.lock = url, threading.Lock()
        try:
            self.zip = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise InputError(Problem(url, f"a file that is no zip, or a damaged one ({error})", "a folder, or a zip of one")) from error
        # Some programs on Windows write backslashes.
        self.members = {info.filename.replace("\\", "/"): info for info in self.zip.infolist() if not info.is_dir()}
        if any(info.flag_bits & 1 for info in self.members.values()):
            raise InputError(Problem(url, "an encrypted zip", "one without a password", "Unpack it."))
        stores = {PurePosixPath(name).parts[0] for name in self.members if name.count("/") == 1 and name.endswith(METADATA)}
        at_root = any(name in self.members for name in METADATA)
        self.root = f"{stores.pop()}/" if len(stores) == 1 and not at_root else ""  # the one folder that holds the store

    def read_stored(self, info: zipfile.ZipInfo, start: int, stop: int | None) -> bytes:
        """Return a part of an uncompressed file; zipfile would read everything before it."""
        file = self.zip.fp
        assert file is not None, "the zip is open"
        file.seek(info.header_offset)
        head = file.read(30)
        lengths = struct.unpack_from("<HH", head, 26)  # of the name and the extra field: the zip's directory may state others
        stop = info.file_size if stop is None else min(stop, info.file_size)
        file.seek(info.header_offset + len(head) + sum(lengths) + start)
        return file.read(max(0, stop - start))


@lru_cache(maxsize=OPEN_ARCHIVES)
def _local_archive(path: str, _size: int, _mtime_ns: int) -> _Archive:
    return _Archive(path, path)


def _in_archive(archive: _Archive, inside: str) -> Storage:
    files = ZipStorage(archive, archive.root)
    return files.below(inside) if inside else files


class ZipStorage(Storage):
    """The files of a zip that begin with ``prefix``, read-only; threads may read at once."""

    def __init__(self, archive: _Archive, prefix: str = "") -> None:
        self._archive, self._prefix = archive, prefix
        self.max_bytes = MAX_METADATA_BYTES  # a file that claims to be larger is no chunk: unpacking it could exhaust memory

    @property
    @override
    def url(self) -> str:
        return f"{self._archive.url}/{self._prefix}".rstrip("/")

    @override
    def below(self, prefix: str) -> ZipStorage:
        return ZipStorage(self._archive, f"{self._prefix}{self._checked(prefix)}/")

    @override
    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        info = self._archive.members.get(self._prefix + self._checked(key))
        if info is None:
            return None
        if info.file_size > self.max_bytes:
            raise ValueError(f"{info.filename} has {info.file_size} bytes in the zip, and at most {self.max_bytes} are expected")
        with self._archive.lock:
            if info.compress_type == zipfile.ZIP_STORED and (start or stop is not None):
                return self._archive.read_stored(info, start, stop)
            with self._archive.zip.open(info) as file:
                file.seek(start)
                return file.read() if stop is None else file.read(max(0, stop - start))

    @override
    def size(self, key: str) -> int | None:
        info = self._archive.members.get(self._prefix + self._checked(key))
        return None if info is None else info.file_size

    @override
    def list(self, prefix: str = "") -> list[str]:
        start = self._prefix + self._checked_prefix(prefix)
        return sorted(name.removeprefix(self._prefix) for name in self._archive.members if name.startswith(start))

    @override
    def put(self, key: str, data: bytes | memoryview, *, durable: bool = True) -> NoReturn:
        raise StoreError(f"{self}: a zip is not written to")

    @override
    def create(self, key: str, data: bytes) -> NoReturn:
        self.put(key, data)

    @override
    def delete(self, key: str) -> NoReturn:
        self.put(key, b"")

    @override
    def delete_tree(self, prefix: str) -> NoReturn:
        self.put(prefix, b"")

    @override
    def replace_tree(self, prefix: str) -> NoReturn:
        self.put(prefix, b"")


class Node:
    """An array or a group with its metadata; ``path`` is its name in messages."""

    def __init__(self, files: Storage, path: str, metadata: Mapping[str, Any], *, is_array: bool) -> None:
        self.files, self.path, self.metadata, self.is_array = files, path, metadata, is_array
        self.zarr_format = 3 if "node_type" in metadata else 2

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """User attributes; for OME-Zarr 0.5 those below ``ome`` too."""
        found = self.metadata.get("attributes") if self.zarr_format == 3 else _read_json(self.files, ".zattrs")
        found = found if isinstance(found, dict) else {}
        ome = found.get("ome")
        return {**found, **ome} if isinstance(ome, dict) else found

    def child(self, name: str) -> Node | None:
        """Return the child of this name, which :func:`is_inside` accepts; None if there is none."""
        return read_node(_child(self.files, name), f"{self.path}/{name}", self.zarr_format)

    def child_attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of a child by one read; empty if there is none."""
        below, path = _child(self.files, name), f"{self.path}/{name}"
        node = Node(below, path, {}, is_array=False) if self.zarr_format == 2 else read_node(below, path, 3)
        return node.attributes if node else {}


def _child(files: Storage, name: str) -> Storage:
    """Return the folder of a child; of an image, which is only read, it may be a link to any place."""
    return LocalStorage(files.root / name) if isinstance(files, LocalStorage) else files.below(name)


def read_node(files: Storage, path: str, zarr_format: int | None = None) -> Node | None:
    """Read the metadata of an array or a group; None if there is none.

    Raises:
        InputError: the metadata is damaged or too large.
    """
    found = _read_json(files, "zarr.json") if zarr_format != 2 else None
    if found is not None:
        kind = found.get("node_type")
        if kind not in ("array", "group"):
            raise InputError(Problem(f"{path}/zarr.json", f"node_type {kind!r}", "'array' or 'group'"))
        return Node(files, path, found, is_array=kind == "array")
    for name in METADATA[1:] if zarr_format != 3 else ():
        found = _read_json(files, name)
        if found is not None:
            found.pop("node_type", None)  # some programs write it into Zarr v2 too
            return Node(files, path, found, is_array=name == ".zarray")
    return None


def child_nodes(files: Storage) -> list[str]:
    """Return the names of the child arrays and groups, sorted."""
    if isinstance(files, LocalStorage):  # listing all files would walk through every chunk
        return sorted(path.name for path in files.root.iterdir() if any((path / name).is_file() for name in METADATA))
    if not isinstance(files, ZipStorage):
        return [name for name in folder_of(files).folders[:MOST_CHILDREN] if any(is_seen(files.below(name), file) for file in METADATA)]
    ends = tuple(f"/{name}" for name in METADATA)
    return sorted({key.partition("/")[0] for key in files.list() if key.count("/") == 1 and key.endswith(ends)})


def _read_json(files: Storage, name: str) -> dict[str, Any] | None:
    """Return the content of a metadata file; None if there is none."""
    data = _read_bytes(files, name)
    if data is None:
        return None
    where = f"{files.url}/{name}"
    if len(data) > MAX_METADATA_BYTES:
        raise InputError(Problem(where, f"more than {MAX_METADATA_BYTES >> 20} MiB of metadata", "the metadata of a Zarr array or group"))
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(Problem(where, f"metadata that cannot be read ({error})", "JSON")) from error
    if not isinstance(content, dict):
        raise InputError(Problem(where, f"metadata that is a {type(content).__name__}", "a JSON object"))
    return content


def _read_bytes(files: Storage, name: str) -> bytes | None:
    """Return the bytes of a file, at most one more than metadata may have; None if there is none."""
    if not isinstance(files, LocalStorage):
        return files.get(name, 0, MAX_METADATA_BYTES + 1)
    path = files.root / name  # a link to anywhere is followed, as data managers such as git-annex make them
    if not path.is_file():
        return None
    with path.open("rb") as file:  # a read allocates as many bytes as it is asked for
        return file.read(min(path.stat().st_size, MAX_METADATA_BYTES) + 1)
