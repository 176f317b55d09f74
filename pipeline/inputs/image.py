"""The images of a run as the catalogue lists them: small values that can be pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.raster import Header

__all__ = ["Image", "UnreadableImage"]


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a run, and what its header says.

    Attributes:
        index: position in the plan's order, from 0.
        name: NAME of the output folder, unique, ``/`` kept.
        path: of the file or store, absolute, or a URL.
        header: what the file says about its pixels.
        reader: name and options, as in the YAML.
        identity: hash of what the pixels depend on: path, size, time of change, reader options.
        truth: path of the reference mask; None: there is none.
        truth_identity: the same hash of the truth; empty without truth.
    """

    index: int
    name: str
    path: str
    header: Header
    reader: Mapping[str, Any]
    identity: str = ""
    truth: str | None = None
    truth_identity: str = ""


@dataclass(frozen=True)
class UnreadableImage:
    """An image of a folder, glob or CSV list that cannot be opened: it is quarantined, and the others are segmented.

    Attributes:
        name: NAME of the output folder.
        path: of the file or store.
        cause: why it cannot be opened, one line.
    """

    name: str
    path: str
    cause: str
