"""Blending across blocks: each tile is computed once, by the block that owns it.

::

    score    a block's own tiles ──▶ its seam file: the mask away from the seams, and its shares of the seams
    predict  its seam file, and its neighbours' shares of its seams ──▶ the mask of the block

A seam file is a temporary file of a block. An image of one block has no seams and no score phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.block_pixels import pixel_digest, read_truth
from pipeline.engine.parts import PartFiles
from pipeline.engine.prediction import BlockPixels, BlockResult, ignoring, kept_pixels
from pipeline.engine.resources import Resources
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.records import Block
from pipeline.tiling import Blender, Grid, NumpyOps, OverlapRegion, overlap_regions, sum_shares, tile_weights

__all__ = ["SEAMS", "JoinedBlock", "gather_seams", "seam_shares_of"]

SEAMS = "seams"
"""Kind of the temporary files (:class:`pipeline.engine.parts.PartFiles`)."""


@dataclass
class JoinedBlock:
    """A block as its own and its neighbours' seam files give it.

    Attributes:
        result: mask and counts away from the seams.
        seams: the boxes of its seams, and their summed scores (K, Y, X).
        has_nats: whether the cross-entropy away from the seams is that of the present truth.
    """

    result: BlockResult
    seams: list[tuple[Box, NDArray[np.float32]]]
    has_nats: bool

    def stitch(self) -> BlockResult:
        """Put the seams into the result, and return it."""
        for box, sum_KYX in self.seams:
            self.result.put(box, sum_KYX, self.result.classes_of(sum_KYX))
        if not self.has_nats:
            self.result.nats, self.result.nats_pixels, self.result.confidence = None, 0, None
        return self.result


def seam_shares_of(blender: Blender) -> dict[str, Any]:
    """Return what a block's tiles add to its seams, by the name that :func:`gather_seams` looks for."""
    return {_name(region, tile): share_KYX for region, shares in blender.shares.items() for tile, share_KYX in shares.items()}


def gather_seams(resources: Resources, block: Block) -> JoinedBlock:
    """Read a block's seam file and add up the shares of its seams; a neighbour that failed adds nothing.

    Raises:
        BlockError: the block has no scores, or a seam file is gone or damaged.
    """
    job, seams = resources.job, list[tuple[Box, NDArray[np.float32]]]()
    truth_YX, truth_error = read_truth(resources, block)
    with PartFiles(job, block.image).open(SEAMS, block.plane, block.lost) as seam_file_of:
        own = seam_file_of(block.row, block.col)
        if own is None:
            raise BlockError("it has no scores: see its failure in phase score")
        # The truth may have changed since the score phase: its cross-entropy cannot be computed again without the scores.
        has_nats = truth_YX is not None and str(own["truth_digest"]) == pixel_digest(truth_YX)
        kept_YX = kept_pixels(resources, block)
        scored_YX = None if kept_YX is None else ignoring(truth_YX, kept_YX)
        loaded = BlockPixels(block.box, None, None, truth_YX, truth_error, kept_YX=kept_YX, scored_YX=scored_YX)
        result = BlockResult(block, loaded, job, NumpyOps())
        result.restore(own)
        loaded.valid_YX = result.mask_YX != job.fill
        if kept_YX is not None:
            loaded.valid_YX |= ~kept_YX  # `kept_YX` marks skipped pixels
        loaded.truth_YX = ignoring(truth_YX, loaded.valid_YX)
        grid, kind, reach = job.grid(block.image), job.recipe.stitch, int(own["reach"])
        for region, owners in _seams(grid, reach, block):
            files = zip(region.tiles, (seam_file_of(*owner) for owner in owners), strict=True)
            shares = {tile: file[_name(region, tile)] for tile, file in files if file is not None}
            sum_KYX = sum_shares(shares)
            if len(shares) < len(owners):
                sum_KYX /= sum(tile_weights(grid, kind, reach, tile, region.box) for tile in shares)
            seams.append((region.box, sum_KYX))
    return JoinedBlock(result, seams, has_nats)


def _seams(grid: Grid, reach: int, block: Block) -> Iterator[tuple[OverlapRegion, list[tuple[int, int]]]]:
    """Yield the regions of a block that tiles of other blocks reach too, with the block (row, column) of each tile."""
    cores = grid.block // grid.core
    for region in overlap_regions(grid, reach, block.box):
        owners = [(row // cores, col // cores) for row, col in region.tiles]
        if set(owners) != {(block.row, block.col)}:
            yield region, owners


def _name(region: OverlapRegion, tile: tuple[int, int]) -> str:
    """Name a tile's share of a region in a seam file: the region's first pixel, and the tile."""
    return f"{region.box.y0}.{region.box.x0}.{tile[0]}.{tile[1]}"
