"""Smaller levels of an image: each halves the one before, block by block.

A block is computed from four of the level before, which are read one at a time: memory holds about one block, whatever the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.raster import Raster
from pipeline.storage import BlockStore, ZarrV2Level
from pipeline.tiling import Grid

__all__ = ["Halve", "fill_level", "halved", "mean", "mode", "nearest", "shapes"]

Halve = Callable[[NDArray[Any]], NDArray[Any]]
"""(..., Y, X) to (..., ceil(Y / 2), ceil(X / 2)); each pixel stands for a square of 2x2."""


def halved(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the shape of the next smaller level; odd sides round up."""
    return -(-shape[0] // 2), -(-shape[1] // 2)


def shapes(shape: tuple[int, int], largest: int) -> list[tuple[int, int]]:
    """Return the shapes of the levels, the image first, down to one whose sides are at most ``largest`` pixels.

    Example:
        >>> shapes((3000, 700), 1024)
        [(3000, 700), (1500, 350), (750, 175)]
    """
    levels = [shape]
    while max(levels[-1]) > largest:
        levels.append(halved(levels[-1]))
    return levels


def nearest(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the first pixel of each square."""
    return pixels[..., ::2, ::2]


def mode(classes: NDArray[Any]) -> NDArray[Any]:
    """Return the most frequent value of each square; ties go to the lowest, so that *no prediction* never wins one.

    Example:
        >>> mode(np.array([[3, 3, 7, 255], [1, 2, 255, 7]], np.uint8)).tolist()
        [[3, 7]]
        >>> mode(np.array([[1, 2], [2, 1]], np.uint8)).tolist()
        [[1]]
    """
    a, b, c, d = _corners(classes)
    a, b, c, d = np.minimum(a, b), np.maximum(a, b), np.minimum(c, d), np.maximum(c, d)
    low, high = np.minimum(a, c), np.maximum(b, d)
    a, b = np.maximum(a, c), np.minimum(b, d)
    second, third = np.minimum(a, b), np.maximum(a, b)
    # Equal values are neighbours once sorted: take the lowest pair of equal ones, else the lowest value.
    pair: NDArray[Any] = np.where(second == third, second, np.where(third == high, third, low))
    return np.where(low == second, low, pair)


def mean(nodata: float | None = None) -> Halve:
    """Return the rule that averages each square, in the type of the pixels; a square with any nodata is nodata.

    Example:
        >>> mean()(np.array([[1, 2], [3, 4]], np.uint8)).tolist()
        [[3]]
        >>> mean(nodata=9)(np.array([[1, 2], [3, 9]], np.uint8)).tolist()
        [[9]]
    """

    def halve(pixels: NDArray[Any]) -> NDArray[Any]:
        corners = _corners(pixels)
        floating = pixels.dtype.kind == "f"
        total = corners[0].astype(np.float64 if floating else np.int64)
        for corner in corners[1:]:
            total += corner
        out: NDArray[Any] = (total / 4 if floating else (total + 2) // 4).astype(pixels.dtype)
        if nodata is not None:
            out[np.any([corner == nodata for corner in corners], axis=0)] = nodata
        return out

    return halve


def fill_level(source: Raster, target: BlockStore | ZarrV2Level, halve: Halve) -> None:
    """Write every block of a level that was created, from the level before."""
    grid = Grid(target.header.shape, core=target.block, halo=0, block=target.block)
    for plane in range(target.header.num_planes):
        for box in grid.blocks():
            pixels_CYX = np.empty((target.header.channels, *box.shape), target.header.dtype)
            for part in _quarters(box, target.block):
                doubled = Box(2 * part.y0, 2 * part.x0, 2 * part.y1, 2 * part.x1).clip(source.header.shape)
                pixels_CYX[:, *part.relative_to(box).slices] = halve(source.read(doubled, plane))
            target.write(box, pixels_CYX, plane)


def _quarters(box: Box, block: int) -> Iterator[Box]:
    """Cut a box into parts of about one block of the level before, to be read one at a time."""
    half = -(-block // 2)
    for y0 in range(box.y0, box.y1, half):
        for x0 in range(box.x0, box.x1, half):
            yield Box(y0, x0, min(y0 + half, box.y1), min(x0 + half, box.x1))


def _corners(pixels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the four pixels of each square as four images; at an odd edge the last pixels count twice."""
    height, width = pixels.shape[-2:]
    if height % 2 or width % 2:
        pixels = np.pad(pixels, [(0, 0)] * (pixels.ndim - 2) + [(0, height % 2), (0, width % 2)], mode="edge")
    return pixels[..., ::2, ::2], pixels[..., ::2, 1::2], pixels[..., 1::2, ::2], pixels[..., 1::2, 1::2]
