"""``az://``: URLs and errors; Azure's emulator is held to the suite of all storages where it is installed, the service was not tried."""

from __future__ import annotations

import pytest

from pipeline.errors import InputError, StoreError
from pipeline.storage import open_storage
from pipeline.storage.az import AzureStorage


def test_a_url_names_a_container_and_a_prefix():
    """As for every object store."""
    assert open_storage("az://container/a/").below("b") == AzureStorage("az://container/a/b")
    with pytest.raises(InputError, match="no bucket"):
        open_storage("az://")


def test_a_missing_account_is_named(monkeypatch):
    """The account comes from the environment."""
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_USE_EMULATOR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="az://container/a: found no credentials; expected AZURE_STORAGE_ACCOUNT_NAME with"):
        open_storage("az://container").get("a")


def test_a_server_that_does_not_answer_is_named(monkeypatch):
    """After a few tries the run ends, and can be resumed."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "me")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "aGlkZGVu")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9/me")
    monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
    monkeypatch.setattr("pipeline.storage._object_client.FIRST_RETRY_S", 0.5)
    with pytest.raises(StoreError, match="az://container/a: no answer from the server") as failed:
        open_storage("az://container").get("a")
    assert "aGlkZGVu" not in str(failed.value)
