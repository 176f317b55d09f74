"""The recipe: what fixes the numbers. It is chosen once in a run, recorded, and used by every actor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CALIBRATED_FOLDER", "Recipe", "replace_auto"]

CALIBRATED_FOLDER = "calibrated"  # in the output: holds the calibrated network of a run with int8


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that may change a mask by a rounding error."""

    backend: str = "torch"  # name of a file in `pipeline/backends/`
    device: str = "cpu"  # `cpu` or `cuda`
    precision: str = "fp32"  # `fp32`, `bf16`, `fp16` or `int8`
    core: int = 1024  # side of a tile's core, pixels
    halo: int = 0  # context on every side of the core, pixels
    block: int = 2048  # side of a block, pixels; a multiple of `core`
    stitch: str = "crop"  # `crop`, `linear` or `gaussian`
    batch: int = 1  # number of tiles in a forward pass, at most
    threads: int = 1  # compute threads of each actor
    calibrated: str = ""  # hash of the network that was calibrated for the run; empty: none was
    calibration_folder: str = ""  # folder that holds this network; it changes no number

    @property
    def outer(self) -> int:
        """Side of the region that a tile reads, pixels."""
        return self.core + 2 * self.halo

    @property
    def io_threads(self) -> tuple[int, int]:
        """How many blocks an actor reads, and writes, at a time: one reader is slower than a GPU, and a writer waits for the GPU."""
        return (4, 4) if self.device == "cuda" else (1, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as run.json holds it: without the calibration folder, and without an empty ``calibrated``."""
        return {name: value for name, value in asdict(self).items() if name != "calibration_folder" and (value or name != "calibrated")}


def replace_auto(keys: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Replace each ``auto`` under ``tiling`` and ``compute`` by the recipe's value, so that asking for a value equals choosing it.

    Example:
        >>> replace_auto({"model": "auto", "tiling": {"core": "auto", "halo": 64}}, {"core": 1024, "halo": 32})
        {'model': 'auto', 'tiling': {'core': 1024, 'halo': 64}}
    """
    replaced = dict(keys)
    for name in {"tiling", "compute"} & keys.keys():
        replaced[name] = {key: recipe.get(key, value) if value == "auto" else value for key, value in keys[name].items()}
    return replaced
