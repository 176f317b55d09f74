"""The coarse picture of an image: what is read of it before blocks are, to find what counts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError
from pipeline.inputs import Image, open_cells
from pipeline.raster import Header, Raster
from pipeline.statistics import Content, cell_side, content_of, find_empty_areas
from pipeline.tiling import Grid

__all__ = ["find_content", "greatest_sample", "read_cells"]

PART = 256  # cells a side that are read at once


def read_cells(raster: Raster, plane: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Read a plane of a coarse picture, a part at a time.

    What is damaged counts as without data here: a block that holds it fails by itself, and the others are done.

    Returns:
        cells_CYX, and valid_YX.
    """
    header = raster.header
    cells_CYX = np.zeros((header.channels, *header.shape), header.dtype)
    valid_YX = np.zeros(header.shape, np.bool_)
    for box in Grid(header.shape, PART, 0, PART).blocks():
        try:
            part_CYX, part_YX = raster.read_valid(box, plane)
        except BlockError:
            continue
        cells_CYX[(slice(None), *box.slices)] = part_CYX
        valid_YX[box.slices] = True if part_YX is None else part_YX
    return cells_CYX, valid_YX


def greatest_sample(header: Header, values: NDArray[np.generic]) -> float:
    """Return the greatest value that samples may have: of the bits that are used, and for floats that of these values."""
    kind = np.dtype(header.dtype)
    if kind.kind in "iu":
        return float(2**header.bits - 1 if header.bits else np.iinfo(kind).max)
    return 1.0 if kind.kind == "b" else float(values.max(initial=0))


def find_content(image: Image) -> Content:
    """Find which pixels of an image its statistics are made of."""
    side = cell_side(image.header.shape)
    with open_cells(image, side) as raster:
        planes = list(_planes(raster))
    greatest = max(greatest_sample(image.header, cells_CYX[:, valid_YX]) for cells_CYX, valid_YX in planes)
    is_color = image.header.is_color
    areas = [find_empty_areas(cells, valid, side=side, is_color=is_color, greatest=greatest) for cells, valid in planes]
    return content_of(areas, side=side, shape=image.header.shape, greatest=greatest)


def _planes(raster: Raster) -> Iterator[tuple[NDArray[np.generic], NDArray[np.bool_]]]:
    return (read_cells(raster, plane) for plane in range(raster.header.num_planes))
