"""What one pass over the training images finds: pixels of each class, where they lie, and numbers to normalise with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.losses import ClassAreas

__all__ = ["ClassLocations", "DatasetStatistics", "ImageStatistics"]


@dataclass(frozen=True)
class ClassLocations:
    """Where a class lies in one block of an image.

    Attributes:
        count: pixels of the class in the block.
        plane: index of the (t, z) plane.
        positions: a sample of these pixels, (n, 2): row and column in the image.
    """

    count: int
    plane: int
    positions: NDArray[np.int32]


@dataclass(frozen=True)
class ImageStatistics:
    """What was found in one image. "Each output" is each output channel of the network: the classes, then the border if there is one.

    Attributes:
        pixels: number of pixels of each output, ignored pixels left out.
        normalize: ``{"mean", "std"}`` of this image alone; None: those of the data set, or raw values, are used.
        locations: of each output, one entry for each block that holds it; empty where sampling does not need them.
    """

    pixels: tuple[int, ...]
    normalize: Mapping[str, Any] | None
    locations: Sequence[Sequence[ClassLocations]]


@dataclass(frozen=True)
class DatasetStatistics:
    """What was found in all training images; empty before the images have been scanned.

    Attributes:
        images: in the order of the plan.
        normalize: fixed ``{"mean", "std"}`` of the data set; None: those of each image, or raw values, are used.
    """

    images: Sequence[ImageStatistics] = ()
    normalize: Mapping[str, Any] | None = None

    @property
    def areas(self) -> ClassAreas:
        """The pixel counts from which class weights are made."""
        totals = np.array([image.pixels for image in self.images], np.int64)
        present = (totals > 0) * totals.sum(axis=1, keepdims=True)
        return ClassAreas(tuple(totals.sum(axis=0).tolist()), tuple(present.sum(axis=0).tolist()))
