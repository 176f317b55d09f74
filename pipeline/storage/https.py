"""Web servers, to read from: ``https://HOST/PATH``, as :mod:`pipeline.storage.http`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from typing_extensions import override

from pipeline.storage._object_client import Service
from pipeline.storage.http import HttpStorage

__all__ = ["HttpsStorage"]


class HttpsStorage(HttpStorage):
    """A folder of a web server.

    Example:
        >>> HttpsStorage("https://example.org/data/")
        HttpsStorage('https://example.org/data')
    """

    scheme: ClassVar[str] = "https"

    @classmethod
    @override
    def _service(cls) -> Service:
        return replace(super()._service(), connect=_connect)


def _connect(host: str, **options: Any) -> Any:
    from obstore.store import HTTPStore

    return HTTPStore(f"https://{host}", **options)
