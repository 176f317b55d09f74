"""A URL with a secret is refused wherever a YAML or a command may hold one, and no message shows the secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import config_from_mapping
from pipeline.errors import InputError
from pipeline.storage import open_storage, refuse_secrets

SECRETS = [
    "https://me:hidden@host/a.tif",
    "https://hidden@host/a.tif",
    "s3://me:hidden@bucket/a.tif",
    "https://host/a.tif?X-Amz-Signature=hidden&X-Amz-Date=1",
    "https://host/a.tif?anything=hidden",
    "https://account.blob.core.windows.net/c/a.tif?sv=1&sig=hidden#there",
    "az://container/a.tif?sv=2024&sig=hidden",
    "s3://bucket/a.tif?x-amz-security-token=hidden",
    "gs://bucket/a.tif?GoogleAccessId=hidden",
]


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize("key", ["images", "truth", "output", "model"])
def test_a_url_with_a_secret_is_refused_and_not_shown(url, key, tmp_path):
    """The message names the key and the place without the secret, whichever key holds the URL."""
    (tmp_path / "a.tif").touch()
    mapping = {"images": ["a.tif"], "model": "histogram", "output": "out"}
    mapping[key] = {"images": [url], "model": {"name": "bundle", "path": url}}.get(key, url)
    with pytest.raises(InputError) as refused:
        config_from_mapping(mapping, tmp_path, "run.yaml")
    message = str(refused.value)
    assert "hidden" not in message
    assert key in message
    assert url.partition("?")[0].rpartition("/")[2] in message


@pytest.mark.parametrize("url", [*SECRETS, "https://host/a?apikey=hidden", "s3://hidden@bucket", "s3://bucket/a?x=1&sig=hidden"])
def test_no_storage_is_opened_at_a_url_with_a_secret(url):
    """Commands such as status and report take a URL without a YAML."""
    with pytest.raises(InputError, match="expected a URL without") as refused:
        open_storage(url)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/a?.tif", "s3://bucket/a@b.tif", "https://host/a@b.tif", "memory://m/a", "/data/x?key=1", "array://0f/a.tif"],
)
def test_other_texts_are_accepted(text):
    """Wildcards of buckets, an @ in a name, and paths that are no URLs are no secrets."""
    refuse_secrets(text, "images.0")


def test_set_cannot_hold_a_secret_either(tmp_path: Path):
    """A URL after `--set` is refused as one of the YAML is."""
    mapping = {"images": ["a.tif"], "model": "histogram", "output": "out"}
    with pytest.raises(InputError) as refused:
        config_from_mapping(mapping, tmp_path, "run.yaml", ["output=https://me:hidden@host/a"])
    assert "hidden" not in str(refused.value)
