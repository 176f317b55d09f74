"""From the pixels of a block to its mask: tiles, scores, stitching, counts.

Everything between pixels and mask happens where the backend's scores are, in numpy or on a device
(:mod:`pipeline.tiling.array_ops`). On a GPU these functions only queue work: meanwhile the next block is read and sent, and
whoever writes a block waits for it (:attr:`Predicted.values`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.block_pixels import pixel_digest, read_truth, read_zero_filled
from pipeline.engine.job import Job
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.records import Block
from pipeline.statistics import Counts, recolor
from pipeline.tiling import Agreement, ArrayOps, Blender, Fetched, Tile

__all__ = [
    "BlockPixels",
    "BlockResult",
    "Predicted",
    "ignoring",
    "kept_pixels",
    "map_channels",
    "predict_tiles",
    "read_block",
    "stain_notes",
    "take_notes",
]


@dataclass
class BlockPixels:
    """A block as read, in arrays of the backend.

    Attributes:
        region: the box of ``pixels_CYX``: the outer of all predicted tiles of the block.
        valid_YX: pixels of the block that hold data; None: all.
        truth_YX: class ids of the block; None: there is no truth.
        kept_YX: pixels of the block that are not skipped; None: all.
        scored_YX: truth of the pixels that have probabilities, the others ignored; None: the same as ``truth_YX``.
        tiles: tiles to predict; None: all tiles of the block.
        truth_error: why the truth cannot be counted; empty if it can.
        truth_digest: digest of the truth as read, for a block whose scores wait for other blocks.
    """

    region: Box
    pixels_CYX: Any
    valid_YX: Any | None
    truth_YX: Any | None
    truth_error: str
    truth_digest: str = ""
    kept_YX: Any | None = None
    scored_YX: Any | None = None
    tiles: Sequence[Tile] | None = None


@dataclass
class Predicted:
    """A block as computed; a device may still be computing it."""

    fetched: Fetched
    truth_error: str
    notes: tuple[str, ...]

    @cached_property
    def values(self) -> dict[str, Any]:
        """Every array and number by name, as numpy and Python values; waits for the device.

        Raises:
            BlockError: a score or a value of a map was not finite.
        """
        values = self.fetched()
        if not np.isfinite(values["finite"]):
            raise BlockError("the model gave NaN or infinite scores")
        return values

    @property
    def counts(self) -> Counts:
        """Pixels by true and predicted class, and what else the block's receipt counts."""
        names = (
            "predicted",
            "no_prediction",
            "confusion",
            "cross_entropy",
            "cross_entropy_pixels",
            "overlap_equal",
            "overlap_pixels",
            "skipped",
            "confidence",
        )
        return Counts(**{name: self.values[name] for name in names})


class BlockResult:
    """The mask of a block and what is counted of it, filled box by box with arrays of ``ops``."""

    def __init__(self, block: Block, loaded: BlockPixels, job: Job, ops: ArrayOps) -> None:
        self.block, self.loaded, self.ops = block, loaded, ops
        self.num_classes, self.fill = job.num_classes, job.fill
        self.num_maps, shape = map_channels(job), block.box.shape
        has_probs = job.probs or (job.instances is not None and job.instances.uses_probs)
        has_probability = job.instances is not None and job.model is not None and job.model.gives_scores
        self.mask_YX = ops.zeros(shape, job.dtype)
        self.probs_KYX = ops.zeros((job.num_classes, *shape), "uint8") if has_probs else None
        self.probability_YX = ops.zeros(shape, "uint8") if has_probability else None
        self.maps_EYX = ops.zeros((self.num_maps, *shape), "float16") if self.num_maps else None
        self.skipped_as = 0 if job.skip is not None and job.skip.skipped_as == "background" else job.fill
        parts = [part for part in (loaded.valid_YX, loaded.kept_YX) if part is not None]
        self.agreement = Agreement(block.box, ops, parts[0] & parts[1] if len(parts) == 2 else next(iter(parts), None))
        self.finite: Any = 0.0
        self.nats: Any = None
        self.nats_pixels: Any = 0
        self.confidence: Any = None

    def classes_of(self, scores: Any) -> Any:
        """Return the classes (Y, X) of predictions (K + E, Y, X); classes stay as they are.

        Raises:
            BlockError: there are not as many scores as classes, or a score is not finite.
        """
        if scores.ndim == 2:
            return scores
        if len(scores) != self.num_classes + self.num_maps:
            raise BlockError(f"the model gave {len(scores) - self.num_maps} classes, {self.num_classes} are named")
        classes_YX, finite = self.ops.argmax(scores[: self.num_classes])
        self.finite += finite
        return classes_YX

    def put(self, box: Box, scores: Any, classes_YX: Any) -> None:
        """Store the classes of a box, its probabilities and maps, and its share of the cross-entropy and of the counts of confidence.

        Args:
            box: inside the block, in pixels of the image.
            scores: final predictions (K + E, Y, X), scores and maps; or classes (Y, X).
            classes_YX: of the scores.
        """
        here = box.relative_to(self.block.box).slices
        self.mask_YX[here] = classes_YX
        if scores.ndim == 2:
            return
        scores, maps = scores[: self.num_classes], scores[self.num_classes :]
        if self.probs_KYX is not None:
            self.probs_KYX[(slice(None), *here)] = self.ops.softmax_bytes(scores)
        if self.probability_YX is not None:
            self.probability_YX[here] = self.ops.winner_bytes(scores)
        if self.maps_EYX is not None:
            self.maps_EYX[(slice(None), *here)], finite = self.ops.as_half(maps)
            self.finite += finite
        if self.loaded.truth_YX is not None:
            truth_YX = self.loaded.truth_YX if self.loaded.scored_YX is None else self.loaded.scored_YX
            nats, pixels = self.ops.cross_entropy(scores, truth_YX[here])
            self.nats = nats if self.nats is None else self.nats + nats
            self.nats_pixels += pixels
            confidence = self.ops.confidence(scores, classes_YX, truth_YX[here])
            self.confidence = confidence if self.confidence is None else self.confidence + confidence

    def restore(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what :meth:`values` returned in an earlier phase; numbers come as arrays without axes."""
        self.mask_YX = values["mask"]
        if self.probs_KYX is not None:
            self.probs_KYX = values["probs"]
        if self.probability_YX is not None:
            self.probability_YX = values["probability"]
        if self.maps_EYX is not None:
            self.maps_EYX = values["maps"]
        self.nats = values["cross_entropy"].item() if "cross_entropy" in values else None
        self.nats_pixels = values["cross_entropy_pixels"].item()
        self.confidence = values["confidence"] if "confidence" in values else None  # noqa: SIM401 - `get` of a file of arrays raises
        self.agreement.equal, self.agreement.pixels = values["overlap_equal"].item(), values["overlap_pixels"].item()

    def values(self) -> dict[str, Any]:
        """Return the outputs so far. Pixels without data get *no prediction*; skipped pixels get that or class 0, as the skip says."""
        beside = [array for array in (self.probs_KYX, self.probability_YX, self.maps_EYX) if array is not None]
        for there_YX, otherwise in ((self.loaded.valid_YX, self.fill), (self.loaded.kept_YX, self.skipped_as)):
            if there_YX is None:
                continue
            self.mask_YX[~there_YX] = otherwise
            for array in beside:
                array *= there_YX
            if otherwise == 0 and self.probs_KYX is not None:
                self.probs_KYX[0][~there_YX] = 255
        return {
            "mask": self.mask_YX,
            "probs": self.probs_KYX,
            "probability": self.probability_YX,
            "maps": self.maps_EYX,
            "finite": self.finite,
            "cross_entropy": self.nats,
            "cross_entropy_pixels": self.nats_pixels,
            "confidence": self.confidence,
            "overlap_equal": self.agreement.equal,
            "overlap_pixels": self.agreement.pixels,
        }

    def finish(self, notes: tuple[str, ...] = ()) -> Predicted:
        """Count the mask, and ask the device for everything."""
        kept_YX = self.loaded.kept_YX
        skipped = 0 if kept_YX is None else self.ops.count_equal(kept_YX, False)
        values = {**self.values(), "skipped": skipped}
        values |= self.ops.count(self.mask_YX, self.loaded.truth_YX, self.num_classes)
        return Predicted(self.ops.fetch(values), self.loaded.truth_error, notes)


def map_channels(job: Job) -> int:
    """Return E, the number of channels of the model's maps that predictions hold behind the K scores."""
    return 0 if job.model is None else sum(job.model.maps[name] for name in job.model_maps)


def read_block(resources: Resources, block: Block) -> BlockPixels:
    """Read the outer of all predicted tiles in one go, and the truth; send both to the backend's device.

    For a block without predicted tiles only the truth is read. Tiles without data are not predicted either, unless they are blended.
    """
    job, ops = resources.job, resources.predictor.ops
    kept_YX, tiles = _kept_tiles(resources, block)
    truth_YX, truth_error = read_truth(resources, block)
    truth_digest = pixel_digest(truth_YX) if truth_YX is not None and job.blends_blocks(block.image) else ""
    region, pixels_CYX, valid_YX = block.box, None, None
    if tiles:
        sides = zip(*(astuple(tile.outer) for tile in tiles), strict=True)
        region = Box(*(pick(ends) for pick, ends in zip((min, min, max, max), sides, strict=True)))
        pixels_CYX, read_YX = read_zero_filled(resources.image(block.image), region, block.plane)
        if stain := block.fit.get("stain"):
            pixels_CYX = recolor(pixels_CYX, stain)
        if read_YX is not None and (both := region.intersection(block.box)):
            valid_YX = np.ones(block.box.shape, np.bool_)
            valid_YX[both.relative_to(block.box).slices] = read_YX[both.relative_to(region).slices]
            truth_YX = ignoring(truth_YX, valid_YX)
            tiles = tiles if job.blends else [tile for tile in tiles if valid_YX[tile.core.relative_to(block.box).slices].any()]
    scored_YX = None if kept_YX is None else ignoring(truth_YX, kept_YX)
    arrays = (pixels_CYX, valid_YX, truth_YX, kept_YX, scored_YX)
    pixels, valid, truth, kept, scored = (None if array is None else ops.put(array) for array in arrays)
    return BlockPixels(region, pixels, valid, truth, truth_error, truth_digest, kept, scored, tiles)


def ignoring(truth_YX: NDArray[Any] | None, counted_YX: NDArray[np.bool_]) -> NDArray[Any] | None:
    """Return the truth with pixels outside ``counted_YX`` ignored; None if there is no truth."""
    return None if truth_YX is None else np.where(counted_YX, truth_YX, np.iinfo(truth_YX.dtype).max)


def kept_pixels(resources: Resources, block: Block) -> NDArray[np.bool_] | None:
    """Return the pixels of a block that are not skipped (Y, X); None: all."""
    kept = resources.kept(block.image, block.fit)
    kept_YX = None if kept is None else kept.of(block.box, block.plane)
    return None if kept_YX is None or kept_YX.all() else kept_YX


def _kept_tiles(resources: Resources, block: Block) -> tuple[NDArray[np.bool_] | None, list[Tile]]:
    """Return :func:`kept_pixels`, and the tiles to predict: those with a kept pixel, or blended into one."""
    job, kept = resources.job, resources.kept(block.image, block.fit)
    tiles = list(job.grid(block.image).tiles(block.box))
    if kept is not None:
        shape = block.image.header.shape
        seen = [tile.outer.clip(shape) if job.blends else tile.core for tile in tiles]
        tiles = [tile for tile, box in zip(tiles, seen, strict=True) if kept.has_any(box, block.plane)]
    return kept_pixels(resources, block), tiles


def stain_notes(block: Block) -> tuple[str, ...]:
    """Return a note if the stains of the image could not be normalised; only the first block carries it."""
    is_first = (block.plane, block.row, block.col) == (0, 0, 0)
    stain = block.fit.get("stain")
    too_little = is_first and stain is not None and "matrix" not in stain
    return ("stain: too little stained tissue was found; colours are unchanged",) if too_little else ()


def predict_tiles(resources: Resources, block: Block, loaded: BlockPixels, watch: Stopwatch) -> tuple[BlockResult, Blender | None]:
    """Predict every tile of a block, and keep its core or blend it with its neighbours.

    Returns:
        The result, and the blender, which holds what tiles of other blocks share; None without blending.
    """
    job, ops, grid = resources.job, resources.predictor.ops, resources.job.grid(block.image)
    result = BlockResult(block, loaded, job, ops)
    blender = Blender(grid, job.recipe.stitch, ops) if job.blends else None
    whole = Box(0, 0, *grid.shape) if blender else block.box
    for tile, outputs in _outputs(resources, block, loaded):
        seen = tile.outer.grow((outputs.shape[-2] - tile.outer.shape[0]) // 2)  # valid padding takes the same off every side
        shared = seen.intersection(whole)
        assert shared is not None
        with watch("stitch"):
            scores = ops.as_array(outputs[(..., *shared.relative_to(seen).slices)])
            classes_YX = result.classes_of(scores)
            core = tile.core.relative_to(shared).slices
            boxes = blender.add(tile, seen, shared, scores) if blender else [(tile.core, scores[(..., *core)], True)]
            for box, kept, is_own in boxes:
                result.put(box, kept, classes_YX[box.relative_to(shared).slices] if is_own else result.classes_of(kept))
        with watch("count"):
            result.agreement.add(tile, seen, shared, classes_YX)
    return result, blender


def take_notes(resources: Resources) -> tuple[str, ...]:
    """Return, once, what the backend had to change since the last call, such as a halved batch."""
    notes = resources.predictor.notes
    taken, notes[:] = tuple(notes), []
    return taken


def _outputs(resources: Resources, block: Block, loaded: BlockPixels) -> Iterator[tuple[Tile, Any]]:
    """Run the network over tiles of equal size together, so that batches are full."""
    job, predictor = resources.job, resources.predictor
    # Cross-entropy, probabilities, objects and blending need scores. A mask and its counts need classes, which some backends give faster.
    needs_scores = loaded.truth_YX is not None or job.blends or job.probs or job.instances is not None
    predict = predictor if needs_scores else predictor.classes
    whole = list(job.grid(block.image).tiles(block.box))
    tiles = sorted(whole if loaded.tiles is None else loaded.tiles, key=lambda tile: tile.outer.shape)
    if job.blends:  # a blender waits for every tile: those without a kept pixel get scores of 0
        predicted = {(tile.row, tile.col) for tile in tiles}
        for tile in whole:
            if (tile.row, tile.col) not in predicted:
                height, width = tile.outer.grow(-job.model.margin).shape if job.model else tile.outer.shape
                yield tile, predictor.ops.put(np.zeros((job.num_classes + map_channels(job), height, width), np.float32))
    for _, same in groupby(tiles, key=lambda tile: tile.outer.shape):
        alike = list(same)
        for first in range(0, len(alike), job.recipe.batch):
            batch = alike[first : first + job.recipe.batch]
            views = [loaded.pixels_CYX[(slice(None), *tile.outer.relative_to(loaded.region).slices)] for tile in batch]
            yield from zip(batch, predict(predictor.ops.stack(views), [block.fit] * len(batch)), strict=True)
