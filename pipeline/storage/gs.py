"""Google Cloud Storage: ``gs://BUCKET/PREFIX``.

Environment: ``GOOGLE_APPLICATION_CREDENTIALS`` or what ``gcloud auth application-default login`` wrote, ``GOOGLE_SERVICE_ACCOUNT``,
or the machine's own account; ``GOOGLE_SKIP_SIGNATURE=true`` reads public buckets.
"""

from __future__ import annotations

from typing import Any, ClassVar

from typing_extensions import override

from pipeline.storage._object_client import Service
from pipeline.storage._object_store import ObjectStorage

__all__ = ["GoogleStorage"]


class GoogleStorage(ObjectStorage):
    """A prefix of a bucket of Google Cloud Storage.

    Example:
        >>> GoogleStorage("gs://bucket/runs").below("demo")
        GoogleStorage('gs://bucket/runs/demo')
    """

    scheme: ClassVar[str] = "gs"

    @classmethod
    @override
    def _service(cls) -> Service:
        return Service(
            connect=_connect,
            environment=("GOOGLE_",),
            credentials="GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`; GOOGLE_SKIP_SIGNATURE=true"
            " for public buckets",
            permissions="storage.objects.list, get, create and delete",
        )


def _connect(bucket: str, **options: Any) -> Any:
    from obstore.store import GCSStore

    return GCSStore(bucket, **options)
