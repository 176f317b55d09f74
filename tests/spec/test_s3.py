"""URLs and credentials of ``s3://``."""

from __future__ import annotations

import pytest

from pipeline.errors import InputError
from pipeline.storage import open_storage
from pipeline.storage.s3 import S3Storage


def test_a_url_names_a_bucket_and_a_prefix():
    """A slash at the end changes nothing; names are taken as they are spelled."""
    assert S3Storage("s3://bucket/a b/%20#1/").url == "s3://bucket/a b/%20#1"
    assert (S3Storage("s3://bucket").url, S3Storage("s3://bucket/").below("a").url) == ("s3://bucket", "s3://bucket/a")
    for url in ("s3://", "s3:///a"):
        with pytest.raises(InputError, match="no bucket"):
            open_storage(url)
    with pytest.raises(InputError, match="inside this folder"):
        open_storage("s3://bucket/a/../b")


@pytest.mark.parametrize("key", ["a b/ü", "#1", "p%20c", "c+d", "q?x=1", "e&f=g;h", "br[1]{2}", "~t", "q'x\"y", "Ω/α", "s*r"])
def test_a_key_keeps_its_spelling(s3, key):
    """No letter of a key is changed on its way there and back."""
    storage = open_storage(s3)
    storage.put(key, key.encode())
    assert (storage.get(key), storage.list(), storage.size(key)) == (key.encode(), [key], len(key.encode()))
    assert storage.version(key) == open_storage(f"{s3}/{key}".rpartition("/")[0]).version(key.rpartition("/")[2])


def test_keys_of_the_users_files_are_found(s3, tmp_path, monkeypatch):
    """Without keys in the environment, those of ``~/.aws`` count, by profile; without any, the message says where they may be."""
    from tests.cluster.s3_server import KEY, SECRET

    storage = open_storage(s3)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(InputError, match="no credentials; expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws"):
        storage.make()
    (tmp_path / "credentials").write_text(f"[lab]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    storage.make()
    storage.put("a", b"1")
    assert storage.list() == ["a"]
