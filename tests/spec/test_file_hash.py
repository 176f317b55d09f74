"""The hash of a file is that of its bytes, and costs a read only when they may have changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pipeline.storage import file_hash, file_sha256


@pytest.fixture
def reads(monkeypatch):
    """Paths that were read for their hash."""
    found, digest = [], hashlib.file_digest

    def watched(file, name):
        found.append(Path(file.name).name)
        return digest(file, name)

    file_hash._sha256.cache_clear()
    monkeypatch.setattr(file_hash.hashlib, "file_digest", watched)
    return found


def test_it_is_sha_256_of_the_bytes(tmp_path, reads):
    """Any other program finds the same hash, of an empty file too."""
    for name, data in (("a", b"abc"), ("empty", b""), ("large", bytes(3_000_000))):
        (tmp_path / name).write_bytes(data)
        assert file_sha256(tmp_path / name) == hashlib.sha256(data).hexdigest()


def test_a_file_is_read_once(tmp_path, reads):
    """Asked again, the hash comes without reading; another file of the same bytes is read."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"abc")
    hashes = {file_sha256(tmp_path / name) for name in ("a", "a", "b", "a")}
    assert len(hashes) == 1
    assert reads == ["a", "b"]


def test_a_changed_file_is_read_again(tmp_path, reads):
    """Other bytes under the same name have another hash, also when the size stays."""
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    before = file_sha256(path)
    path.write_bytes(b"abd")
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert file_sha256(path) != before
    assert reads == ["a", "a"]


def test_a_file_that_is_gone_is_pythons_error(tmp_path):
    """There is no hash of what cannot be read, whatever was known of it before."""
    (tmp_path / "a").write_bytes(b"abc")
    file_sha256(tmp_path / "a")
    (tmp_path / "a").unlink()
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "a")
