"""Crops: parts of training images, read by region, normalised and varied, ready for the network.

Crop ``i`` depends on the seed and ``i`` alone, so a resumed training continues with the crops that it would have
seen, and workers that share a batch see together what one worker would see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import read_reflected, valid_pixels
from pipeline.geometry import Box
from pipeline.training.crop_sampling import CropLocation, CropSampler
from pipeline.training.image_cache import ImageCache
from pipeline.training.plan import TrainPlan
from pipeline.training.targets import targets

__all__ = ["Crop", "Crops"]

DRAWS = 16  # number of locations that estimate the share of empty crops, which hold only class 0


@dataclass(frozen=True)
class Crop:
    """What the network sees once.

    Attributes:
        where: image and region, for messages.
        pixels_CYX: normalised, float32.
        target_YX: output channel that should win, uint8; 255 is ignored.
        weights_YX: weight of each pixel in the loss, float32; None: all pixels weigh the same.
        is_empty: whether all pixels that are not ignored have class 0.
    """

    where: str
    pixels_CYX: NDArray[np.float32]
    target_YX: NDArray[np.uint8]
    weights_YX: NDArray[np.float32] | None
    is_empty: bool


class Crops:
    """The crops of a training, by number.

    Args:
        plan: scanned.
        cache: holds the images.
    """

    def __init__(self, plan: TrainPlan, cache: ImageCache) -> None:
        self.plan = plan
        self._cache = cache
        self._sampler = CropSampler(plan)

    def __getitem__(self, index: int) -> Crop:
        """Make crop ``index``, from 0."""
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
                location = self._sampler.draw_foreground(rng)
                return crop if location is None else self._read(location, rng)
            other = self._draw(rng)
            if other.is_empty:
                num_empty += 1
            else:
                others.append(other)
        return crop

    def _draw(self, rng: np.random.Generator) -> Crop:
        return self._read(self._sampler.draw(rng), rng)

    def _read(self, location: CropLocation, rng: np.random.Generator) -> Crop:
        """Read a crop with the surroundings that its random change needs, and apply the change."""
        plan, image = self.plan, self.plan.train[location.image]
        assert image.truth is not None
        change = plan.config.augment.draw(plan.crop, rng)
        margin = (change.side - plan.crop) // 2
        top, left = location.box.y0 - margin, location.box.x0 - margin
        region = Box(top, left, top + change.side, left + change.side)
        raw_CYX = read_reflected(self._cache.raster(image.path, image.reader), region, location.plane)
        truth_CYX = read_reflected(self._cache.raster(image.truth, {"name": "auto"}), region, location.plane)
        classes_YX = plan.truth_map.apply(truth_CYX, region)
        pixels_CYX = self._normalize(raw_CYX, location.image)
        valid_YX = valid_pixels(raw_CYX, image.header)
        if valid_YX is not None:
            pixels_CYX = np.where(valid_YX, pixels_CYX, np.float32(0))
            classes_YX = np.where(valid_YX, classes_YX, plan.truth_map.ignored)
        labels = [classes_YX]
        if plan.loss.needs_instances or plan.border_class is not None:
            # Ignored pixels belong to no object, whatever their truth value is.
            labels.append(np.where(classes_YX == plan.truth_map.ignored, 0, truth_CYX[0]).astype(np.int32))
        pixels_CYX, labels = change.apply(pixels_CYX, labels)
        return Crop(
            where=f"{image.name} at {location.box}",
            pixels_CYX=pixels_CYX,
            target_YX=targets(plan, labels[0], labels[-1]),
            weights_YX=plan.loss.pixel_weights(labels[1]) if plan.loss.needs_instances else None,
            is_empty=not np.any(labels[0][labels[0] != plan.truth_map.ignored]),
        )

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
