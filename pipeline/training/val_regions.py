"""Regions of images that are kept for validation: cells of a coarse grid, and a gap around each that nothing is learnt from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Problem, counted
from pipeline.geometry import Box
from pipeline.inputs import Image

__all__ = ["ValRegions", "choose_regions", "describe_regions", "grid_cells", "leaves_room", "region_problems", "regions_geojson"]

CROPS_A_CELL = 8  # side of a cell, in crops, at most: a cell with a gap of one crop around it takes 1.6 times the area of the cell


@dataclass(frozen=True)
class ValRegions:
    """What is kept for validation of one image, in pixels of its working grid; every plane of a stack has the same regions.

    Attributes:
        boxes: the regions, which do not overlap; empty: the image has none.
        gap: width of what lies around each region and is used for nothing.
        num_labelled: pixels of the regions that have a class.
        num_labelled_in_all: pixels of the whole image that have a class.
    """

    boxes: tuple[Box, ...]
    gap: int
    num_labelled: int = 0
    num_labelled_in_all: int = 0

    @cached_property
    def _closed(self) -> NDArray[np.int64]:
        """Regions with their gap, a row of y0, x0, y1, x1 each."""
        return _rows([box.grow(self.gap) for box in self.boxes])

    def is_clear(self, box: Box) -> bool:
        """Whether a box has no pixel of a region or of its gap."""
        return not len(self._near(box))

    def mark(self, ids_YX: NDArray[Any], box: Box, value: int) -> None:
        """Write ``value`` over the pixels of a box that lie in a region or in its gap."""
        for y0, x0, y1, x1 in self._near(box).tolist():
            inside = Box(y0, x0, y1, x1).intersection(box)
            assert inside is not None
            ids_YX[inside.relative_to(box).slices] = value

    def num_closed(self, shape: tuple[int, int]) -> int:
        """Count the pixels of a plane that lie in a region or in its gap."""
        closed_N4 = self._closed.clip(0, [*shape, *shape])
        rows, cols = (np.unique(closed_N4[:, [axis, axis + 2]]) for axis in (0, 1))
        is_closed_YX = np.zeros((max(0, len(rows) - 1), max(0, len(cols) - 1)), np.bool_)
        for y0, x0, y1, x1 in closed_N4:
            ys, xs = np.searchsorted(rows, (y0, y1)), np.searchsorted(cols, (x0, x1))
            is_closed_YX[ys[0] : ys[1], xs[0] : xs[1]] = True
        return int((is_closed_YX * np.outer(np.diff(rows), np.diff(cols))).sum())

    def _near(self, box: Box) -> NDArray[np.int64]:
        y0, x0, y1, x1 = self._closed.T
        near_N4: NDArray[np.int64] = self._closed[(y0 < box.y1) & (y1 > box.y0) & (x0 < box.x1) & (x1 > box.x0)]
        return near_N4


def grid_cells(shape: tuple[int, int], fraction: float, crop: int) -> list[Box]:
    """Cut an image into cells of about equal size, of which some become regions.

    A cell is about as large as the whole share, because few large regions lose less to the gap than many small ones; but at least a crop
    and at most :data:`CROPS_A_CELL` crops wide, so that the regions of a large image lie in many places.

    Example:
        >>> [box.shape for box in grid_cells((1000, 2000), 0.2, 100)]
        [(500, 667), (500, 666), (500, 667), (500, 667), (500, 666), (500, 667)]
    """
    side = min(max(math.sqrt(fraction * shape[0] * shape[1]), crop), CROPS_A_CELL * crop)
    numbers = [max(1, round(length / side)) for length in shape]
    if numbers == [1, 1]:
        numbers[int(shape[1] >= shape[0])] = 2
    rows, cols = ([round(length * at / number) for at in range(number + 1)] for length, number in zip(shape, numbers, strict=True))
    return [Box(y0, x0, y1, x1) for y0, y1 in pairwise(rows) for x0, x1 in pairwise(cols)]


def choose_regions(
    image: Image, cells: Sequence[Box], labelled: Sequence[int], *, fraction: float, crop: int, reach: int, seed: int
) -> ValRegions:
    """Choose cells in the order of a hash until their labelled pixels are about ``fraction`` of those of the image.

    A cell is passed over if it has no labelled pixel, if the share would be missed by more with it than without it, or if no place for
    a crop would be left.

    Args:
        image: gives the name, which the hash depends on, and the shape.
        cells: of :func:`grid_cells`.
        labelled: number of pixels of each cell that have a class, over all planes.
        fraction: share of the labelled pixels, above 0 and below 1.
        crop: side of a crop, and width of the gap, pixels.
        reach: side of the largest part of an image that becomes one crop, pixels, at least ``crop``.
        seed: of the training.
    """

    def rank(at: int) -> bytes:
        return hashlib.sha256(f"{seed} {image.name} {cells[at].y0} {cells[at].x0}".encode()).digest()

    wanted, held, chosen = fraction * sum(labelled), 0, list[Box]()
    for at in sorted(range(len(cells)), key=rank):
        if held >= wanted:
            break
        is_too_much = bool(chosen) and held + labelled[at] - wanted > wanted - held
        if labelled[at] and not is_too_much and leaves_room([*chosen, cells[at]], image.header.shape, crop, reach):
            chosen.append(cells[at])
            held += labelled[at]
    return ValRegions(tuple(sorted(chosen)), crop, held, sum(labelled))


def region_problems(images: Sequence[Image], fraction: float, crop: int, reach: int, where: str) -> list[Problem]:
    """Refuse images that are too small for a region, a gap around it and a crop beside it; arguments as in :func:`choose_regions`."""
    problems = []
    for image in images:
        shape = image.header.shape
        cells = grid_cells(shape, fraction, crop)
        if not any(leaves_room([cell], shape, crop, reach) for cell in cells):
            height, width = max(cells, key=lambda cell: cell.area).shape
            found = f"{shape[0]} x {shape[1]} pixels, of which a region takes {height} x {width}, its gap {crop} on each side"
            fix = f"Use a smaller crop, or keep whole images: {where.rpartition(' ')[2]}: 0.2."
            problems.append(Problem(image.path, found, f"room for a crop beside it, which needs up to {reach} x {reach}", fix))
    return problems


def describe_regions(regions: Sequence[ValRegions]) -> str:
    """Return how much the regions of all images are, for users."""
    share = sum(one.num_labelled for one in regions) / max(1, sum(one.num_labelled_in_all for one in regions))
    boxes, images = sum(len(one.boxes) for one in regions), sum(bool(one.boxes) for one in regions)
    return f"{counted(boxes, 'region')} of {counted(images, 'image')} with {share:.1%} of the labelled pixels"


def leaves_room(regions: Sequence[Box], shape: tuple[int, int], crop: int, reach: int) -> bool:
    """Whether a crop, with all that may be read for it, fits into an image beside its regions and their gaps of one crop."""
    closed_N4 = _rows([box.grow(crop) for box in regions])
    tops, lefts = (_starts(length, crop, reach, closed_N4[:, axis + 2]) for axis, length in zip((0, 1), shape, strict=True))
    y_N, x_N = (grid.ravel() for grid in np.meshgrid(tops, lefts, indexing="ij"))
    is_clear_N = np.ones(len(y_N), np.bool_)
    for y0, x0, y1, x1 in closed_N4:
        is_clear_N &= (y_N >= y1) | (y_N + reach <= y0) | (x_N >= x1) | (x_N + reach <= x0)
    return bool(is_clear_N.any())


def regions_geojson(image: Image, regions: ValRegions) -> str:
    """Return the regions as GeoJSON for ``skip: {name: regions}``: polygons in pixels of the image's full resolution."""
    header = image.grid.own if image.grid else image.header
    own = header.levels[0] if header.levels else header.shape
    y_step, x_step = (length / working for length, working in zip(own, image.header.shape, strict=True))
    features = [
        {
            "type": "Feature",
            "properties": {},
            "geometry": {"type": "Polygon", "coordinates": [[[x * x_step, y * y_step] for y, x in _corners(box)]]},
        }
        for box in regions.boxes
    ]
    return json.dumps({"type": "FeatureCollection", "crs": None, "features": features})  # null: pixels, also on a map


def _corners(box: Box) -> Iterator[tuple[int, int]]:
    yield from ((box.y0, box.x0), (box.y0, box.x1), (box.y1, box.x1), (box.y1, box.x0), (box.y0, box.x0))


def _starts(length: int, crop: int, reach: int, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where the part that becomes a crop may start along an axis so that it lies close behind something, or at an end."""
    margin = (reach - crop) // 2
    if length <= crop:
        return np.array([(length - crop) // 2 - margin])
    return np.unique(np.clip([-margin, *ends], -margin, length - crop - margin))


def _rows(boxes: Sequence[Box]) -> NDArray[np.int64]:
    return np.array([(box.y0, box.x0, box.y1, box.x1) for box in boxes], np.int64).reshape(-1, 4)
