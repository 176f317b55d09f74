"""Measured strides and fields in the user's cache, so that a plan can read them without torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.models.networks.stride_and_field import VERSION, Probe
from pipeline.storage import file_sha256, recall, remember

__all__ = ["probe_key", "recall_probe", "remember_probe"]


def probe_key(weights: Path, **built_from: Any) -> str:
    """Return the key of a network's measurement: a hash of its weights, everything else it is built from, and the probe's version.

    Raises:
        OSError: the file cannot be read.
    """
    parts = {"probe": VERSION, "weights": file_sha256(weights), **built_from}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def recall_probe(weights: Path, **built_from: Any) -> Probe | None:
    """Return the remembered measurement of a network; None: there is none, or the weights file is missing."""
    if not weights.is_file():
        return None
    found = recall("probe", probe_key(weights, **built_from)) or {}
    try:
        return Probe(stride=int(found["stride"]), field=None if found["field"] is None else int(found["field"]))
    except (ValueError, KeyError, TypeError):
        return None  # an unreadable cache counts as empty


def remember_probe(key: str, found: Probe) -> None:
    """Keep a measurement under the key that :func:`probe_key` returned."""
    remember("probe", key, asdict(found))
