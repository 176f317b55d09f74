"""Small answers that cost something to find, kept in the user's cache folder for later runs.

An answer is JSON under a key that names all it depends on. The cache is a convenience: one that cannot be read is
empty, and one that cannot be written stays as it is.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["cache_folder", "recall", "remember"]


def cache_folder(kind: str) -> Path:
    """Where answers of one kind lie; nothing is made."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gigaseg" / kind


def recall(kind: str, key: str) -> dict[str, Any] | None:
    """Return what was remembered; None: nothing, or nothing that can be read."""
    try:
        found = json.loads((cache_folder(kind) / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def remember(kind: str, key: str, answer: Mapping[str, Any]) -> None:
    """Keep an answer; readers see the old one or the new one, never half of it."""
    folder = cache_folder(kind)
    with suppress(OSError):  # a home that cannot be written in costs the next run its time, not this one its life
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False, encoding="utf-8") as file:
            json.dump(dict(answer), file)
        Path(file.name).replace(folder / f"{key}.json")
