"""Small pictures of large images, for people to look at."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.raster import Raster, ResampledRaster, resampled_header

__all__ = ["draw_image"]

STRIP_BYTES = 1 << 26  # of the image, read at once
LOW, HIGH = 1.0, 99.8  # percentiles drawn as black and white, unless the image is 8-bit colour


def draw_image(open_image: Callable[[int], AbstractContextManager[Raster]], shape: tuple[int, int], plane: int) -> NDArray[np.uint8]:
    """Return a plane of an image as a picture (Y, X, 3).

    8-bit colours are drawn unchanged, other channels as their mean, stretched from the 1st to the 99.8th percentile.

    Args:
        open_image: opens the image at a pyramid level whose longer side is at least a number of pixels, if it has one.
        shape: height and width of the picture, at most those of the image.
        plane: index over the stack axes.
    """
    with open_image(max(shape)) as image:
        header = image.header
        step = (header.shape[0] / shape[0], header.shape[1] / shape[1])
        small = ResampledRaster(image, resampled_header(header, step, shape=shape), step)
        strip_bytes = step[0] * header.shape[1] * header.channels * np.dtype(header.dtype).itemsize
        rows = max(1, int(STRIP_BYTES / strip_bytes))
        strips = [small.read_valid(Box(y, 0, y + rows, shape[1]).clip(shape), plane) for y in range(0, shape[0], rows)]
    pixels_CYX = np.concatenate([pixels for pixels, _ in strips], axis=1)
    valid_YX = np.concatenate([np.ones(pixels.shape[1:], bool) if valid is None else valid for pixels, valid in strips])
    if header.is_color and header.dtype == "uint8":
        return np.ascontiguousarray(pixels_CYX[:3].transpose(1, 2, 0))
    return _stretched(pixels_CYX, valid_YX, is_color=header.is_color)


def _stretched(pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_], *, is_color: bool) -> NDArray[np.uint8]:
    values = pixels_CYX[:3].astype(np.float32) if is_color else pixels_CYX.astype(np.float32).mean(0, keepdims=True)
    kept = values[:, valid_YX]
    low, high = np.percentile(kept, [LOW, HIGH]) if kept.size else (0.0, 1.0)
    scaled = np.clip((values - low) / max(float(high - low), 1e-12), 0, 1) * valid_YX
    return np.ascontiguousarray(np.broadcast_to((scaled * 255).astype(np.uint8).transpose(1, 2, 0), (*values.shape[1:], 3)))
