"""One image of a run, as the plan found it: a small value that travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.raster import Header

__all__ = ["Image"]


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a run, as the plan found it.

    Attributes:
        index: place in the plan's order, from 0.
        name: NAME of the output folder, unique, ``/`` kept.
        path: where the pixels are.
        header: what the file says of itself.
        reader: reader name and options, as in the YAML.
        identity: what makes the pixels these pixels: path, size, time or etag, channels, level.
        truth: path of the reference mask; None: there is none.
        truth_identity: the same of the truth; empty without truth.
    """

    index: int
    name: str
    path: str
    header: Header
    reader: Mapping[str, Any]
    identity: str = ""
    truth: str | None = None
    truth_identity: str = ""
