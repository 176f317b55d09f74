"""``gs://``: what can be tested without Google, whose service was not tried."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import GigasegError, InputError
from pipeline.storage import open_storage
from pipeline.storage.gs import GoogleStorage


def test_a_url_names_a_bucket_and_a_prefix():
    """As for every object store."""
    assert open_storage("gs://bucket/a/").below("b") == GoogleStorage("gs://bucket/a/b")
    with pytest.raises(InputError, match="no bucket"):
        open_storage("gs://")


def test_a_bucket_that_does_not_exist_is_named(s3, tmp_path, monkeypatch):
    """Requests go to the address that the account's file names, here a server of S3, which answers alike; nothing is filled in."""
    endpoint = {"gcs_base_url": s3_endpoint(), "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    (tmp_path / "account.json").write_text(json.dumps(endpoint))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    for ask in (lambda: GoogleStorage("gs://no-such-bucket/a").get("b"), GoogleStorage("gs://no-such-bucket/a").make):
        with pytest.raises(GigasegError, match=r"^gs://no-such-bucket/a.*(no bucket|no access)"):
            ask()


def s3_endpoint():
    """The address of the server of S3."""
    import os

    return os.environ["AWS_ENDPOINT_URL"]
