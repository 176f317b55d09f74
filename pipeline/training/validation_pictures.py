"""Validation pictures for the page: the middle of some images, their truth, and what was predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.training.page import Picture
from pipeline.training.plan import TrainPlan

__all__ = ["validation_pictures"]

PICTURES = 16  # at most
SIDE = 384  # pixels
DARK, LIGHT = 1.0, 99.8  # percentiles that become black and white


def validation_pictures(plan: TrainPlan, masks: Path) -> Iterator[Picture]:
    """Cut pictures out of images that are spread evenly over the validation images.

    Args:
        plan: names the images.
        masks: folder of the masks that a run wrote, OME-Zarr.
    """
    for image in plan.val[:: -(-len(plan.val) // PICTURES)]:
        assert image.truth is not None
        box = _middle(image.header.shape)
        truth_YX = plan.truth_map.apply(_read(image.truth, {"name": "auto"}, box), box)
        mask_YX = _read(str(masks / f"{image.name}.ome.zarr"), {"name": "zarr"}, box)[0]
        yield Picture(image.name, _displayable(_read(image.path, image.reader, box)), truth_YX, mask_YX)


def _middle(shape: tuple[int, int]) -> Box:
    height, width = shape
    top, left = max(0, (height - SIDE) // 2), max(0, (width - SIDE) // 2)
    return Box(top, left, top + min(height, SIDE), left + min(width, SIDE))


def _read(path: str, reader: Mapping[str, Any], box: Box) -> NDArray[Any]:
    with build("readers", reader).open(path) as raster:
        return np.array(raster.read(box))


def _displayable(pixels_CYX: NDArray[Any]) -> NDArray[np.uint8]:
    """Return three channels or one, uint8 (Y, X, C); contrast is stretched unless these are RGB bytes already."""
    some_CYX = pixels_CYX[:3] if len(pixels_CYX) >= 3 else pixels_CYX[:1]
    if some_CYX.dtype != np.uint8 or len(some_CYX) == 1:
        values_CYX = np.nan_to_num(some_CYX.astype(np.float32))
        low, high = np.percentile(values_CYX, (DARK, LIGHT))
        some_CYX = (np.clip((values_CYX - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)
    return np.moveaxis(some_CYX, 0, -1)
