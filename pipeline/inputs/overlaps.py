"""Images of one map that are segmented apart: what they share is counted more than once, and their borders may show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.raster import affine

if TYPE_CHECKING:
    from pipeline.inputs.headers import Image

__all__ = ["overlap_notes"]

SYSTEM_TAGS = ("34735", "34736", "34737")
SHARE = 0.01  # of the smaller of two images; what shares less adjoins
FIX = "If they are tiles of one map, read them as one image, with `images: {mosaic: FOLDER}`, or `--mosaic NAME` of `gigaseg segment`"


def overlap_notes(images: Sequence[Image], *, is_segmented: bool = True) -> list[str]:
    """Return a note if images overlap on a map, or else if they adjoin, by the boxes around them in map coordinates.

    Images of other coordinate systems are not compared, nor are two of one file. ``is_segmented`` is whether a model looks at them:
    where masks are scored, it does not matter that they adjoin.
    """
    systems: dict[str, list[tuple[Image, NDArray[np.float64]]]] = {}
    for image in images:
        matrix = affine(image.header.georeference)
        if matrix is not None:
            height, width = image.header.shape
            corners_XY = np.array([[x, y, 1.0] for x in (0, width) for y in (0, height)]) @ matrix.T[:, :2]
            system = json.dumps([image.header.georeference.get(tag) for tag in SYSTEM_TAGS], default=str)
            systems.setdefault(system, []).append((image, np.r_[corners_XY.min(axis=0), corners_XY.max(axis=0)]))
    kinds: dict[str, list[tuple[str, str]]] = {"overlap": [], "adjoin": []}
    for found in systems.values():
        for kind, pairs in _neighbours(found).items():
            kinds[kind] += pairs
    for kind, what in (
        ("overlap", "what they share is counted once for each, in areas and in scores"),
        ("adjoin", "each is segmented alone, so that the borders between them may show"),
    ):
        if (pairs := kinds[kind]) and (is_segmented or kind == "overlap"):
            first, second = pairs[0]
            number = f"{len(pairs):,} images {kind} others on the map, such as {first} and {second}"
            return [f"{number}: {what}. {FIX}"]
    return []


def _neighbours(found: Sequence[tuple[Image, NDArray[np.float64]]]) -> dict[str, list[tuple[str, str]]]:
    """Return, for each image that overlaps or adjoins another, its name and that of the first such image."""
    boxes = np.array([box for _, box in found])  # left, bottom, right, top
    names = [image.name for image, _ in found]
    files = np.unique([image.path for image, _ in found], return_inverse=True)[1]
    order = np.argsort(boxes[:, 0], kind="stable")
    lefts, widest = boxes[order, 0], float((boxes[:, 2] - boxes[:, 0]).max())
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    pixel = np.array([np.sqrt(area / np.prod(image.header.shape)) for (image, _), area in zip(found, areas, strict=True)])
    kinds: dict[str, list[tuple[str, str]]] = {"overlap": [], "adjoin": []}
    for at, box in enumerate(boxes):
        near = order[np.searchsorted(lefts, box[0] - widest - pixel[at]) : np.searchsorted(lefts, box[2] + pixel[at], side="right")]
        near = near[files[near] != files[at]]
        sides = np.minimum(boxes[near, 2:], box[2:]) - np.maximum(boxes[near, :2], box[:2])  # negative: a gap
        shared = np.prod(np.maximum(sides, 0), axis=1) > SHARE * np.minimum(areas[near], areas[at])
        beside = (sides.min(axis=1) > -pixel[at]) & (sides.max(axis=1) > pixel[at])
        for kind, is_kind in (("overlap", shared), ("adjoin", beside)):
            if is_kind.any():
                kinds[kind].append((names[at], names[int(near[is_kind].min())]))
    return kinds
