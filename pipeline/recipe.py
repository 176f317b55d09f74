"""The recipe: what fixes the numbers, chosen once a run, recorded, used by every actor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Recipe"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that may change a mask by a rounding error.

    Attributes:
        backend: name of a file in ``pipeline/backends/``.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        core: side of a tile's core, pixels.
        halo: context on every side of the core, pixels.
        block: side of a block, pixels; a multiple of ``core``.
        stitch: ``crop``, ``linear`` or ``gaussian``.
        batch: tiles a forward pass; edge batches are padded to it on a GPU.
        threads: compute threads an actor.
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

    @property
    def outer(self) -> int:
        """Side of what a tile reads, pixels."""
        return self.core + 2 * self.halo

    def to_dict(self) -> dict[str, Any]:
        """The recipe as run.json holds it."""
        return asdict(self)
