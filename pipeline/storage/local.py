"""A folder of a local disk, or of a network share that behaves like one."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, BinaryIO, ClassVar

from typing_extensions import override

from pipeline.errors import InputError, Problem
from pipeline.storage.base import Storage
from pipeline.storage.local_files import (
    MAX_NAME_BYTES,
    PARTIAL,
    is_older,
    is_unfinished,
    scratch_folder,
    store_errors,
    unfinished_name,
    with_parents,
)

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["LocalStorage"]

NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class LocalStorage(Storage):
    """A folder, by its path or ``file://PATH``.

    Where it is missing every method raises StoreError, so that a lost disk is never taken for an empty one. Folders below it
    come and go with the files in them. Links are followed as long as they lead nowhere but below the folder.

    Example:
        >>> import tempfile
        >>> storage = LocalStorage(tempfile.mkdtemp())
        >>> storage.create("claim", b"mine"), storage.create("claim", b"mine too")
        (True, False)
        >>> storage.get("claim"), storage.list()
        (b'mine', ['claim'])
    """

    segment_bytes: ClassVar[int] = sys.maxsize

    def __init__(self, where: str | os.PathLike[str]) -> None:
        path = Path(os.fspath(where).removeprefix("file://")).absolute()
        self.root = Path(os.path.normpath(path))  # not Path.resolve: messages show the name that the user gave

    @property
    @override
    def url(self) -> str:
        return str(self.root)

    @override
    def below(self, prefix: str) -> LocalStorage:
        """Return the folder ``prefix``; raises InputError where a link leads out of this one, as what is written would land there."""
        return LocalStorage(self._path(prefix)).guarded(self.guard)

    @override
    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        path = self._path(key)
        with store_errors(path):
            try:
                file = path.open("rb")
            except NO_FILE:
                self._require_root()
                return None
            with file:
                file.seek(start)
                return file.read() if stop is None else file.read(max(0, stop - start))

    @override
    def size(self, key: str) -> int | None:
        found = self._stat(key)
        return None if found is None else found.st_size

    @override
    def sizes(self, keys: Sequence[str]) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        folders: dict[str, str] = {}  # path of each folder that lies inside the root, by its key
        for key in keys:
            folder, _, name = key.rpartition("/")
            if folder not in folders:
                folders[folder] = str(self._path(key).parent)
            try:
                stat = os.lstat(f"{folders[folder]}/{self._checked(name)}")
            except OSError:
                found[key] = self.size(key)  # None, or raises
            else:
                found[key] = stat.st_size if S_ISREG(stat.st_mode) else self.size(key)
        return found

    @override
    def version(self, key: str) -> str | None:
        """Return size and time of change; a change within the clock's step, often milliseconds, may go unseen."""
        found = self._stat(key)
        return None if found is None else f"{found.st_size} {found.st_mtime_ns}"

    def _stat(self, key: str) -> os.stat_result | None:
        path = self._path(key)
        with store_errors(path):
            try:
                found = path.stat()
            except NO_FILE:
                self._require_root()
                return None
            return found if S_ISREG(found.st_mode) else None

    @override
    def list(self, prefix: str = "") -> list[str]:
        folder = self._checked_prefix(prefix).rpartition("/")[0]
        top = self._path(folder) if folder else self.root
        keys = []
        with store_errors(top):
            self._require_root()
            for parent, folders, files in os.walk(top, onerror=_raise_unless_absent):
                folders[:] = [name for name in folders if not is_unfinished(name)]
                keys += [Path(parent, name).relative_to(self.root).as_posix() for name in files if not is_unfinished(name)]
        return sorted(key for key in keys if key.startswith(prefix))

    @override
    def put(self, key: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        path = self._path(key)
        with store_errors(path), self._temporary(path, data, durable=durable) as temporary:
            self._before_change()
            temporary.replace(path)
            if durable:
                _sync_folder(path.parent)

    @override
    def create(self, key: str, data: bytes) -> bool:
        """Create a file that appears whole, wherever hard links exist."""
        path = self._path(key)
        with store_errors(path), self._temporary(path, data, durable=True) as temporary:
            self._before_change()
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                return temporary.stat().st_nlink == 2  # NFS repeats a request whose answer was lost: then the link is ours
            except OSError as error:
                if error.errno not in NO_HARD_LINKS:
                    raise
                try:
                    _write(path, os.O_EXCL, data, 0, durable=True)
                except FileExistsError:
                    return False
            _sync_folder(path.parent)
        return True

    @override
    def append(self, key: str, data: bytes, at: int | None = None, *, durable: bool = True) -> None:
        """Append without writing the file again; with ``at`` None several processes may append."""
        with self._file(key) as path:
            self._before_change()
            if at and path.stat().st_size < at:
                raise OSError(errno.EIO, f"{at} bytes were written, fewer are left: something else has cut the file")
            flags = os.O_APPEND if at is None else 0
            with_parents(path, self.root, lambda: _write(path, flags, data, at, durable=durable))
            if durable and not at:
                _sync_folder(path.parent)

    @override
    def delete(self, key: str) -> None:
        with self._file(key) as path, suppress(*NO_FILE):
            self._before_change()
            path.unlink()
            self._remove_empty_parents(path)

    @override
    def delete_tree(self, prefix: str) -> None:
        """Remove every file below ``prefix``, and what a process that was killed while it removed or replaced them left.

        A folder disappears at once, before its files are removed one by one.
        """
        with self._file(prefix) as path:
            is_there = path.is_dir() and not path.is_symlink()
            if is_there or path.with_name(unfinished_name(path.name)).is_dir():
                with scratch_folder(path, self.root) as scratch:
                    if is_there:
                        self._before_change()
                        path.rename(scratch / path.name)
                        shutil.rmtree(scratch / path.name)
                self._remove_empty_parents(path)

    @override
    @contextmanager
    def replace_tree(self, prefix: str) -> Iterator[Storage]:
        with self._file(prefix) as path, scratch_folder(path, self.root) as scratch:
            made = scratch / path.name
            made.mkdir()
            yield LocalStorage(made)
            self._before_change()
            _rename_over(made, path, scratch)

    @override
    def open(self, key: str) -> BinaryIO:
        path = self._path(key)
        with store_errors(path):
            self._require_root()
        return path.open("rb")

    @override
    @contextmanager
    def local_file(self, key: str, *, durable: bool = True) -> Iterator[Path]:
        """Give a path in a folder beside the file, and rename what was written there: nothing is copied."""
        with self._file(key) as path, scratch_folder(path, self.root) as scratch:
            made = scratch / path.name
            yield made
            if durable:
                _sync_file(made)
            self._before_change()
            made.replace(path)
            if durable:
                _sync_folder(path.parent)

    @override
    def zarr(self, prefix: str = "") -> Store:
        from zarr.storage import LocalStore

        return LocalStore(self._path(prefix) if prefix else self.root, read_only=True)

    @override
    @contextmanager
    def local_folder(self, prefix: str) -> Iterator[Path]:
        yield self._path(prefix)

    @override
    def has(self, name: str) -> bool:
        return os.path.lexists(self.root / self._checked(name))

    @override
    def exists(self) -> bool:
        """Return whether the folder exists; raises InputError where a file stands in its place or above it, or a name is too long."""
        if long := [part for part in self.root.parts if len(os.fsencode(part)) > MAX_NAME_BYTES]:
            found, fix = f"a name of {len(os.fsencode(long[0]))} bytes", "Choose another output folder."
            raise InputError(Problem(str(self.root), found, f"names of at most {MAX_NAME_BYTES}", fix))
        with store_errors(self.root):
            if self.root.is_dir():
                return True
            file = next((path for path in (self.root, *self.root.parents) if path.is_file()), None)
        if file:
            raise InputError(Problem(str(file), "a file", "a folder, as the output is one", "Choose another output folder."))
        return False

    @override
    def make(self) -> None:
        with store_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)

    @override
    def remove_if_empty(self) -> None:
        with suppress(OSError):  # files that are not ours keep it
            self.root.rmdir()

    @override
    def remove_leftovers(self, older_than_s: float) -> None:
        with store_errors(self.root):
            self._require_root()
            for path in self.root.rglob(f"*{PARTIAL}"):
                if path.is_file() and is_older(path, older_than_s):
                    path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        """The file of a key; raises InputError where the key leads out of the folder, also through a link."""
        path = self.root / self._checked(key)
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise InputError(Problem(self.url, f"{key!r}, a link that leads out of it", "a path inside this folder", "Remove the link."))
        return path

    @contextmanager
    def _file(self, key: str) -> Iterator[Path]:
        """Give the file of a key; raise StoreError where the root is missing or the ``with`` block raises an OSError."""
        path = self._path(key)
        with store_errors(path):
            self._require_root()
            yield path

    def _require_root(self) -> None:
        if not self.root.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the folder is gone")

    @contextmanager
    def _temporary(self, path: Path, data: bytes | memoryview, *, durable: bool) -> Iterator[Path]:
        """Give a finished file beside ``path``, under a name that no other process uses."""
        self._require_root()
        temporary = path.with_name(unfinished_name(f"{path.name}.{secrets.token_hex(8)}"))
        try:
            with_parents(path, self.root, lambda: _write(temporary, os.O_EXCL, data, 0, durable=durable))
            yield temporary
        finally:
            with suppress(OSError):  # the error that led here is the one to raise
                temporary.unlink(missing_ok=True)

    def _remove_empty_parents(self, path: Path) -> None:
        """Remove the folders between the root and ``path`` that hold nothing any more."""
        with suppress(OSError):  # one holds something, or another process has removed it
            for parent in path.parents:
                if parent == self.root:
                    break
                parent.rmdir()


def _rename_over(made: Path, path: Path, scratch: Path) -> None:
    """Rename a folder, moving aside the one that has the name; repeated, because another process may give the name to its own."""
    for number in count():
        with suppress(FileNotFoundError):
            path.rename(scratch / str(number))
        try:
            made.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _write(path: Path, flags: int, data: bytes | memoryview, at: int | None, *, durable: bool) -> None:
    """Write bytes at an offset, or with O_APPEND and None at the end, however few of them the system takes at a time."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o666)
    try:
        rest = memoryview(data).cast("B")
        while rest:
            written = os.write(file, rest) if at is None else os.pwrite(file, rest, at)
            rest, at = rest[written:], None if at is None else at + written
        if durable:
            os.fsync(file)
    finally:
        os.close(file)


def _sync_file(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    """Make new names survive a power cut; file systems that cannot (some network shares) keep names their own way."""
    try:
        _sync_file(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
