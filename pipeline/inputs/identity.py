"""What an image's pixels depend on, as a hash: a file that has changed has another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.inputs.file_states import FileStates, read_states
from pipeline.readers import Reader

__all__ = ["hash_values", "identify"]


def hash_values(*values: Any) -> str:
    """Return a hash of plain values; equal values give equal text, whatever the order of keys."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def identify(path: str, spec: Mapping[str, Any], reader: Reader, beside: Sequence[str] | None = None) -> tuple[str, FileStates]:
    """Return a hash of everything that an image's pixels depend on, and the states of its files.

    The hash is that of path, size and time of change, of files that belong to the image, and of reader options. ``reader`` is built
    from ``spec``; ``beside`` are the files that belong to the image, None: ask the reader.
    """
    states = read_states(path, reader, beside)
    chunks = [states.last_written] if states.array else []
    return hash_values(path, [*states.versions, *chunks], dict(spec)), states
