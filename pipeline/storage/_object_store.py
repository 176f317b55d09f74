"""Object stores, through obstore: what ``s3://``, ``gs://``, ``az://``, ``http://`` and ``https://`` share."""

from __future__ import annotations

import io
import os
import secrets
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Self, TypeVar

from typing_extensions import override

from pipeline.errors import InputError, Problem, StoreError
from pipeline.storage._object_client import Client, Service, client_of, creates_once, status_of
from pipeline.storage._object_reader import RangeReader
from pipeline.storage.base import Storage
from pipeline.storage.local_files import PARTIAL, is_unfinished
from pipeline.storage.secret_urls import refuse_secrets

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore import GetOptions
    from zarr.abc.store import Store

__all__ = ["ObjectStorage"]

T = TypeVar("T")
READ_AHEAD = 1 << 16
WHOLE_BYTES = 1 << 18  # a file of that size takes hardly longer than a part of it
PART_BYTES = 8 << 20  # one request must end in 30 s
MOST_PARTS = 9000  # S3 allows 10,000
COPIES, UPLOADS = 8, 2  # at a time
DELETES = 1000  # in one request
RANGE_BEHIND_END = 416
MOST_HEADS = 20  # files whose sizes are asked for one after the other
CREATOR = "gigasegcreator"  # an attribute that says which call created a file; Azure allows letters only


class ObjectStorage(Storage):
    """A prefix of a bucket, ``SCHEME://BUCKET/PREFIX``. A storage is only this URL: credentials are the process's.

    There are no folders: a prefix is there as long as a file lies below it. A file that grows is written again as a whole, so
    segments of the ledger are short. A file is the old one or the new one, never a part; a tree is replaced file by file.
    """

    segment_bytes: ClassVar[int] = 1 << 18

    scheme: ClassVar[str]

    def __init__(self, url: str) -> None:
        refuse_secrets(url, f"{self.scheme}://")
        if find_spec("obstore") is None:
            way_out = 'It needs a package that is not installed: pip install "gigaseg[cloud]".'
            raise InputError(Problem(url, f"the scheme {self.scheme}://", "", way_out))
        self.bucket, _, prefix = url.partition("://")[2].partition("/")
        self.prefix = prefix.strip("/")
        if not self.bucket:
            raise InputError(Problem(url, "no bucket", f"{self.scheme}://BUCKET/FOLDER"))
        if self.prefix:
            self._checked(self.prefix)

    @classmethod
    @abstractmethod
    def _service(cls) -> Service:
        """What is special about the service."""

    @property
    @override
    def url(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @override
    def below(self, prefix: str) -> Self:
        return type(self)(f"{self.url}/{self._checked(prefix)}").guarded(self.guard)

    @override
    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        return self._get(key, start, stop)

    def _get(self, key: str, start: int, stop: int | None, version: str | None = None) -> bytes | None:
        """As :meth:`get`; raises StoreError where the file no longer has the version."""
        import obstore
        from obstore.exceptions import BaseError

        name = self._name(key)
        if stop is not None and stop <= start:
            return None if self.size(key) is None else b""
        options: GetOptions = {"if_match": version} if version else {}
        if start or stop is not None:
            options["range"] = {"offset": start} if stop is None else (start, stop)

        def read(store: Any) -> bytes:
            try:
                return bytes(obstore.get(store, name, options=options).bytes())
            except BaseError as error:
                if status_of(error) == RANGE_BEHIND_END:
                    return b""
                raise

        try:
            return self._request(key, read)
        except FileNotFoundError:
            return None

    def _head(self, key: str) -> dict[str, Any] | None:
        import obstore

        name = self._name(key)
        try:
            return dict(self._request(key, lambda store: obstore.head(store, name)))
        except FileNotFoundError:
            return None

    @override
    def size(self, key: str) -> int | None:
        found = self._head(key)
        return None if found is None else int(found["size"])

    @override
    def sizes(self, keys: Sequence[str]) -> dict[str, int | None]:
        """Return them from one listing of what the keys have in common, unless they are few."""
        if len(keys) <= MOST_HEADS:
            return super().sizes(keys)
        import obstore

        common = os.path.commonpath([key.rpartition("/")[0] for key in keys])
        top, start = "/".join(filter(None, (self.prefix, common))), len(self._begin)

        def read(store: Any) -> dict[str, int]:
            return {str(entry["path"])[start:]: int(entry["size"]) for page in obstore.list(store, top or None) for entry in page}

        try:
            listed = self._request(common, read)
        except FileNotFoundError:  # how some servers say that nothing lies below a prefix
            listed = {}
        return {self._checked(key): listed.get(key) for key in keys}

    @override
    def version(self, key: str) -> str | None:
        found = self._head(key)
        return None if found is None else str(found["e_tag"] or f"{found['size']} {found['last_modified']}")

    @override
    def list(self, prefix: str = "") -> list[str]:
        return sorted(key for key, _ in self._listed(prefix) if not _is_hidden(key))

    def _listed(self, prefix: str, most: int | None = None) -> Sequence[tuple[str, float]]:
        """Keys that begin with ``prefix``, and when they were written, in seconds since 1970; at most so many."""
        import obstore

        folder = self._checked_prefix(prefix).rpartition("/")[0]
        top, begin = "/".join(filter(None, (self.prefix, folder))), self._begin

        def read(store: Any) -> Sequence[tuple[str, float]]:
            found = []
            for page in obstore.list(store, top or None, chunk_size=most or 1000):
                entries = ((str(entry["path"]), entry["last_modified"].timestamp()) for entry in page)
                found += [(path[len(begin) :], when) for path, when in entries if path.startswith(begin + prefix)]
                if most and len(found) >= most:
                    break
            return found

        try:
            return self._request(prefix, read)
        except FileNotFoundError:  # how some servers say that nothing lies below a prefix
            return []

    @override
    def has(self, name: str) -> bool:
        return self.size(name) is not None or bool(self._listed(f"{name}/", most=1))

    @override
    def exists(self) -> bool:
        return bool(self._listed("", most=1))

    @override
    def put(self, key: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        import obstore

        name = self._name(key)
        if len(data) > PART_BYTES:
            self._upload(key, lambda: io.BytesIO(data), len(data))
            return

        def write(store: Any) -> None:
            self._before_change()
            obstore.put(store, name, data, use_multipart=False)

        self._request(key, write, writes=True)

    @override
    def create(self, key: str, data: bytes) -> bool:
        """Create a file; where the service cannot refuse a second one (:meth:`creates_once`), two callers at once may both succeed."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        name, creator = self._name(key), secrets.token_hex(16)
        if self._client.creates_once is False:
            if self.size(key) is not None:
                return False
            self.put(key, data)
            return True

        def write(store: Any) -> bool:
            self._before_change()
            try:
                obstore.put(store, name, data, mode="create", use_multipart=False, attributes={CREATOR: creator})
            except AlreadyExistsError:
                # The answer to a try before this one may have been lost.
                with suppress(FileNotFoundError):  # its owner has removed it since
                    return obstore.get(store, name).attributes.get(CREATOR) == creator
                return False
            return True

        return self._request(key, write, writes=True)

    @override
    def creates_once(self) -> bool:
        client = self._client
        if client.creates_once is None:
            key = f".creates-once.{secrets.token_hex(8)}{PARTIAL}"
            client.creates_once = self._request("", lambda store: creates_once(store, self._name(key)), writes=True)
            self.delete(key)
        return client.creates_once

    @override
    def delete(self, key: str) -> None:
        self._delete([key])

    def _delete(self, keys: Sequence[str]) -> None:
        import obstore

        names = [self._name(key) for key in keys]
        for start in range(0, len(names), DELETES):
            some = names[start : start + DELETES]

            def write(store: Any, some: list[str] = some) -> None:
                self._before_change()
                try:
                    obstore.delete(store, some)
                except FileNotFoundError:  # some services say so, and may not have deleted the others
                    for name in some:
                        with suppress(FileNotFoundError):
                            obstore.delete(store, name)

            self._request(keys[start], write, writes=True)

    @override
    def delete_tree(self, prefix: str) -> None:
        self._delete([key for key, _ in self._listed(f"{self._checked(prefix)}/")])

    @override
    @contextmanager
    def replace_tree(self, prefix: str) -> Iterator[Storage]:
        """Write new files beside the old ones, and let the server copy them; a process that is killed meanwhile leaves a mixture."""
        parent, _, name = self._checked(prefix).rpartition("/")
        hidden = "/".join(filter(None, (parent, f".{name}{PARTIAL}", secrets.token_hex(8))))
        made = self.below(hidden).guarded(None)
        try:
            yield made
            new = made.list()
            with ThreadPoolExecutor(COPIES) as pool:
                list(pool.map(lambda key: self._copy(f"{hidden}/{key}", f"{prefix}/{key}"), new))
            old = {key for key, _ in self._listed(f"{prefix}/")}
            self._delete(sorted(old - {f"{prefix}/{key}" for key in new}))
        finally:
            with suppress(StoreError):  # the error that led here is the one to raise
                self.guarded(None).delete_tree(hidden)

    def _copy(self, key: str, target: str) -> None:
        import obstore

        def copy(store: Any) -> None:
            self._before_change()
            obstore.copy(store, self._name(key), self._name(target))

        self._request(target, copy, writes=True)

    @override
    def open(self, key: str) -> BinaryIO:
        """Open a file: a small one is read at once, parts of others where they are asked for; raises OSError where it changes meanwhile."""
        import obstore
        from obstore.exceptions import BaseError

        name, where = self._name(key), f"{self.url}/{key}"

        def begin(store: Any) -> tuple[bytes, int, str | None]:
            try:
                found = obstore.get(store, name, options={"range": (0, WHOLE_BYTES)})
                return bytes(found.bytes()), found.meta["size"], found.meta["e_tag"]
            except BaseError as error:
                if status_of(error) == RANGE_BEHIND_END:
                    return b"", 0, None
                raise

        try:
            data, size, version = self._request(key, begin)
        except FileNotFoundError:
            raise FileNotFoundError(where) from None
        if len(data) == size:
            return io.BytesIO(data)
        reader = RangeReader(where, size, lambda start, stop: self._get(key, start, stop, version) or b"")
        return io.BufferedReader(reader, READ_AHEAD)

    @override
    @contextmanager
    def local_file(self, key: str, *, durable: bool = True) -> Iterator[Path]:
        with TemporaryDirectory(prefix="gigaseg-") as folder:
            path = Path(folder, self._checked(key).rpartition("/")[2])
            yield path
            self._upload(key, lambda: path.open("rb"), path.stat().st_size)

    def _upload(self, key: str, source: Callable[[], BinaryIO], size: int) -> None:
        """Write a file in parts, which the server joins in the end; a part of it is in memory."""
        import obstore

        name, part_bytes = self._name(key), max(PART_BYTES, -(-size // MOST_PARTS))

        def write(store: Any) -> None:
            writer = obstore.open_writer(store, name, buffer_size=part_bytes, max_concurrency=UPLOADS)
            with source() as file:
                while part := file.read(part_bytes):
                    writer.write(part)
            self._before_change()
            writer.close()  # without this call there is no file

        self._request(key, write, writes=True)

    @override
    def zarr(self, prefix: str = "") -> Store:
        from pipeline.storage._object_zarr import ObjectZarrStore

        return ObjectZarrStore(self.below(prefix) if prefix else self)

    @override
    def make(self) -> None:
        """Prove that files can be listed, written and deleted below the root, once in a process.

        Raises:
            InputError: they cannot.
        """
        if any(self._begin.startswith(proven) for proven in self._client.writable):
            return
        import obstore

        self.exists()  # says so where there is no bucket, which some servers do not when they are written to
        name = self._name(f".write-probe.{secrets.token_hex(8)}{PARTIAL}")

        def write(store: Any) -> None:
            self._before_change()
            obstore.put(store, name, b"")
            obstore.delete(store, name)

        self._request("", write, writes=True)
        self._client.writable.add(self._begin)

    @override
    def remove_leftovers(self, older_than_s: float) -> None:
        left = [(key, written) for key, written in self._listed("") if _is_hidden(key)]
        if left:
            clock = f".clock.{secrets.token_hex(8)}{PARTIAL}"
            self.put(clock, b"")
            now = dict(self._listed(clock))[clock]  # by the server's clock, as that of this machine may differ
            self._delete([clock, *(key for key, written in left if written < now - older_than_s)])

    def address(self, key: str) -> tuple[Any, str]:
        """Return obstore's store of the bucket, and the name of a file in it, for other libraries."""
        return self._client.store, self._name(key)

    @property
    def _client(self) -> Client:
        return client_of(self.bucket, self._service())

    @property
    def _begin(self) -> str:
        """How the names of all files below the root begin."""
        return f"{self.prefix}/" if self.prefix else ""

    def _name(self, key: str) -> str:
        """The name of a file in the bucket."""
        return self._begin + self._checked(key)

    def _request(self, key: str, action: Callable[[Any], T], *, writes: bool = False) -> T:
        return self._client.request(f"{self.url}/{key}".rstrip("/"), action, writes=writes)


def _is_hidden(key: str) -> bool:
    """Whether a file belongs to something that is not finished."""
    return any(is_unfinished(part) for part in key.split("/"))
