"""What happens to files in a bucket when guards, servers and processes fail."""

from __future__ import annotations

import numpy as np

from pipeline.storage import _object_store, open_storage


def test_a_large_file_is_written_in_parts_and_whole(s3, monkeypatch):
    """A file of several parts is there when it is whole; after a failure the old one stays."""
    storage = open_storage(s3)
    data = np.random.default_rng(0).bytes(20 << 20)
    parts, real = [], _object_store.ObjectStorage._upload
    monkeypatch.setattr(_object_store.ObjectStorage, "_upload", lambda *args: (parts.append(args[1]), real(*args)))
    storage.put("memory", memoryview(data))
    with storage.local_file("disk.tif") as path:
        path.write_bytes(data)
    assert parts == ["memory", "disk.tif"]
    assert storage.get("memory") == storage.get("disk.tif") == data
