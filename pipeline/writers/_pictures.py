"""Small pictures of large images, for people to look at."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.raster import NearestRaster, Raster, ResampledRaster, resampled_header

__all__ = ["draw_image", "fitted", "pick_pixels"]

STRIP_BYTES = 1 << 24  # of the image, read at once; resampling takes several times as much
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


def pick_pixels(raster: Raster, shape: tuple[int, int], plane: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return a plane of classes or ids at the size of a picture, by nearest pixels, and where they are valid; None: everywhere.

    The raster is read in strips, so that memory does not grow with its size.

    Args:
        raster: of one or several channels.
        shape: height and width of the picture, at most those of the raster.
        plane: index over the stack axes.

    Returns:
        pixels_CYX and valid_YX.
    """
    height, width = raster.header.shape
    step = (height / shape[0], width / shape[1])
    small = NearestRaster(raster, resampled_header(raster.header, step, shape=shape), step)
    row_bytes = step[0] * width * raster.header.channels * np.dtype(raster.header.dtype).itemsize
    rows = max(1, int(STRIP_BYTES / row_bytes))
    strips = [small.read_masked(Box(y, 0, y + rows, shape[1]).clip(shape), plane) for y in range(0, shape[0], rows)]
    pixels_CYX = np.concatenate([pixels for pixels, _ in strips], axis=1)
    if all(valid is None for _, valid in strips):
        return pixels_CYX, None
    return pixels_CYX, np.concatenate([np.ones(pixels.shape[1:], bool) if valid is None else valid for pixels, valid in strips])


def fitted(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Return the shape of a picture whose longer side has at most ``size`` pixels; images are never enlarged.

    Example:
        >>> fitted((4000, 1000), 2000), fitted((30, 20), 2000)
        ((2000, 500), (30, 20))
    """
    factor = max(1.0, max(shape) / size)
    return max(1, round(shape[0] / factor)), max(1, round(shape[1] / factor))


def _stretched(pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_], *, is_color: bool) -> NDArray[np.uint8]:
    values = pixels_CYX[:3].astype(np.float32) if is_color else pixels_CYX.astype(np.float32).mean(0, keepdims=True)
    kept = values[:, valid_YX]
    low, high = np.percentile(kept, [LOW, HIGH]) if kept.size else (0.0, 1.0)
    scaled = np.clip((values - low) / max(float(high - low), 1e-12), 0, 1) * valid_YX
    return np.ascontiguousarray(np.broadcast_to((scaled * 255).astype(np.uint8).transpose(1, 2, 0), (*values.shape[1:], 3)))
