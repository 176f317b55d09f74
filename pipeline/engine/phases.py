"""What is done to a block in each phase: fit, score, predict, count, copy, finish.

Each phase is three steps (:class:`pipeline.engine.block_pipeline.Phase`): ``load`` reads, ``work`` computes, ``save``
writes and returns the receipt's fields. Adding a phase is adding a class and a line to :func:`phases_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.block_pipeline import Phase, Watch
from pipeline.engine.exports import finish_copy, finish_mask, write_copy
from pipeline.engine.job import Resources, read_reflected, valid_pixels
from pipeline.engine.prediction import Predicted, digest, read_truth
from pipeline.engine.seams import Join, Score
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.records import Block
from pipeline.statistics import Counts, count, encode

__all__ = ["phases_of"]


def phases_of(bench: Resources) -> dict[str, Phase]:
    """Every phase, over one actor's open things."""
    kinds: dict[str, Callable[[Resources], Phase]] = {
        "fit": Fit,
        "score": Score,
        "predict": Segment,
        "count": Count,
        "copy": Copy,
        "finish": Finish,
    }
    return {name: kind(bench) for name, kind in kinds.items()}


@dataclass(frozen=True)
class Fit:
    """Summarise the raw pixels of a block for the statistics of its image."""

    bench: Resources

    def load(self, block: Block, watch: Watch) -> NDArray[Any]:
        """Read the block, and around it what the fitters ask for."""
        raster = self.bench.raster(block.image.path, block.image.reader)
        return read_reflected(raster, block.box.grow(self.bench.job.fit_halo), block.plane)

    def work(self, block: Block, loaded: NDArray[Any], watch: Watch) -> str:
        """Observe it."""
        valid_YX = valid_pixels(loaded, block.image.header)
        return encode(self.bench.job.observe(loaded, valid_YX, block.box, block.plane))

    def save(self, block: Block, worked: str, watch: Watch) -> dict[str, Any]:
        """Nothing to write: the summary rides on the receipt."""
        return {"payload": worked}


@dataclass(frozen=True)
class Segment(Join):
    """Segment a block; a model that takes pixels for class ids is given nothing else."""

    def work(self, block: Block, loaded: Any, watch: Watch) -> Predicted:
        """Make the mask."""
        if self.bench.job.model is not None and self.bench.job.model.takes_ids:
            _require_ids(loaded.pixels_CYX[0][block.box.within(loaded.region).slices], block.box, self.bench.job.num_classes, "value")
        return super().work(block, loaded, watch)


@dataclass(frozen=True)
class Count:
    """Count a mask that exists against its truth."""

    bench: Resources

    def load(self, block: Block, watch: Watch) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
        """Read mask and truth."""
        mask_CYX = self.bench.raster(block.image.path, block.image.reader).read(block.box, block.plane)
        return mask_CYX[0], *read_truth(self.bench, block)

    def work(self, block: Block, loaded: tuple[NDArray[Any], NDArray[Any] | None, str], watch: Watch) -> tuple[Counts, str]:
        """Count it."""
        mask_YX, truth_YX, truth_error = loaded
        _require_ids(mask_YX, block.box, self.bench.job.num_classes, "prediction")
        return count(mask_YX, truth_YX, self.bench.job.num_classes), truth_error

    def save(self, block: Block, worked: tuple[Counts, str], watch: Watch) -> dict[str, Any]:
        """Nothing to write."""
        return {"counts": worked[0], "truth_error": worked[1]}


@dataclass(frozen=True)
class Copy:
    """Take pixels over as they are: the identity model of ``convert``."""

    bench: Resources

    def load(self, block: Block, watch: Watch) -> NDArray[Any]:
        """Read the block, all channels."""
        return self.bench.raster(block.image.path, block.image.reader).read(block.box, block.plane)

    def work(self, block: Block, loaded: NDArray[Any], watch: Watch) -> NDArray[Any]:
        """Change nothing."""
        return loaded

    def save(self, block: Block, worked: NDArray[Any], watch: Watch) -> dict[str, Any]:
        """Write whole shards."""
        return {"digest": digest(worked), "files": write_copy(self.bench, block, worked)}


@dataclass(frozen=True)
class Finish:
    """When an image's last block is committed: pyramid and exports; repeatable."""

    bench: Resources

    def load(self, block: Block, watch: Watch) -> None:
        """Nothing to read ahead."""

    def work(self, block: Block, loaded: None, watch: Watch) -> None:
        """Nothing to compute."""

    def save(self, block: Block, worked: None, watch: Watch) -> dict[str, Any]:
        """Write what is made of the whole image."""
        job = self.bench.job
        files = finish_mask(job, block) if job.masks else finish_copy(job, block)
        return {"files": files, "digest": block.key}  # which holds the pixels' digests: what is counted of them later depends on it


def _require_ids(ids_YX: NDArray[Any], box: Box, classes: int, what: str) -> None:
    """Refuse pixels of a box that are neither class ids nor the value of no prediction."""
    fill = 255 if ids_YX.dtype.itemsize == 1 else 65535
    strange_YX = (ids_YX < 0) | ((ids_YX >= classes) & (ids_YX != fill))
    if ids_YX.dtype.kind == "f":
        strange_YX |= ids_YX != np.floor(ids_YX)
    if strange_YX.any():
        y, x = divmod(int(strange_YX.argmax()), strange_YX.shape[1])
        where = f"(y={box.y0 + y}, x={box.x0 + x})"
        raise BlockError(f"{what} {ids_YX[y, x]} at {where} is not a class id; expected 0..{classes - 1}, or {fill} for none")
