"""Azure Blob Storage: ``az://CONTAINER/PREFIX``, of the account that ``AZURE_STORAGE_ACCOUNT_NAME`` names.

Environment: ``AZURE_STORAGE_ACCOUNT_KEY``, ``AZURE_STORAGE_SAS_TOKEN``, ``AZURE_CLIENT_ID`` with ``AZURE_CLIENT_SECRET`` and
``AZURE_TENANT_ID``, ``AZURE_USE_AZURE_CLI=true`` after ``az login``, or the machine's own identity; ``AZURE_SKIP_SIGNATURE=true``
reads public containers.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

from typing_extensions import override

from pipeline.storage._object_client import Service
from pipeline.storage._object_store import ObjectStorage

__all__ = ["AzureStorage"]

ACCOUNT = {"AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_USE_EMULATOR"}


class AzureStorage(ObjectStorage):
    """A prefix of a container of Azure Blob Storage.

    Example:
        >>> AzureStorage("az://container/runs").below("demo")
        AzureStorage('az://container/runs/demo')
    """

    scheme: ClassVar[str] = "az"

    @classmethod
    @override
    def _service(cls) -> Service:
        return Service(
            connect=_connect,
            environment=("AZURE_",),
            credentials="AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, a SAS token, a client or `az login` and"
            " AZURE_USE_AZURE_CLI=true",
            permissions="list, read, write and delete blobs (Storage Blob Data Contributor)",
        )


def _connect(bucket: str, **options: Any) -> Any:
    from obstore.store import AzureStore

    if not {name.upper() for name in os.environ} & ACCOUNT:
        raise PermissionError("no account")
    return AzureStore(bucket, **options)
