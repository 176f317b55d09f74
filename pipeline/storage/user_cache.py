"""Small results that cost time to compute, kept as JSON in the user's cache folder under keys that name all they depend on.

A cache that cannot be read counts as empty, and one that cannot be written is left alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.storage.local import LocalStorage

__all__ = ["cache_folder", "recall", "remember"]


def cache_folder(kind: str) -> Path:
    """Return the folder of one kind of results; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gigaseg" / kind


def recall(kind: str, key: str) -> dict[str, Any] | None:
    """Return what was kept under a key; None where there is nothing, or it cannot be read."""
    try:
        result = json.loads(LocalStorage(cache_folder(kind)).get(f"{key}.json") or b"null")
    except (StoreError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def remember(kind: str, key: str, result: Mapping[str, Any]) -> None:
    """Keep a result; readers see the old one or the new one, never a part."""
    storage = LocalStorage(cache_folder(kind))
    with suppress(StoreError):  # a home that is read-only costs the next run time; this run has what it needs
        storage.make()
        storage.put(f"{key}.json", json.dumps(dict(result)).encode(), durable=False)
