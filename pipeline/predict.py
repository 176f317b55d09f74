"""The predict phase: tiles, scores, one mask a block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import stitch
from pipeline.agreement import Agreement
from pipeline.confusion import Counts, areas, confusion, cross_entropy
from pipeline.errors import BlockError, InputError
from pipeline.export import write_mask, write_probs
from pipeline.geometry import Box
from pipeline.grid import Grid, Tile
from pipeline.job import Bench, read_reflected, valid_pixels
from pipeline.process import Watch
from pipeline.receipts import Block

__all__ = ["Predict", "count", "digest", "read_truth"]


def digest(pixels: NDArray[Any]) -> str:
    """Fingerprint of decoded pixels, whatever their memory layout."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()


@dataclass
class _Pixels:
    """A block as read: its tiles' pixels, where they hold data, and its truth."""

    region: Box
    pixels_CYX: NDArray[Any]
    valid_YX: NDArray[np.bool_] | None
    truth_YX: NDArray[Any] | None
    truth_error: str


@dataclass
class _Predicted:
    """A block as computed."""

    mask_YX: NDArray[Any]
    probs_KYX: NDArray[np.uint8] | None
    counts: Counts
    truth_error: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Predict:
    """Segment a block: tiles, scores, stitch, count, write."""

    bench: Bench

    def load(self, block: Block, watch: Watch) -> _Pixels:
        """Read the outer of the whole block in one go, and its truth."""
        tiles = self._tiles(block)
        region = Box(tiles[0].outer.y0, tiles[0].outer.x0, max(t.outer.y1 for t in tiles), max(t.outer.x1 for t in tiles))
        raster = self.bench.raster(block.image.path, block.image.reader)
        pixels_CYX = read_reflected(raster, region, block.plane)
        valid_YX = valid_pixels(pixels_CYX, block.image.header)
        if valid_YX is not None:
            # A NaN or a nodata of -3e38 would spread over the whole field of the network; its own pixels get no prediction anyway.
            pixels_CYX = np.where(valid_YX, pixels_CYX, pixels_CYX.dtype.type(0))
            valid_YX = valid_YX[block.box.within(region).slices]
        truth_YX, truth_error = read_truth(self.bench, block)
        return _Pixels(region, pixels_CYX, valid_YX, truth_YX, truth_error)

    def work(self, block: Block, loaded: _Pixels, watch: Watch) -> _Predicted:
        """Predict every tile, keep cores or blend, count."""
        job = self.bench.job
        keep = _Blend(block, job.grid(block.image), job.recipe.stitch) if self._blends else _Crop(block)
        result = _Result(block, loaded, job.num_classes, np.dtype(job.dtype), probs=self._probs)
        agreement = Agreement(block.box)
        for tile, outputs in self._predict(block, loaded):
            scores = _on_host(outputs)
            seen = tile.outer.grow((scores.shape[-2] - tile.outer.shape[0]) // 2)  # valid padding takes the same off every side
            with watch("count"):
                agreement.add(tile, seen, scores)
            with watch("stitch"):
                for box, kept in keep.add(tile, seen, scores):
                    result.take(box, kept)
        with watch("stitch"):
            for box, kept in keep.rest():
                result.take(box, kept)
        with watch("count"):
            return result.finish(agreement, self._notes())

    def save(self, block: Block, worked: _Predicted, watch: Watch) -> dict[str, Any]:
        """Write whole shards, then describe them."""
        files = write_mask(self.bench, block, worked.mask_YX)
        if worked.probs_KYX is not None:
            files |= write_probs(self.bench, block, worked.probs_KYX)
        fields = {"digest": digest(worked.mask_YX), "files": files, "counts": worked.counts, "truth_error": worked.truth_error}
        return {**fields, "notes": worked.notes}

    def _notes(self) -> tuple[str, ...]:
        """What the backend had to change since it was last asked, such as a halved batch."""
        notes: list[str] = getattr(self.bench.predict, "notes", [])
        taken, notes[:] = tuple(notes), []
        return taken

    @property
    def _blends(self) -> bool:
        model = self.bench.job.model
        return self.bench.job.recipe.stitch != "crop" and model is not None and model.gives_scores

    @property
    def _probs(self) -> bool:
        return any(getattr(writer, "probs", False) for writer in self.bench.job.writers)

    def _tiles(self, block: Block) -> list[Tile]:
        grid = self.bench.job.grid(block.image)
        return list(grid.ring(block.box) if self._blends else grid.tiles(block.box))

    def _needs_scores(self, loaded: _Pixels) -> bool:
        """Cross-entropy, probabilities and blending do; a mask and the counts of it are made of classes."""
        return loaded.truth_YX is not None or self._blends or self._probs

    def _predict(self, block: Block, loaded: _Pixels) -> Iterator[tuple[Tile, Any]]:
        """Run the network over tiles of equal size together."""
        assert self.bench.predict is not None
        batch = self.bench.job.recipe.batch
        for _, same in groupby(self._tiles(block), key=lambda tile: tile.outer.shape):
            tiles = list(same)
            for first in range(0, len(tiles), batch):
                some = tiles[first : first + batch]
                views = [loaded.pixels_CYX[(slice(None), *tile.outer.within(loaded.region).slices)] for tile in some]
                pixels_BCYX = views[0][None] if len(views) == 1 else np.stack(views)
                predict = self.bench.predict
                if not self._needs_scores(loaded):
                    predict = getattr(predict, "classes", predict)  # some backends have them cheaper than logits
                outputs = predict(pixels_BCYX, [block.fit] * len(some))
                yield from zip(some, outputs, strict=True)


class _Crop:
    """Keep each tile's core; nothing is accumulated."""

    def __init__(self, block: Block) -> None:
        self.block = block

    def add(self, tile: Tile, seen: Box, scores: NDArray[Any]) -> Iterator[tuple[Box, NDArray[Any]]]:
        """Give the core's scores (K, Y, X), or its classes (Y, X)."""
        yield tile.core, scores[(..., *tile.core.within(seen).slices)]

    def rest(self) -> Sequence[tuple[Box, NDArray[Any]]]:
        """Nothing is held back."""
        return ()


class _Blend:
    """Add up weighted scores over the block."""

    def __init__(self, block: Block, grid: Grid, kind: str) -> None:
        self.block, self.grid, self.kind = block, grid, kind
        self.sum_KYX: NDArray[np.float32] | None = None

    def add(self, tile: Tile, seen: Box, scores: NDArray[Any]) -> Sequence[tuple[Box, NDArray[Any]]]:
        """Add one tile; its pixels are complete only when all are in."""
        box, grid = self.block.box, self.grid
        if self.sum_KYX is None:
            self.sum_KYX = np.zeros((len(scores), *box.shape), np.float32)
        part = Box(max(seen.y0, box.y0), max(seen.x0, box.x0), min(seen.y1, box.y1), min(seen.x1, box.x1))
        if min(part.shape) <= 0:
            return ()
        halo = tile.core.y0 - seen.y0
        rows, cols = part.within(seen).slices
        weight_Y = stitch.weights(self.kind, grid.core, halo, tile.row, grid.num_cores[0])[rows]
        weight_X = stitch.weights(self.kind, grid.core, halo, tile.col, grid.num_cores[1])[cols]
        here = part.within(box).slices
        stitch.blend_into(self.sum_KYX[(slice(None), *here)], scores[:, rows, cols], weight_Y, weight_X)
        return ()

    def rest(self) -> Iterator[tuple[Box, NDArray[Any]]]:
        """Give the whole block at once."""
        if self.sum_KYX is not None:
            yield self.block.box, self.sum_KYX


def _on_host(scores: Any) -> NDArray[Any]:
    """Numpy's view of scores; those of a GPU are copied."""
    return np.asarray(scores.cpu() if hasattr(scores, "cpu") else scores)


class _Result:
    """The mask of a block and its counts, filled core by core."""

    def __init__(self, block: Block, loaded: _Pixels, num_classes: int, dtype: np.dtype[Any], *, probs: bool) -> None:
        self.block, self.loaded, self.num_classes = block, loaded, num_classes
        self.mask_YX = np.empty(block.box.shape, dtype)
        self.probs_KYX = np.empty((num_classes, *block.box.shape), np.uint8) if probs else None
        self.nats: float | None = None
        self.nats_pixels = 0

    def take(self, box: Box, kept: NDArray[Any]) -> None:
        """Store the classes of one core, from its scores (K, Y, X) or classes (Y, X)."""
        here = box.within(self.block.box).slices
        if kept.ndim == 2:
            self.mask_YX[here] = kept
            return
        if len(kept) != self.num_classes:
            raise BlockError(f"the model gave {len(kept)} classes, {self.num_classes} are named")
        stitch.argmax(kept, self.mask_YX[here])
        if self.probs_KYX is not None:
            self.probs_KYX[(slice(None), *here)] = stitch.softmax_bytes(kept)
        if self.loaded.truth_YX is not None:
            truth_YX = self.loaded.truth_YX[here]
            if self.loaded.valid_YX is not None:
                truth_YX = np.where(self.loaded.valid_YX[here], truth_YX, np.iinfo(truth_YX.dtype).max)
            nats, pixels = cross_entropy(kept, truth_YX)
            self.nats, self.nats_pixels = (self.nats or 0.0) + nats, self.nats_pixels + pixels

    def finish(self, agreement: Agreement, notes: tuple[str, ...]) -> _Predicted:
        """Leave out pixels without data, and count."""
        fill = np.iinfo(self.mask_YX.dtype).max
        if self.loaded.valid_YX is not None:
            self.mask_YX[~self.loaded.valid_YX] = fill
        counts = count(self.mask_YX, self.loaded.truth_YX, self.num_classes)
        counts = replace(
            counts,
            cross_entropy=self.nats,
            cross_entropy_pixels=self.nats_pixels,
            overlap_equal=agreement.equal,
            overlap_pixels=agreement.pixels,
        )
        return _Predicted(self.mask_YX, self.probs_KYX, counts, self.loaded.truth_error, notes)


def count(mask_YX: NDArray[Any], truth_YX: NDArray[Any] | None, num_classes: int) -> Counts:
    """Count areas, and the confusion where there is truth."""
    predicted, missing = areas(mask_YX, classes=num_classes)
    matrix = None if truth_YX is None else confusion(truth_YX, mask_YX, classes=num_classes)
    return Counts(predicted, missing, matrix)


def read_truth(bench: Bench, block: Block) -> tuple[NDArray[Any] | None, str]:
    """Read a block's truth as class ids; a value outside the classes spoils the image's metrics, not its mask."""
    image, job = block.image, bench.job
    if image.truth is None or job.truth_map is None:
        return None, ""
    try:
        raw_CYX = bench.raster(image.truth, job.truth_reader).read(block.box, block.plane)
        return job.truth_map.apply(raw_CYX, block.box), ""
    except (BlockError, InputError) as error:
        return None, f"{image.truth}: {error}"
