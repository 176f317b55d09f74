"""Where the small files of a run live: whole files, put atomically, and segments that grow at their end.

The ledger needs no more of a store than this, so that an object store can stand in for a folder.
"""

from __future__ import annotations

import errno
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import InputError, Problem, StoreError

__all__ = ["LocalStorage", "Storage", "store_errors"]

WAYS_OUT = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space in your quota",
    errno.EACCES: "give yourself access",
    errno.EPERM: "give yourself access",
    errno.EROFS: "make it writable",
}
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says into one line with a way out.

    Raises:
        StoreError: the block inside raised an OSError.

    Example:
        >>> with store_errors(Path("/full/run.json")):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        pipeline.errors.StoreError: /full/run.json: No space left on device; free space and run again: it resumes
    """
    try:
        yield
    except OSError as error:
        way_out = WAYS_OUT.get(error.errno or 0, "see to the disk")
        raise StoreError(f"{path}: {error.strerror or error}; {way_out} and run again: it resumes") from error


class Storage(ABC):
    """Named bytes under one root; names are relative, with ``/`` between parts.

    What a call has written is on the disk when it returns. Every call raises StoreError when the store fails
    and InputError for a name that leads out of the root.
    """

    @abstractmethod
    def __str__(self) -> str:
        """Return where it is, for messages."""

    @abstractmethod
    def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Return bytes ``start`` to ``stop`` (None: the end), fewer where the file is shorter; None where there is no such file."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return the size in bytes; None where there is no such file."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """Return every name that begins with ``prefix``, sorted."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Write or replace a file; whoever reads sees the old bytes or the new ones, never a part."""

    @abstractmethod
    def create_if_absent(self, name: str, data: bytes) -> bool:
        """Write a file that is not there yet; of any number of callers exactly one gets True."""

    @abstractmethod
    def append(self, name: str, data: bytes, at: int) -> None:
        """Let ``data`` stand from byte ``at`` on, the number of bytes written so far (0: a new file).

        After a failure the same call may be made again: whatever part was written is overwritten.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file; nothing happens where there is none."""


class LocalStorage(Storage):
    """A folder.

    Args:
        root: the folder.
        make: create it where it is missing; otherwise every call on a missing folder raises StoreError.

    Example:
        >>> import tempfile
        >>> storage = LocalStorage(tempfile.mkdtemp())
        >>> storage.create_if_absent("claim", b"mine"), storage.create_if_absent("claim", b"mine too")
        (True, False)
        >>> storage.get("claim"), storage.list()
        (b'mine', ['claim'])
    """

    def __init__(self, root: str | Path, *, make: bool = False) -> None:
        self.root = Path(root).resolve()
        if make:
            with store_errors(self.root):
                self.root.mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        """As :meth:`Storage.__str__`."""
        return str(self.root)

    def get(self, name: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """As :meth:`Storage.get`."""
        path = self._path(name)
        with store_errors(path):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                self._require_root()
                return None
            with file:
                file.seek(start)
                return file.read() if stop is None else file.read(max(0, stop - start))

    def size(self, name: str) -> int | None:
        """As :meth:`Storage.size`."""
        path = self._path(name)
        with store_errors(path):
            try:
                return path.stat().st_size
            except FileNotFoundError:
                self._require_root()
                return None

    def list(self, prefix: str = "") -> list[str]:
        """As :meth:`Storage.list`; files half written are not there yet."""
        top = self._path(prefix.rpartition("/")[0] or ".")
        with store_errors(top):
            self._require_root()
            paths = [
                Path(folder, file)
                for folder, _, files in os.walk(top, onerror=_unless_absent)
                for file in files
                if not file.endswith(".tmp")
            ]
        names = (path.relative_to(self.root).as_posix() for path in paths)
        return sorted(name for name in names if name.startswith(prefix))

    def put(self, name: str, data: bytes) -> None:
        """As :meth:`Storage.put`."""
        with store_errors(path := self._path(name)), self._temporary(path, data) as temporary:
            temporary.replace(path)
            _sync_folder(path.parent)

    def create_if_absent(self, name: str, data: bytes) -> bool:
        """As :meth:`Storage.create_if_absent`; the winner's bytes appear whole wherever hard links exist."""
        with store_errors(path := self._path(name)), self._temporary(path, data) as temporary:
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                return temporary.stat().st_nlink == 2  # NFS repeats a request whose answer was lost: then the link is ours
            except OSError as error:
                if error.errno not in NO_HARD_LINKS:
                    raise
                try:
                    _write(path, os.O_EXCL, data)
                except FileExistsError:
                    return False
            _sync_folder(path.parent)
        return True

    def append(self, name: str, data: bytes, at: int) -> None:
        """As :meth:`Storage.append`."""
        with store_errors(path := self._path(name)):
            self._require_root()
            if at and path.stat().st_size < at:
                raise OSError(errno.EIO, f"{at} bytes were written, fewer are left: something else has cut the file")
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, 0, data, at)
            if not at:
                _sync_folder(path.parent)

    def delete(self, name: str) -> None:
        """As :meth:`Storage.delete`."""
        with store_errors(path := self._path(name)):
            self._require_root()
            path.unlink(missing_ok=True)
            _sync_folder(path.parent)

    def _path(self, name: str) -> Path:
        path = Path(self.root, name.replace("\0", "/../../")).resolve()
        if not path.is_relative_to(self.root):
            raise InputError(Problem(str(self.root), repr(name), "a path inside this folder"))
        return path

    def _require_root(self) -> None:
        """A missing file is an answer, a missing root is a lost store."""
        if not self.root.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the folder is gone")

    @contextmanager
    def _temporary(self, path: Path, data: bytes) -> Iterator[Path]:
        """A finished file beside ``path``, under a name that nobody else has."""
        self._require_root()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            _write(temporary, os.O_EXCL, data)
            yield temporary
        finally:
            with suppress(OSError):  # the error that led here is the one to tell
                temporary.unlink(missing_ok=True)


def _unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _write(path: Path, flags: int, data: bytes, at: int = 0) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(file, rest, at)
            rest, at = rest[written:], at + written
        os.fsync(file)
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    """Make a new name last; file systems that cannot (some network shares) keep names their own way."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(file)
