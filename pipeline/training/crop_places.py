"""Where crops lie: drawn at random, on pixels to learn from, and clear of what is kept for validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.training.plan import LABEL_CELL, TrainPlan

__all__ = ["CropPlaces", "Location"]

TRIES = 64


class Location(NamedTuple):
    """Where a crop lies: index of the training image and of its (t, z) plane, and a box inside the image unless the image is smaller."""

    image: int
    plane: int
    box: Box


class CropPlaces:
    """Draws where crops lie; a location depends on the random generator and on ``margin`` alone.

    ``margin`` is the width around a crop that is read with it, pixels. No location has a pixel of a validation region, or of the gap
    around it, in what is read. The result is None where none was found that suits the margin.
    """

    def __init__(self, plan: TrainPlan) -> None:
        self._plan = plan
        numbers = range(len(plan.train))
        sizes = np.array([plan.training_pixels(at) if plan.config.sampling.images == "area" else 1 for at in numbers], np.float64)
        images = plan.statistics.images
        sizes *= [sum(image.pixels) > 0 for image in images]
        self._cumulative_share = np.cumsum(sizes) / sizes.sum()
        self._pixels = np.array([image.pixels for image in images], np.float64)
        self._outputs = np.flatnonzero(self._pixels.sum(axis=0))
        classes = plan.output_classes or range(self._pixels.shape[1])
        outputs: list[int] = self._outputs.tolist()
        self._foreground = [output for output in outputs if classes[output] and any(image.locations[output] for image in images)]

    def draw(self, rng: np.random.Generator, margin: int) -> Location | None:
        """Draw a location as ``sampling`` says: centred on a class for the share ``balance``, else anywhere."""
        if rng.random() < self._plan.config.sampling.balance:
            return self._centred(self._outputs, rng, margin)
        return self._first(self._anywhere, rng, margin) or self._first(self._at_label, rng, margin)

    def draw_foreground(self, rng: np.random.Generator, margin: int) -> Location | None:
        """Draw a location centred on a pixel of a class other than class 0; None also where no such pixel is known."""
        return self._centred(self._foreground, rng, margin) if self._foreground else None

    def _first(self, draw: Callable[[np.random.Generator], Location], rng: np.random.Generator, margin: int) -> Location | None:
        return next((place for place in (draw(rng) for _ in range(TRIES)) if self._suits(place, margin)), None)

    def _anywhere(self, rng: np.random.Generator) -> Location:
        image = self._draw_image(rng)
        header, side = self._plan.train[image].header, self._plan.crop
        plane = int(rng.integers(header.num_planes))
        y, x = (int(rng.integers(0, max(1, length - side + 1))) for length in header.shape)
        return Location(image, plane, self._box(image, y, x))

    def _at_label(self, rng: np.random.Generator) -> Location:
        """Draw a crop over a cell that holds labels: most places of an image with few labels have none."""
        image = self._draw_image(rng)
        labelled_PYX = self._plan.statistics.images[image].labelled_PYX
        if labelled_PYX is None:
            return self._anywhere(rng)
        plane, row, col = np.argwhere(labelled_PYX)[rng.integers(np.count_nonzero(labelled_PYX))].tolist()
        y, x = (LABEL_CELL * at + int(rng.integers(LABEL_CELL)) - int(rng.integers(self._plan.crop)) for at in (row, col))
        return Location(image, plane, self._box(image, y, x))

    def _draw_image(self, rng: np.random.Generator) -> int:
        return int(np.searchsorted(self._cumulative_share, rng.random(), side="right"))

    def _centred(self, outputs: Sequence[int] | NDArray[np.intp], rng: np.random.Generator, margin: int) -> Location | None:
        """Choose one of several outputs, all equally often, and one of its pixels, which lies off the middle where it must."""
        plan, side = self._plan, self._plan.crop
        output = rng.choice(outputs)
        pixels = self._pixels[:, output]
        image = int(rng.choice(len(pixels), p=pixels / pixels.sum()))
        blocks = plan.statistics.images[image].locations[output]
        counts = np.array([block.num_pixels for block in blocks], np.float64)
        block = blocks[int(rng.choice(len(blocks), p=counts / counts.sum()))]
        pixel = block.positions[rng.integers(len(block.positions))]
        y, x = (pixel - side // 2).tolist()
        location = Location(image, block.plane, self._box(image, y, x))
        if self._suits(location, margin):
            return location

        def over_pixel(rng: np.random.Generator) -> Location:
            return Location(image, block.plane, self._box(image, *(pixel - rng.integers(0, side, 2)).tolist()))

        return self._first(over_pixel, rng, margin)

    def _suits(self, location: Location, margin: int) -> bool:
        """Whether a crop may hold labels, and what is read for it is clear of validation regions."""
        plan, (image, plane, box) = self._plan, location
        if plan.regions and not plan.regions[image].is_clear(box.grow(margin).clip(plan.train[image].header.shape)):
            return False
        labelled_PYX = plan.statistics.images[image].labelled_PYX
        if labelled_PYX is None:
            return True
        inside = box.clip(plan.train[image].header.shape)
        rows, cols = (
            slice(start // LABEL_CELL, -(-stop // LABEL_CELL)) for start, stop in ((inside.y0, inside.y1), (inside.x0, inside.x1))
        )
        return bool(labelled_PYX[plane, rows, cols].any())

    def _box(self, image: int, y: int, x: int) -> Box:
        """Move a crop into the image; along an axis that is shorter than the crop, the crop is centred on the image."""
        side, shape = self._plan.crop, self._plan.train[image].header.shape
        y, x = (
            min(max(start, 0), length - side) if length >= side else (length - side) // 2
            for start, length in zip((y, x), shape, strict=True)
        )
        return Box(y, x, y + side, x + side)
