"""Crops: parts of training images, drawn at random, read by region, normalised and varied, ready for the network.

Crop ``i`` depends on the seed and ``i`` alone, so a resumed training continues with the crops that it would have
seen, and workers that share a batch see together what one worker would see.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import read_reflected, read_zero_filled
from pipeline.errors import GigasegError
from pipeline.geometry import Box
from pipeline.inputs import Image, open_image, open_truth
from pipeline.raster import ArrayRaster, Raster
from pipeline.training.augmentation import CropChange
from pipeline.training.crop_places import CropPlaces, Location
from pipeline.training.plan import TrainPlan

__all__ = ["Crop", "Crops", "ImageCache", "split_border", "targets"]

CHANGES = 200  # number of changes that are tried for a crop
DRAWS = 16  # number of locations that estimate the share of empty crops, which hold only class 0


@dataclass(frozen=True)
class Crop:
    """What the network sees once.

    Attributes:
        where: image and region, for messages.
        pixels_CYX: normalised, float32.
        target_YX: output channel that should win, uint8; 255 is ignored, such as where image or truth hold no data.
        weights_YX: weight of each pixel in the loss, float32; None: all pixels weigh the same.
        is_empty: whether all pixels that are not ignored have class 0.
    """

    where: str
    pixels_CYX: NDArray[np.float32]
    target_YX: NDArray[np.uint8]
    weights_YX: NDArray[np.float32] | None
    is_empty: bool


class Crops:
    """The crops of a training, by number."""

    def __init__(self, plan: TrainPlan, cache: ImageCache) -> None:
        self.plan = plan
        self._cache = cache
        self._places = CropPlaces(plan)

    def __getitem__(self, index: int) -> Crop:
        """Make crop ``index``, from 0.

        Raises:
            GigasegError: no crop with a labelled pixel was found.
        """
        rng = np.random.default_rng([self.plan.config.seed, index])
        luck = 1 - rng.random()  # above 0
        crop = self._draw(rng)
        return self._limit_empty(crop, luck, rng) if crop.is_empty and luck > self.plan.config.sampling.empty else crop

    def _limit_empty(self, crop: Crop, luck: float, rng: np.random.Generator) -> Crop:
        """Keep an empty crop, or return one that is not empty.

        Of ``DRAWS`` equal draws, k are empty. An empty first draw is kept with a chance of limit / (k / DRAWS), so that
        min(limit, k / DRAWS) of all crops are empty: a share above the limit falls to it, and a share below stays.
        """
        most_empty = self.plan.config.sampling.empty * DRAWS / luck  # number of empty draws up to which the crop is kept
        num_empty, others = 1, list[Crop]()
        while DRAWS - len(others) > most_empty:
            if others and num_empty > most_empty:
                return others[0]
            if num_empty == DRAWS:
                return self._draw_from(self._places.draw_foreground, rng) or crop
            other = self._draw(rng)
            if other.is_empty:
                num_empty += 1
            else:
                others.append(other)
        return crop

    def _draw(self, rng: np.random.Generator) -> Crop:
        crop = self._draw_from(self._places.draw, rng)
        if crop is None:
            found = f"no crop of {self.plan.crop} pixels with a labelled pixel in {CHANGES} draws"
            way_out = "Use a smaller crop, less augmentation, or images with more labels."
            raise GigasegError(f"{self.plan.config.where('crop')}: {found}. {way_out}")
        return crop

    def _draw_from(self, draw: Callable[[np.random.Generator, int], Location | None], rng: np.random.Generator) -> Crop | None:
        """Draw a change and a place until a crop has a labelled pixel: from any other crop nothing can be learnt."""
        side = self.plan.crop
        for _ in range(CHANGES):
            change = self.plan.config.augment.draw(side, rng)
            location = draw(rng, (change.side - side) // 2)
            if location is not None:
                crop = self._read(location, change)
                if (crop.target_YX != self.plan.truth_map.ignored).any():
                    return crop
        return None

    def _read(self, location: Location, change: CropChange) -> Crop:
        """Read a crop with the surroundings that its random change needs, and apply the change."""
        plan, image = self.plan, self.plan.train[location.image]
        assert image.truth is not None
        margin = (change.side - plan.crop) // 2
        top, left = location.box.y0 - margin, location.box.x0 - margin
        region = Box(top, left, top + change.side, left + change.side)
        raw_CYX, valid_YX = read_zero_filled(self._cache.image(image), region, location.plane)
        if change.raw is not None:
            raw_CYX = change.raw.apply(raw_CYX, is_color=image.header.is_color)
        padded_YX = None if change.raw is None else change.raw.padded(region.shape)
        labels = self._labels(image, region, location.plane, valid_YX, padded_YX)
        pixels_CYX, labels = change.apply(self._normalize(raw_CYX, location.image), labels)
        return Crop(
            where=f"{image.name} at {location.box}",
            pixels_CYX=pixels_CYX,
            target_YX=targets(plan, labels[0], labels[-1]),
            weights_YX=plan.loss.pixel_weights(labels[1]) if plan.loss.needs_instances else None,
            is_empty=not np.any(labels[0][labels[0] != plan.truth_map.ignored]),
        )

    def _labels(
        self, image: Image, region: Box, plane: int, valid_YX: NDArray[np.bool_] | None, padded_YX: NDArray[np.bool_] | None
    ) -> list[NDArray[Any]]:
        """Return class ids (Y, X), and numbers of objects, int32 (Y, X), where they are needed."""
        plan = self.plan
        truth_CYX, known_YX = read_reflected(self._cache.truth(image), region, plane)
        classes_YX = plan.truth_map.apply(truth_CYX, region, known_YX)
        # Pixels that are ignored or padding belong to no object, whatever their truth value is.
        if valid_YX is not None:
            classes_YX[~valid_YX] = plan.truth_map.ignored
        is_nothing_YX = classes_YX == plan.truth_map.ignored
        if padded_YX is not None:
            classes_YX[padded_YX] = 0 if plan.classes[0]["name"] == "background" else plan.truth_map.ignored
            is_nothing_YX |= padded_YX
        if plan.loss.needs_instances or plan.border_class is not None:
            return [classes_YX, np.where(is_nothing_YX, 0, truth_CYX[0]).astype(np.int32)]
        return [classes_YX]

    def _normalize(self, raw_CYX: NDArray[Any], image: int) -> NDArray[np.float32]:
        """Normalise as a run does, then merge the channels if the network sees merged channels."""
        values_CYX = raw_CYX.astype(np.float32)
        statistics = self.plan.statistics
        numbers = statistics.normalize or statistics.images[image].normalize
        if numbers is not None:
            mean, std = (np.array(numbers[key], np.float32)[:, None, None] for key in ("mean", "std"))
            values_CYX = (values_CYX - mean) / std
        if self.plan.config.merge_channels:
            values_CYX = np.stack([values_CYX.mean(axis=0), values_CYX.min(axis=0), values_CYX.max(axis=0)])
        return values_CYX


class ImageCache:
    """The most recently used images within a budget of memory for decoded pixels. Safe to use from several threads.

    Small images are decoded once; large ones are kept open and read by region.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes, self._used_bytes = budget_bytes, 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[Any, ...], _CacheEntry] = OrderedDict()

    def image(self, image: Image) -> Raster:
        """Return an image on its working grid; if it fits into a quarter of the budget, it is decoded once and cached."""
        return self._kept((image.path, image.identity), lambda: open_image(image))

    def truth(self, image: Image) -> Raster:
        """Return the truth of an image on the image's working grid, cached as images are."""
        return self._kept((image.truth, image.identity), lambda: open_truth(image))

    def _kept(self, key: tuple[Any, ...], make: Callable[[], AbstractContextManager[Raster]]) -> Raster:
        with self._lock:
            if key not in self._entries:
                self._entries[key] = self._open(make())
                self._used_bytes += self._entries[key].num_bytes
                while self._used_bytes > self._budget_bytes and len(self._entries) > 1:
                    self._drop_oldest()
            self._entries.move_to_end(key)
            return self._entries[key].raster

    def __reduce__(self) -> tuple[type[ImageCache], tuple[int]]:
        """Pickle the budget alone: another process starts with an empty cache."""
        return ImageCache, (self._budget_bytes,)

    def close(self) -> None:
        """Close every file."""
        while self._entries:
            self._drop_oldest()

    def _open(self, opened: AbstractContextManager[Raster]) -> _CacheEntry:
        stack = ExitStack()
        raster = stack.enter_context(opened)
        header = raster.header
        height, width = header.shape
        num_bytes = height * width * header.channels * np.dtype(header.dtype).itemsize * header.num_planes
        if num_bytes > self._budget_bytes // 4 or header.num_planes > 1:
            return _CacheEntry(raster, header.whole_bytes, stack)
        pixels_CYX, declared_YX = raster.read_masked(Box(0, 0, height, width))
        stack.close()
        num_bytes += 0 if declared_YX is None else declared_YX.nbytes
        return _CacheEntry(ArrayRaster(np.ascontiguousarray(pixels_CYX), header, declared_YX), num_bytes, stack)

    def _drop_oldest(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self._used_bytes -= entry.num_bytes
        entry.resources.close()


class _CacheEntry(NamedTuple):
    raster: Raster
    num_bytes: int
    resources: ExitStack


def targets(plan: TrainPlan, classes_YX: NDArray[Any], instances_YX: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the output channel that should win at each pixel, uint8 (Y, X), from class ids and from the truth as stored.

    Output and class are the same, but for a class that is split; the stored truth numbers the objects of that class.
    """
    if plan.border_class is None or plan.config.border is None:
        return classes_YX.astype(np.uint8)
    width = plan.config.border.width
    return split_border(classes_YX, instances_YX, split=plan.border_class, border=len(plan.classes), width=width)


def split_border(truth_YX: NDArray[Any], instances_YX: NDArray[Any], *, split: int, border: int, width: int) -> NDArray[np.uint8]:
    """Give the border of each object of a class an id of its own.

    A pixel is border where another object, or none, lies within ``width`` rows and columns. What lies outside the array
    is unknown and taken for more of the same, so that its edge is no border.

    Args:
        truth_YX: class ids.
        instances_YX: a number for each object; ignored outside ``split``.
        split: class whose objects are split.
        border: id of their borders in the result, uint8 (Y, X).
        width: of the border, pixels.

    Example:
        >>> instances = np.array([[0, 7, 7, 7, 8, 8]])
        >>> split_border((instances > 0).astype(np.uint8), instances, split=1, border=2, width=1).tolist()
        [[0, 2, 1, 2, 2, 1]]
    """
    from scipy import ndimage

    objects_YX = np.where(truth_YX == split, instances_YX, 0)
    size = 2 * width + 1
    low_YX = ndimage.minimum_filter(objects_YX, size, mode="nearest")
    high_YX = ndimage.maximum_filter(objects_YX, size, mode="nearest")
    out_YX = truth_YX.astype(np.uint8)
    out_YX[(truth_YX == split) & (low_YX != high_YX)] = border
    return out_YX
