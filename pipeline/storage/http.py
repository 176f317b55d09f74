"""Web servers, to read from: ``http://HOST/PATH``. They need to answer requests for ranges, and do not list their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, ClassVar, NoReturn
from urllib.parse import unquote

from typing_extensions import override

from pipeline.errors import InputError, Problem
from pipeline.storage._object_client import Service
from pipeline.storage._object_store import ObjectStorage
from pipeline.storage.base import Storage

__all__ = ["HttpStorage"]


class HttpStorage(ObjectStorage):
    """A folder of a web server. Keys are spelled as in a URL: ``a%20b`` and ``a b`` are one file.

    Example:
        >>> HttpStorage("http://localhost/data").below("a%20b")
        HttpStorage('http://localhost/data/a%20b')
    """

    is_read_only: ClassVar[bool] = True
    scheme: ClassVar[str] = "http"

    @classmethod
    @override
    def _service(cls) -> Service:
        return Service(
            connect=_connect,
            environment=("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
            credentials="a server that asks for none",
            permissions="read without signing in",
        )

    @override
    def list(self, prefix: str = "") -> NoReturn:
        raise InputError(Problem(f"{self.url}/{prefix}", "a folder of a web server", "the URL of a file", "Web servers do not list files."))

    @override
    def has(self, name: str) -> bool:
        return self.size(name) is not None

    @override
    def exists(self) -> bool:
        """Return True: what is there cannot be listed."""
        return True

    @override
    def make(self) -> NoReturn:
        self._refuse()

    @override
    def put(self, key: str, data: bytes | memoryview, *, durable: bool = True) -> NoReturn:
        self._refuse()

    @override
    def create(self, key: str, data: bytes) -> NoReturn:
        self._refuse()

    @override
    def delete(self, key: str) -> NoReturn:
        self._refuse()

    @override
    def delete_tree(self, prefix: str) -> NoReturn:
        self._refuse()

    @override
    @contextmanager
    def replace_tree(self, prefix: str) -> Iterator[Storage]:
        self._refuse()

    @override
    def _upload(self, key: str, source: Callable[[], BinaryIO], size: int) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InputError(Problem(self.url, "a web server, which is only read", "a folder, or a URL of s3, gs or az"))

    @override
    def _name(self, key: str) -> str:
        return unquote(super()._name(key))


def _connect(host: str, **options: Any) -> Any:
    from obstore.store import HTTPStore

    return HTTPStore(f"http://{host}", client_options={"allow_http": True}, **options)
