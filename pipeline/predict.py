"""The predict phase: tiles, scores, one mask a block.

Everything between the pixels of a block and its mask happens where the backend's scores live (:mod:`pipeline.place`).
On a GPU ``work`` only says what is to be done: while it is being done, the next block is read and sent, and ``save``
waits for the last one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.agreement import Agreement
from pipeline.blend import Blend
from pipeline.confusion import Counts
from pipeline.errors import BlockError, InputError
from pipeline.export import write_mask, write_probs
from pipeline.geometry import Box, ceil_to
from pipeline.grid import Tile
from pipeline.job import Bench, Job, read_reflected, valid_pixels
from pipeline.place import Fetched, Host, Place
from pipeline.process import Watch
from pipeline.receipts import Block

__all__ = ["Predict", "digest", "needed", "read_truth"]


def digest(pixels: NDArray[Any]) -> str:
    """Fingerprint of decoded pixels, whatever their memory layout."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()


@dataclass
class _Pixels:
    """A block as read, at its place: its tiles' pixels, where they hold data, and its truth."""

    region: Box
    pixels_CYX: Any
    valid_YX: Any | None
    truth_YX: Any | None
    truth_error: str


@dataclass
class _Predicted:
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

    bench: Bench

    def load(self, block: Block, watch: Watch) -> _Pixels:
        """Read the outer of the whole block in one go, and its truth; send them to where they are computed with."""
        sides = zip(*(astuple(given) for _, given in self._tiles(block)), strict=True)
        y0, x0, y1, x1 = (pick(ends) for pick, ends in zip((min, min, max, max), sides, strict=True))
        region = Box(y0, x0, y1, x1)
        raster = self.bench.raster(block.image.path, block.image.reader)
        pixels_CYX = read_reflected(raster, region, block.plane)
        valid_YX = valid_pixels(pixels_CYX, block.image.header)
        truth_YX, truth_error = read_truth(self.bench, block)
        if valid_YX is not None:
            # A NaN or a nodata of -3e38 would spread over the whole field of the network; its own pixels get no prediction anyway.
            pixels_CYX = np.where(valid_YX, pixels_CYX, pixels_CYX.dtype.type(0))
            valid_YX = valid_YX[block.box.within(region).slices]
            truth_YX = None if truth_YX is None else np.where(valid_YX, truth_YX, np.iinfo(truth_YX.dtype).max)
        pixels, valid, truth = (None if array is None else self._place.put(array) for array in (pixels_CYX, valid_YX, truth_YX))
        return _Pixels(region, pixels, valid, truth, truth_error)

    def work(self, block: Block, loaded: _Pixels, watch: Watch) -> _Predicted:
        """Predict every tile, keep cores or blend, count."""
        job, place = self.bench.job, self._place
        result = _Result(block, loaded, job, place, probs=self._probs)
        blend = Blend(block.box, job.grid(block.image), job.recipe.stitch, place) if self._blends else None
        agreement = Agreement(block.box, place)
        for tile, given, outputs in self._predict(block, loaded):
            margin = (outputs.shape[-2] - given.shape[0]) // 2  # valid padding takes the same off every side
            seen = tile.outer.grow(margin)
            shared = seen.meet(block.box)
            if shared is None:
                continue
            with watch("stitch"):
                scores = place.take(outputs[(..., *shared.within(given.grow(margin)).slices)])
                is_inside = block.box.contains(tile.core)
                classes_YX: Any = result.classes(scores) if is_inside else None
                cells = blend.add(tile, seen, shared, scores) if blend else _core(tile, shared, scores)
                for box, kept, is_own in cells:
                    result.take(box, kept, classes_YX[box.within(shared).slices] if is_own else result.classes(kept))
            with watch("count"):
                if is_inside:
                    agreement.add(tile, seen, shared, classes_YX)
        with watch("count"):
            return result.finish(agreement, self._notes())

    def save(self, block: Block, worked: _Predicted, watch: Watch) -> dict[str, Any]:
        """Write whole shards, then describe them."""
        with watch("compute"):
            mask_YX, probs_KYX = worked.values["mask"], worked.values["probs"]
        files = write_mask(self.bench, block, mask_YX)
        if probs_KYX is not None:
            files |= write_probs(self.bench, block, probs_KYX)
        fields = {"digest": digest(mask_YX), "files": files, "counts": worked.counts, "truth_error": worked.truth_error}
        return {**fields, "notes": worked.notes}

    def _notes(self) -> tuple[str, ...]:
        """What the backend had to change since it was last asked, such as a halved batch."""
        notes: list[str] = getattr(self.bench.predict, "notes", [])
        taken, notes[:] = tuple(notes), []
        return taken

    @property
    def _place(self) -> Place:
        """Where the backend takes pixels and leaves scores."""
        place: Place | None = getattr(self.bench.predict, "place", None)
        return place or _HOST

    @property
    def _blends(self) -> bool:
        model = self.bench.job.model
        return self.bench.job.recipe.stitch != "crop" and model is not None and model.gives_scores

    @property
    def _probs(self) -> bool:
        return any(getattr(writer, "probs", False) for writer in self.bench.job.writers)

    def _tiles(self, block: Block) -> list[tuple[Tile, Box]]:
        """The tiles of a block, and what the network is given of each: of a neighbour's tile, no more than the block's part depends on."""
        job, grid = self.bench.job, self.bench.job.grid(block.image)
        if not self._blends:
            return [(tile, tile.outer) for tile in grid.tiles(block.box)]
        model = None if job.full else job.model
        if model is None or model.field is None:
            return [(tile, tile.outer) for tile in grid.ring(block.box)]
        cuts = ((tile, needed(tile.outer, block.box, model.field, model.margin, job.stride)) for tile in grid.ring(block.box))
        return [(tile, given) for tile, given in cuts if given is not None]

    def _needs_scores(self, loaded: _Pixels) -> bool:
        """Cross-entropy, probabilities and blending do; a mask and the counts of it are made of classes."""
        return loaded.truth_YX is not None or self._blends or self._probs

    def _predict(self, block: Block, loaded: _Pixels) -> Iterator[tuple[Tile, Box, Any]]:
        """Run the network over tiles of equal size together; with each comes what was given of it."""
        assert self.bench.predict is not None
        batch, tiles = self.bench.job.recipe.batch, self._tiles(block)
        if not self._blends:
            tiles.sort(key=lambda cut: cut[1].shape)  # sums of tiles are made row by row; without sums, batches may be full
        for _, same in groupby(tiles, key=lambda cut: cut[1].shape):
            alike = list(same)
            for first in range(0, len(alike), batch):
                some = alike[first : first + batch]
                views = [loaded.pixels_CYX[(slice(None), *given.within(loaded.region).slices)] for _, given in some]
                predict = self.bench.predict
                if not self._needs_scores(loaded):
                    predict = getattr(predict, "classes", predict)  # some backends have them cheaper than logits
                found = predict(self._place.stack(views), [block.fit] * len(some))
                yield from ((tile, given, outputs) for (tile, given), outputs in zip(some, found, strict=True))


_HOST = Host()


def needed(outer: Box, part: Box, field: int, margin: int, stride: int) -> Box | None:
    """What of a tile its outputs in a part of the image depend on, cut where the stride allows.

    Args:
        outer: what the network sees of the tile; its sides are multiples of the stride.
        part: pixels whose outputs are wanted.
        field: the network's field radius, pixels.
        margin: what valid padding takes off every side, pixels.
        stride: the network's total stride, pixels.

    Returns:
        None where the tile gives no outputs in the part.

    Example:
        >>> needed(Box(-64, -64, 1088, 1088), Box(1024, 0, 2048, 1024), 100, 0, 32)
        Box(y0=896, x0=-64, y1=1088, x1=1088)
    """
    shared = outer.grow(-margin).meet(part)
    if shared is None:
        return None
    near = shared.grow(max(field, margin))
    y0, x0 = (at // stride * stride for at in (near.y0, near.x0))
    return Box(y0, x0, ceil_to(near.y1, stride), ceil_to(near.x1, stride)).meet(outer)


def _core(tile: Tile, shared: Box, scores: Any) -> Iterator[tuple[Box, Any, bool]]:
    """Keep a tile's core, scores (K, Y, X) or classes (Y, X), and nothing else."""
    yield tile.core, scores[(..., *tile.core.within(shared).slices)], True


class _Result:
    """The mask of a block and its counts, filled cell by cell."""

    def __init__(self, block: Block, loaded: _Pixels, job: Job, place: Place, *, probs: bool) -> None:
        self.block, self.loaded, self.num_classes, self.place = block, loaded, job.num_classes, place
        self.mask_YX = place.empty(block.box.shape, job.num_classes)
        self.probs_KYX = place.empty((job.num_classes, *block.box.shape), job.num_classes) if probs else None
        self.finite: Any = 0.0
        self.nats: Any = None
        self.nats_pixels: Any = 0

    def classes(self, scores: Any) -> Any:
        """Classes (Y, X) of scores (K, Y, X); a model may have given classes."""
        if scores.ndim == 2:
            return scores
        if len(scores) != self.num_classes:
            raise BlockError(f"the model gave {len(scores)} classes, {self.num_classes} are named")
        classes_YX, finite = self.place.argmax(scores)
        self.finite += finite
        return classes_YX

    def take(self, box: Box, kept: Any, classes_YX: Any) -> None:
        """Store a cell's classes, and what its scores are needed for."""
        here = box.within(self.block.box).slices
        self.mask_YX[here] = classes_YX
        if kept.ndim == 2:
            return
        if self.probs_KYX is not None:
            self.probs_KYX[(slice(None), *here)] = self.place.softmax_bytes(kept)
        if self.loaded.truth_YX is not None:
            nats, pixels = self.place.cross_entropy(kept, self.loaded.truth_YX[here])
            self.nats = nats if self.nats is None else self.nats + nats
            self.nats_pixels += pixels

    def finish(self, agreement: Agreement, notes: tuple[str, ...]) -> _Predicted:
        """Leave out pixels without data, count, and ask for all of it."""
        if self.loaded.valid_YX is not None:
            self.mask_YX[~self.loaded.valid_YX] = 255 if self.num_classes <= 255 else 65535
        values = {
            "mask": self.mask_YX,
            "probs": self.probs_KYX,
            "finite": self.finite,
            **self.place.count(self.mask_YX, self.loaded.truth_YX, self.num_classes),
            "cross_entropy": self.nats,
            "cross_entropy_pixels": self.nats_pixels,
            "overlap_equal": agreement.equal,
            "overlap_pixels": agreement.pixels,
        }
        return _Predicted(self.place.fetch(values), self.loaded.truth_error, notes)


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
