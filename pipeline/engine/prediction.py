"""The predict phase: tiles, scores, one mask a block.

Everything between the pixels of a block and its mask happens where the backend's scores live (:mod:`pipeline.tiling.array_ops`).
On a GPU ``work`` only says what is to be done: while it is being done, the next block is read and sent, and ``save``
waits for the last one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.block_pipeline import Watch
from pipeline.engine.exports import write_mask, write_probs
from pipeline.engine.job import Job, Resources, read_reflected, valid_pixels
from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.models import Predictor
from pipeline.records import Block
from pipeline.statistics import Counts
from pipeline.tiling import Agreement, ArrayOps, Blender, Fetched, Tile

__all__ = ["Pixels", "Predict", "Predicted", "Result", "digest", "read_truth"]


def digest(pixels: NDArray[Any]) -> str:
    """Fingerprint of decoded pixels, whatever their memory layout."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()


@dataclass
class Pixels:
    """A block as read, at its place: its tiles' pixels, where they hold data, and its truth.

    Attributes:
        region: what was read.
        pixels_CYX: of the region.
        valid_YX: of the block; None: everywhere.
        truth_YX: of the block; None: there is none.
        truth_error: why there is none though there should be.
        truth_digest: of the truth as read, where scores wait for other blocks.
    """

    region: Box
    pixels_CYX: Any
    valid_YX: Any | None
    truth_YX: Any | None
    truth_error: str
    truth_digest: str = ""


@dataclass
class Predicted:
    """A block as computed; what is on a device comes when it is asked for."""

    fetched: Fetched
    truth_error: str
    notes: tuple[str, ...]

    @cached_property
    def values(self) -> dict[str, Any]:
        """Everything, by name.

        Raises:
            BlockError: a score was not finite.
        """
        values = self.fetched()
        if not np.isfinite(values["finite"]):
            raise BlockError("the model gave NaN or infinite scores")
        return values

    @property
    def counts(self) -> Counts:
        """The block's counts."""
        names = ("predicted", "no_prediction", "confusion", "cross_entropy", "cross_entropy_pixels", "overlap_equal", "overlap_pixels")
        return Counts(**{name: self.values[name] for name in names})


@dataclass(frozen=True)
class Predict:
    """Segment a block: tiles, scores, stitch, count, write."""

    bench: Resources

    def load(self, block: Block, watch: Watch) -> Pixels:
        """Read the outer of the whole block in one go, and its truth; send them to where they are computed with."""
        sides = zip(*(astuple(tile.outer) for tile in self.bench.job.grid(block.image).tiles(block.box)), strict=True)
        y0, x0, y1, x1 = (pick(ends) for pick, ends in zip((min, min, max, max), sides, strict=True))
        region = Box(y0, x0, y1, x1)
        raster = self.bench.raster(block.image.path, block.image.reader)
        pixels_CYX = read_reflected(raster, region, block.plane)
        valid_YX = valid_pixels(pixels_CYX, block.image.header)
        truth_YX, truth_error = read_truth(self.bench, block)
        truth_digest = digest(truth_YX) if truth_YX is not None and self.bench.job.joins(block.image) else ""
        if valid_YX is not None:
            # A NaN or a nodata of -3e38 would spread over the whole field of the network; its own pixels get no prediction anyway.
            pixels_CYX = np.where(valid_YX, pixels_CYX, pixels_CYX.dtype.type(0))
            valid_YX = valid_YX[block.box.within(region).slices]
            truth_YX = None if truth_YX is None else np.where(valid_YX, truth_YX, np.iinfo(truth_YX.dtype).max)
        pixels, valid, truth = (None if array is None else self.ops.put(array) for array in (pixels_CYX, valid_YX, truth_YX))
        return Pixels(region, pixels, valid, truth, truth_error, truth_digest)

    def work(self, block: Block, loaded: Any, watch: Watch) -> Predicted:
        """Predict every tile, keep cores or blend, count."""
        result, _ = self.segment(block, loaded, watch)
        with watch("count"):
            return result.finish(self.notes())

    def segment(self, block: Block, loaded: Pixels, watch: Watch) -> tuple[Result, Blender | None]:
        """Predict every tile; what tiles of other blocks share stays in the blend."""
        job, ops, grid = self.bench.job, self.ops, self.bench.job.grid(block.image)
        result = Result(block, loaded, job, ops)
        blend = Blender(grid, job.recipe.stitch, ops) if job.blends else None
        whole = Box(0, 0, *grid.shape) if blend else block.box
        for tile, outputs in self._predict(block, loaded):
            seen = tile.outer.grow((outputs.shape[-2] - tile.outer.shape[0]) // 2)  # valid padding takes the same off every side
            shared = seen.meet(whole)
            assert shared is not None
            with watch("stitch"):
                scores = ops.as_array(outputs[(..., *shared.within(seen).slices)])
                classes_YX = result.classes(scores)
                found = blend.add(tile, seen, shared, scores) if blend else _core(tile, shared, scores)
                for box, kept, is_own in found:
                    result.take(box, kept, classes_YX[box.within(shared).slices] if is_own else result.classes(kept))
            with watch("count"):
                result.agreement.add(tile, seen, shared, classes_YX)
        return result, blend

    def save(self, block: Block, worked: Predicted, watch: Watch) -> dict[str, Any]:
        """Write whole shards, then describe them."""
        with watch("compute"):
            mask_YX, probs_KYX = worked.values["mask"], worked.values["probs"]
        files = write_mask(self.bench, block, mask_YX)
        if probs_KYX is not None:
            files |= write_probs(self.bench, block, probs_KYX)
        fields = {"digest": digest(mask_YX), "files": files, "counts": worked.counts, "truth_error": worked.truth_error}
        return {**fields, "notes": worked.notes}

    def notes(self) -> tuple[str, ...]:
        """What the backend had to change since it was last asked, such as a halved batch."""
        notes = self.predict.notes
        taken, notes[:] = tuple(notes), []
        return taken

    @property
    def ops(self) -> ArrayOps:
        """Where the backend takes pixels and leaves scores."""
        return self.predict.ops

    @property
    def predict(self) -> Predictor:
        """The opened model."""
        assert self.bench.predict is not None
        return self.bench.predict

    def _needs_scores(self, loaded: Pixels) -> bool:
        """Cross-entropy, probabilities and blending do; a mask and the counts of it are made of classes."""
        return loaded.truth_YX is not None or self.bench.job.blends or self.bench.job.probs

    def _predict(self, block: Block, loaded: Pixels) -> Iterator[tuple[Tile, Any]]:
        """Run the network over tiles of equal size together, so that batches are full."""
        batch = self.bench.job.recipe.batch
        predict = self.predict if self._needs_scores(loaded) else self.predict.classes
        tiles = sorted(self.bench.job.grid(block.image).tiles(block.box), key=lambda tile: tile.outer.shape)
        for _, same in groupby(tiles, key=lambda tile: tile.outer.shape):
            alike = list(same)
            for first in range(0, len(alike), batch):
                some = alike[first : first + batch]
                views = [loaded.pixels_CYX[(slice(None), *tile.outer.within(loaded.region).slices)] for tile in some]
                yield from zip(some, predict(self.ops.stack(views), [block.fit] * len(some)), strict=True)


def _core(tile: Tile, shared: Box, scores: Any) -> Iterator[tuple[Box, Any, bool]]:
    """Keep a tile's core, scores (K, Y, X) or classes (Y, X), and nothing else."""
    yield tile.core, scores[(..., *tile.core.within(shared).slices)], True


class Result:
    """The mask of a block and its counts, filled cell by cell."""

    def __init__(self, block: Block, loaded: Pixels, job: Job, ops: ArrayOps) -> None:
        self.block, self.loaded, self.ops = block, loaded, ops
        self.num_classes, self.fill = job.num_classes, job.fill
        self.mask_YX = ops.zeros(block.box.shape, job.num_classes)
        self.probs_KYX = ops.zeros((job.num_classes, *block.box.shape), job.num_classes) if job.probs else None
        self.agreement = Agreement(block.box, ops)
        self.finite: Any = 0.0
        self.nats: Any = None
        self.nats_pixels: Any = 0

    def classes(self, scores: Any) -> Any:
        """Classes (Y, X) of scores (K, Y, X); a model may have given classes."""
        if scores.ndim == 2:
            return scores
        if len(scores) != self.num_classes:
            raise BlockError(f"the model gave {len(scores)} classes, {self.num_classes} are named")
        classes_YX, finite = self.ops.argmax(scores)
        self.finite += finite
        return classes_YX

    def take(self, box: Box, kept: Any, classes_YX: Any) -> None:
        """Store a cell's classes, and what its scores are needed for."""
        here = box.within(self.block.box).slices
        self.mask_YX[here] = classes_YX
        if kept.ndim == 2:
            return
        if self.probs_KYX is not None:
            self.probs_KYX[(slice(None), *here)] = self.ops.softmax_bytes(kept)
        if self.loaded.truth_YX is not None:
            nats, pixels = self.ops.cross_entropy(kept, self.loaded.truth_YX[here])
            self.nats = nats if self.nats is None else self.nats + nats
            self.nats_pixels += pixels

    def go_on(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what :meth:`values` gave, without scores that are still to come; numbers have no axes."""
        self.mask_YX = values["mask"]
        if self.probs_KYX is not None:
            self.probs_KYX = values["probs"]
        self.nats = values["cross_entropy"].item() if "cross_entropy" in values else None
        self.nats_pixels = values["cross_entropy_pixels"].item()
        self.agreement.equal, self.agreement.pixels = values["overlap_equal"].item(), values["overlap_pixels"].item()

    def values(self) -> dict[str, Any]:
        """What there is so far; pixels without data have no prediction."""
        if self.loaded.valid_YX is not None:
            self.mask_YX[~self.loaded.valid_YX] = self.fill
        return {
            "mask": self.mask_YX,
            "probs": self.probs_KYX,
            "finite": self.finite,
            "cross_entropy": self.nats,
            "cross_entropy_pixels": self.nats_pixels,
            "overlap_equal": self.agreement.equal,
            "overlap_pixels": self.agreement.pixels,
        }

    def finish(self, notes: tuple[str, ...]) -> Predicted:
        """Count the mask, and ask for all of it."""
        values = {**self.values(), **self.ops.count(self.mask_YX, self.loaded.truth_YX, self.num_classes)}
        return Predicted(self.ops.fetch(values), self.loaded.truth_error, notes)


def read_truth(bench: Resources, block: Block) -> tuple[NDArray[Any] | None, str]:
    """Read a block's truth as class ids; a value outside the classes spoils the image's metrics, not its mask."""
    image, job = block.image, bench.job
    if image.truth is None or job.truth_map is None:
        return None, ""
    try:
        raw_CYX = bench.raster(image.truth, job.truth_reader).read(block.box, block.plane)
        return job.truth_map.apply(raw_CYX, block.box), ""
    except (BlockError, InputError) as error:
        return None, f"{image.truth}: {error}"
