"""Where crops lie: anywhere in the images, or centred on a pixel of a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.training.plan import TrainPlan, image_pixels

__all__ = ["CropLocation", "CropSampler"]


@dataclass(frozen=True)
class CropLocation:
    """Where a crop lies.

    Attributes:
        image: index of the training image.
        plane: index of its (t, z) plane.
        box: of the crop, inside the image wherever the image is as large as the crop.
    """

    image: int
    plane: int
    box: Box


class CropSampler:
    """Draws crop locations; a location depends on the random generator alone.

    Args:
        plan: scanned.
    """

    def __init__(self, plan: TrainPlan) -> None:
        self._plan = plan
        sizes = [image_pixels(image) if plan.config.sampling.images == "area" else 1 for image in plan.train]
        self._cumulative_share = np.cumsum(np.array(sizes, np.float64)) / np.array(sizes, np.float64).sum()
        images = plan.statistics.images
        self._pixels = np.array([image.pixels for image in images], np.float64)
        self._outputs = np.flatnonzero(self._pixels.sum(axis=0))
        classes = plan.output_classes or range(self._pixels.shape[1])
        outputs: list[int] = self._outputs.tolist()
        self._foreground = [output for output in outputs if classes[output] and any(image.locations[output] for image in images)]

    def draw(self, rng: np.random.Generator) -> CropLocation:
        """Draw a location as ``sampling`` says: centred on a class for the share ``balance``, else anywhere."""
        plan, side = self._plan, self._plan.crop
        if rng.random() < plan.config.sampling.balance:
            return self._centred(self._outputs, rng)
        image = int(np.searchsorted(self._cumulative_share, rng.random(), side="right"))
        header = plan.train[image].header
        plane = int(rng.integers(header.num_planes))
        y, x = (int(rng.integers(0, max(1, length - side + 1))) for length in header.shape)
        return CropLocation(image, plane, self._box(image, y, x))

    def draw_foreground(self, rng: np.random.Generator) -> CropLocation | None:
        """Draw a location centred on a pixel of a class other than class 0; None where no such pixel is known."""
        return self._centred(self._foreground, rng) if self._foreground else None

    def _centred(self, outputs: Sequence[int] | NDArray[np.intp], rng: np.random.Generator) -> CropLocation:
        """Choose one of several outputs, all equally often, and one of its pixels."""
        output = rng.choice(outputs)
        pixels = self._pixels[:, output]
        image = int(rng.choice(len(pixels), p=pixels / pixels.sum()))
        blocks = self._plan.statistics.images[image].locations[output]
        counts = np.array([block.count for block in blocks], np.float64)
        block = blocks[int(rng.choice(len(blocks), p=counts / counts.sum()))]
        y, x = (block.positions[rng.integers(len(block.positions))] - self._plan.crop // 2).tolist()
        return CropLocation(image, block.plane, self._box(image, y, x))

    def _box(self, image: int, y: int, x: int) -> Box:
        side, shape = self._plan.crop, self._plan.train[image].header.shape
        y, x = (_move_inside(start, side, length) for start, length in zip((y, x), shape, strict=True))
        return Box(y, x, y + side, x + side)


def _move_inside(start: int, side: int, length: int) -> int:
    """Move a crop into the image along one axis; a crop that is larger than the image is centred on it.

    Example:
        >>> _move_inside(-3, 4, 10), _move_inside(9, 4, 10), _move_inside(0, 16, 10)
        (0, 6, -3)
    """
    return min(max(start, 0), length - side) if length >= side else (length - side) // 2
