"""Blending across blocks: each tile is computed once, by the block that owns it.

::

    score    a block's own tiles ──▶ its part: the mask away from the seams, and its shares of the seams
    predict  its part, and what its neighbours hold of its seams ──▶ the mask of the block

Parts lie in the output folder until their image is finished. An image of one block has no seams and no score phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.block_pipeline import Watch
from pipeline.engine.prediction import Pixels, Predict, Predicted, Result, digest, read_truth
from pipeline.engine.seam_files import SeamFiles
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.records import Block
from pipeline.tiling import Grid, NumpyOps, OverlapRegion, overlap_regions, sum_shares, tile_weights

__all__ = ["Join", "Score"]


@dataclass(frozen=True)
class Score(Predict):
    """Compute the tiles of a block, and leave its part for the predict phase."""

    def work(self, block: Block, loaded: Pixels, watch: Watch) -> Predicted:
        """Predict every tile, and blend as far as the block's tiles go."""
        result, blend = self.segment(block, loaded, watch)
        assert blend is not None
        shares = {_name(region, tile): share_KYX for region, given in blend.shares.items() for tile, share_KYX in given.items()}
        values = {**result.values(), "reach": blend.reach, "truth_digest": loaded.truth_digest, **shares}
        return Predicted(self.ops.fetch(values), "", self.notes())

    def save(self, block: Block, worked: Predicted, watch: Watch) -> dict[str, Any]:
        """Write the part."""
        with watch("compute"):
            values = worked.values
        files = SeamFiles(self.bench.job, block.image).write(block, values)
        return {"digest": digest(values["mask"]), "files": files, "notes": worked.notes}


@dataclass
class Joined:
    """What all parts say of a block: the result so far, and the boxes and sums (K, Y, X) of its seams."""

    result: Result
    seams: list[tuple[Box, NDArray[np.float32]]]
    has_nats: bool


@dataclass(frozen=True)
class Join(Predict):
    """Segment a block: from its tiles, or where blocks blend with each other from their parts."""

    def load(self, block: Block, watch: Watch) -> Any:
        """Read pixels, or parts."""
        return self._gather(block) if self.bench.job.joins(block.image) else super().load(block, watch)

    def work(self, block: Block, loaded: Any, watch: Watch) -> Predicted:
        """Make the mask."""
        if isinstance(loaded, Pixels):
            return super().work(block, loaded, watch)
        result: Result = loaded.result
        with watch("stitch"):
            for box, sum_KYX in loaded.seams:
                result.take(box, sum_KYX, result.classes(sum_KYX))
        if not loaded.has_nats:
            result.nats, result.nats_pixels = None, 0
        with watch("count"):
            return result.finish(())

    def _gather(self, block: Block) -> Joined:
        """Add up the seams; where a neighbour failed, of what there is."""
        job, seams = self.bench.job, list[tuple[Box, NDArray[np.float32]]]()
        truth_YX, truth_error = read_truth(self.bench, block)
        with SeamFiles(job, block.image).open(block) as part_of:
            part = part_of(block.row, block.col)
            if part is None:
                raise BlockError("it has no scores: see its failure in phase score")
            # The truth may have changed since then; what its cross-entropy was made of is gone.
            has_nats = truth_YX is not None and str(part["truth_digest"]) == digest(truth_YX)
            loaded = Pixels(block.box, None, None, truth_YX, truth_error)
            result = Result(block, loaded, job, NumpyOps())
            result.go_on(part)
            loaded.valid_YX = result.mask_YX != job.fill
            if truth_YX is not None:
                loaded.truth_YX = np.where(loaded.valid_YX, truth_YX, np.iinfo(truth_YX.dtype).max)
            grid, kind, reach = job.grid(block.image), job.recipe.stitch, int(part["reach"])
            for region, owners in _seams(grid, reach, block):
                found = zip(region.tiles, (part_of(*owner) for owner in owners), strict=True)
                shares = {tile: one[_name(region, tile)] for tile, one in found if one is not None}
                sum_KYX = sum_shares(shares)
                if len(shares) < len(owners):
                    sum_KYX /= sum(tile_weights(grid, kind, reach, tile, region.box) for tile in shares)
                seams.append((region.box, sum_KYX))
        return Joined(result, seams, has_nats)


def _seams(grid: Grid, reach: int, block: Block) -> Iterator[tuple[OverlapRegion, list[tuple[int, int]]]]:
    """The cells of a block that tiles of other blocks reach, too, and the block of each tile."""
    cores = grid.block // grid.core
    for region in overlap_regions(grid, reach, block.box):
        owners = [(row // cores, col // cores) for row, col in region.tiles]
        if set(owners) != {(block.row, block.col)}:
            yield region, owners


def _name(region: OverlapRegion, tile: tuple[int, int]) -> str:
    """What a tile's share of a region is called in a part: the region's first pixel, and the tile."""
    return f"{region.box.y0}.{region.box.x0}.{tile[0]}.{tile[1]}"
