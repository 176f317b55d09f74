"""The recipe: what fixes the numbers, chosen once a run, recorded, used by every actor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CALIBRATED", "Recipe", "settled"]

CALIBRATED = "calibrated"
"""Folder of the output that holds the network a run was calibrated with."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that may change a mask by a rounding error.

    Attributes:
        backend: name of a file in ``pipeline/backends/``.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        core: side of a tile's core, pixels.
        halo: context on every side of the core, pixels.
        block: side of a block, pixels; a multiple of ``core``.
        stitch: ``crop``, ``linear`` or ``gaussian``.
        batch: tiles a forward pass; edge batches are padded to it on a GPU.
        threads: compute threads an actor.
        calibrated: hash of the network that was calibrated for the run; empty: none was.
        place: folder that holds it, which changes no number.
    """

    backend: str = "torch"
    device: str = "cpu"
    precision: str = "fp32"
    core: int = 1024
    halo: int = 0
    block: int = 2048
    stitch: str = "crop"
    batch: int = 1
    threads: int = 1
    calibrated: str = ""
    place: str = ""

    @property
    def outer(self) -> int:
        """Side of what a tile reads, pixels."""
        return self.core + 2 * self.halo

    def to_dict(self) -> dict[str, Any]:
        """The recipe as run.json holds it: without the place, and without what was not calibrated."""
        return {name: value for name, value in asdict(self).items() if name != "place" and (value or name != "calibrated")}


def settled(parts: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Put what was chosen in place of each ``auto`` of ``tiling`` and ``compute``: whether it was asked for or chosen is all the same.

    Example:
        >>> settled({"model": "auto", "tiling": {"core": "auto", "halo": 64}}, {"core": 1024, "halo": 32})
        {'model': 'auto', 'tiling': {'core': 1024, 'halo': 64}}
    """
    return {
        name: {key: recipe.get(key, value) if value == "auto" else value for key, value in part.items()}
        if name in {"tiling", "compute"}
        else part
        for name, part in parts.items()
    }
