"""The recipe: what fixes the numbers, chosen once a run, recorded, used by every actor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CALIBRATED_FOLDER", "Recipe", "replace_auto"]

CALIBRATED_FOLDER = "calibrated"
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
        batch: tiles a forward pass, at most.
        threads: compute threads an actor.
        calibrated: hash of the network that was calibrated for the run; empty: none was.
        calibration_folder: folder that holds it, which changes no number.
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
    calibration_folder: str = ""

    @property
    def outer(self) -> int:
        """Side of what a tile reads, pixels."""
        return self.core + 2 * self.halo

    @property
    def io_threads(self) -> tuple[int, int]:
        """Blocks that an actor reads, and writes, at a time: a GPU outruns one reader, and a writer waits for it before it writes."""
        return (4, 4) if self.device == "cuda" else (1, 1)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as run.json holds it: without the calibration folder, and without what was not calibrated."""
        return {name: value for name, value in asdict(self).items() if name != "calibration_folder" and (value or name != "calibrated")}


def replace_auto(keys: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Replace each ``auto`` under ``tiling`` and ``compute`` by the recipe's value, so that asking for a value equals choosing it.

    Example:
        >>> replace_auto({"model": "auto", "tiling": {"core": "auto", "halo": 64}}, {"core": 1024, "halo": 32})
        {'model': 'auto', 'tiling': {'core': 1024, 'halo': 64}}
    """
    return {
        name: {key: recipe.get(key, value) if value == "auto" else value for key, value in part.items()}
        if name in {"tiling", "compute"}
        else part
        for name, part in keys.items()
    }
