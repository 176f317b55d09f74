"""How large the objects of the training images are, measured in their truth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.inputs import Image, open_truth
from pipeline.tiling import Grid
from pipeline.training.plan import TrainPlan

__all__ = ["median_diameter"]

BLOCK = 2048


def median_diameter(plan: TrainPlan) -> float | None:
    """Return the median diameter of the objects of the training images, of discs of equal area, in pixels of the training grid.

    Objects are known where the truth numbers them, as ``border`` needs. Without numbers, touching objects are one area of the truth,
    and a class such as vegetation has no objects at all: the diameter is then None, unless the YAML states one.
    Objects that the edge of their image cuts are left out, unless all are cut. In a stack, the sections of an object count one by one.
    """
    if plan.border_class is None:
        return None
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: _object_areas(plan, image), plan.train))
    whole, cut = (list(chain.from_iterable(some)) for some in zip(*found, strict=True))
    areas = whole or cut
    return round(float(np.median(np.sqrt(np.array(areas) * (4 / math.pi)))), 1) if areas else None


def _object_areas(plan: TrainPlan, image: Image) -> tuple[list[int], list[int]]:
    """Return the areas of an image's objects in pixels: of those that lie inside, and of those that its edge cuts."""
    areas, cut = Counter[tuple[int, int]](), set[tuple[int, int]]()
    height, width = image.header.shape
    for plane, box, numbers_YX in _numbers(plan, image):
        numbers, pixels = np.unique(numbers_YX, return_counts=True)
        areas.update({(plane, number): count for number, count in zip(numbers.tolist(), pixels.tolist(), strict=True) if number})
        sides = (box.y0 == 0, box.y1 == height, box.x0 == 0, box.x1 == width)
        lines = (numbers_YX[0], numbers_YX[-1], numbers_YX[:, 0], numbers_YX[:, -1])
        cut.update((plane, number) for line, is_edge in zip(lines, sides, strict=True) if is_edge for number in np.unique(line).tolist())
    return [area for key, area in areas.items() if key not in cut], [area for key, area in areas.items() if key in cut]


def _numbers(plan: TrainPlan, image: Image) -> Iterator[tuple[int, Box, NDArray[Any]]]:
    """Yield plane, box, and the number of the object at each pixel of every block, 0 outside the class whose objects are numbered."""
    with open_truth(image) as truth:
        for plane in range(image.header.num_planes):
            for box in Grid(image.header.shape, BLOCK, 0, BLOCK).blocks():
                truth_CYX, known_YX = truth.read_valid(box, plane)
                classes_YX = plan.truth_map.apply(truth_CYX, box, known_YX)
                yield plane, box, np.where(classes_YX == plan.border_class, truth_CYX[0], 0)
