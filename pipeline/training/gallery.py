"""Validation pictures for the page: the middle of some images, their truth, and what was predicted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.plugins import build
from pipeline.raster import Raster
from pipeline.training.page import Picture
from pipeline.training.plan import TrainPlan

__all__ = ["pictures"]

MOST = 16
SIDE = 384  # pixels
DARK, LIGHT = 1.0, 99.8  # percentiles that are shown black and white


def pictures(plan: TrainPlan, masks: Path) -> Iterator[Picture]:
    """Cut the pictures, evenly from all validation images.

    Args:
        plan: names the images.
        masks: folder of the masks that a run wrote, OME-Zarr.
    """
    for image in plan.val[:: -(-len(plan.val) // MOST)]:
        assert image.truth is not None
        rows, cols = (slice(max(0, (side - SIDE) // 2), max(0, (side - SIDE) // 2) + min(side, SIDE)) for side in image.header.shape)
        box = Box(rows.start, cols.start, rows.stop, cols.stop)
        truth_YX = plan.truth_map.apply(_read(image.truth, {"name": "auto"}, box), box)
        yield Picture(
            image.name, _shown(_pixels(image, box)), truth_YX, _read(str(masks / f"{image.name}.ome.zarr"), {"name": "zarr"}, box)[0]
        )


def _pixels(image: Image, box: Box) -> NDArray[Any]:
    return _read(image.path, image.reader, box)


def _read(path: str, reader: Any, box: Box) -> NDArray[Any]:
    with build("readers", reader).open(path) as opened:
        raster: Raster = opened
        return np.array(raster.read(box))


def _shown(pixels_CYX: NDArray[Any]) -> NDArray[np.uint8]:
    """Three channels or one, uint8 (Y, X, C); stretched unless they are bytes already."""
    some_CYX = pixels_CYX[:3] if len(pixels_CYX) >= 3 else pixels_CYX[:1]
    if some_CYX.dtype != np.uint8 or len(some_CYX) == 1:
        values = np.nan_to_num(some_CYX.astype(np.float32))
        low, high = np.percentile(values, (DARK, LIGHT))
        some_CYX = (np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)
    return np.moveaxis(some_CYX, 0, -1)
