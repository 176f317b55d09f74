"""``https://`` differs from ``http://`` in its encryption alone."""

from __future__ import annotations

import pytest

from pipeline.errors import InputError, StoreError
from pipeline.storage import open_storage
from pipeline.storage.http import HttpStorage
from pipeline.storage.https import HttpsStorage


def test_it_is_a_web_server_that_encrypts(s3_servers, monkeypatch):
    """A server without TLS is not spoken to, and nothing is written to any."""
    monkeypatch.setattr("pipeline.storage._object_client.FIRST_RETRY_S", 0.5)
    web = open_storage(s3_servers.endpoint.replace("http://", "https://"))
    assert isinstance(web, HttpsStorage)
    assert web != HttpStorage(s3_servers.endpoint)
    with pytest.raises(StoreError, match="no answer from the server"):
        web.get("a")
    with pytest.raises(InputError, match="only read"):
        web.make()
