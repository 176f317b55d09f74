"""Blending across blocks: each tile is computed once, by the block that owns it.

::

    score    a block's own tiles ──▶ its seam file: the mask away from the seams, and its shares of the seams
    predict  its seam file, and its neighbours' shares of its seams ──▶ the mask of the block

Seam files lie in the output folder until their image is finished: one a block, numpy's ``.npz``, uncompressed, of which each array
is read when it is asked for. An image of one block has no seams and no score phase.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.block_pixels import pixel_digest, read_truth
from pipeline.engine.job import Job
from pipeline.engine.prediction import BlockPixels, BlockResult, ignoring, kept_pixels
from pipeline.engine.resources import Resources
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.records import Block
from pipeline.storage import Storage
from pipeline.tiling import Blender, Grid, NumpyOps, OverlapRegion, overlap_regions, sum_shares, tile_weights

__all__ = ["SEAM_FOLDER", "JoinedBlock", "SeamFiles", "gather_seams", "seam_folder", "seam_shares_of"]

SEAM_FOLDER = "parts"
"""Folder below the output folder."""

RETRY = "Run `gigaseg retry` to compute them again."


def seam_folder(image: Image) -> str:
    """Return the folder of an image's seam files, below the output folder.

    It is named by a hash, so that no image's name leads into another image's folder.
    """
    return f"{SEAM_FOLDER}/{hashlib.blake2b(image.name.encode(), digest_size=12).hexdigest()}"


class SeamFiles:
    """The seam files of one image."""

    def __init__(self, job: Job, image: Image) -> None:
        self.storage, self.folder = job.storage, seam_folder(image)

    def write(self, block: Block, values: Mapping[str, Any]) -> dict[str, int]:
        """Write the seam file of a block, and sync it to the disk; values that are None are left out.

        Returns:
            The size in bytes by key.

        Raises:
            StoreError: the disk refuses.
        """
        key = self._key(block)
        with self.storage.local_file(key) as path, path.open("wb") as file:
            np.savez(file, **{name: value for name, value in values.items() if value is not None})
        return {key: self.storage.size(key) or 0}

    @contextmanager
    def open(self, block: Block) -> Iterator[Callable[[int, int], Mapping[str, Any] | None]]:
        """Yield a function that returns the seam file at a (row, column) of blocks, or None where that block failed.

        Files stay open until the context ends.

        Raises:
            BlockError: a seam file is gone or damaged.
        """
        with ExitStack() as stack:

            @cache
            def seam_file(row: int, col: int) -> Mapping[str, Any] | None:
                owner = replace(block, row=row, col=col)
                return None if owner.id in block.lost else stack.enter_context(_SeamFile(self.storage, self._key(owner)))

            yield seam_file

    @property
    def exist(self) -> bool:
        """Whether any are there."""
        return bool(self.storage.list(f"{self.folder}/"))

    def discard(self) -> None:
        """Remove all of them at once: no reader ever sees only some of them.

        Raises:
            StoreError: the disk refuses.
        """
        self.storage.delete_tree(self.folder)

    def _key(self, block: Block) -> str:
        return f"{self.folder}/{block.plane}.{block.row}.{block.col}.npz"


class _SeamFile(Mapping[str, Any], AbstractContextManager["_SeamFile"]):
    """An open seam file; a damaged one is removed, so that it is written again."""

    def __init__(self, storage: Storage, key: str) -> None:
        self.storage, self.key = storage, key
        with self._reading(), ExitStack() as stack:
            self.file = np.load(stack.enter_context(storage.open(key)))
            self.close = stack.pop_all().close

    def __getitem__(self, name: str) -> Any:
        with self._reading():  # a missing name means a damaged file
            return self.file[name]

    def __contains__(self, name: object) -> bool:
        return name in self.file.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.file.files)

    def __len__(self) -> int:
        return len(self.file.files)

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise BlockError(f"{self.storage}/{self.key}: the scores of a block are gone. {RETRY}") from error
        except (OSError, MemoryError, SystemError):  # may succeed on another try; numpy raises SystemError if threads parse headers at once
            raise
        except Exception as error:  # a damaged file may raise anything
            self.storage.delete(self.key)
            raise BlockError(
                f"{self.storage}/{self.key}: the scores of a block cannot be read ({type(error).__name__}: {error}). {RETRY}"
            ) from error


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
            self.result.nats, self.result.nats_pixels = None, 0
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
    with SeamFiles(job, block.image).open(block) as seam_file_of:
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
