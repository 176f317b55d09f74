"""Amazon S3 and every server that speaks its language: ``s3://BUCKET/PREFIX``.

Environment: what the AWS command line reads. ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` and ``AWS_SESSION_TOKEN`` come
first, then the files below ``~/.aws`` (``AWS_PROFILE``), a role of the container or the machine. ``AWS_ENDPOINT_URL`` names
another server than Amazon's, for one without TLS also ``AWS_ALLOW_HTTP=true``; ``AWS_SKIP_SIGNATURE=true`` reads public buckets.
"""

from __future__ import annotations

import os
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, ClassVar

from typing_extensions import override

from pipeline.storage._object_client import Service
from pipeline.storage._object_store import ObjectStorage

__all__ = ["S3Storage"]

TTL = timedelta(minutes=5)


class S3Storage(ObjectStorage):
    """A prefix of a bucket of S3.

    Example:
        >>> storage = S3Storage("s3://bucket/runs/demo/")
        >>> storage, storage.below("masks")
        (S3Storage('s3://bucket/runs/demo'), S3Storage('s3://bucket/runs/demo/masks'))
    """

    scheme: ClassVar[str] = "s3"

    @classmethod
    @override
    def _service(cls) -> Service:
        return Service(
            connect=_connect,
            environment=("AWS_",),
            credentials="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or a role; AWS_SKIP_SIGNATURE=true for public buckets",
            permissions="list the bucket, and get, put and delete objects",
        )


def _connect(bucket: str, **options: Any) -> Any:
    """Connect with the keys of the environment; without any, with what boto3 finds as the AWS command line does."""
    from obstore.store import S3Store

    names = {name.upper() for name in os.environ}
    if names & {"AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE"} or find_spec("boto3") is None:
        return S3Store(bucket, **options)
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session()
    if session.get_credentials() is None:
        raise PermissionError("no credentials")
    return S3Store(bucket, credential_provider=Boto3CredentialProvider(session, ttl=TTL), **options)
