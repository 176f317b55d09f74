"""The coarse picture of an image, read before its blocks to find content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.job import Job
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.inputs import Image, open_cells, open_finer
from pipeline.plugins import build
from pipeline.raster import Header, Raster, resampled_shape
from pipeline.skips import SkippedImage, open_kept, picture_of
from pipeline.statistics import Content, cell_side, content_of, find_empty_areas
from pipeline.tiling import Grid

__all__ = ["find_content", "greatest_sample", "read_cells", "read_has_data", "skipped_image", "skipped_share"]

PART = 256  # side of what is read at once, cells


def read_cells(raster: Raster, plane: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Read a plane of a coarse picture, a part at a time.

    Damaged parts count as missing data here: later the blocks that hold them fail, and the others are done.

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
    """Return the greatest value that samples may have by their used bits; for floats the greatest of ``values``."""
    kind = np.dtype(header.dtype)
    if kind.kind in "iu":
        return float(2**header.bits - 1 if header.bits else np.iinfo(kind).max)
    return 1.0 if kind.kind == "b" else float(values.max(initial=0))


def find_content(image: Image) -> Content:
    """Find the pixels that count for an image's statistics."""
    side = cell_side(image.header.shape)
    with open_cells(image, side) as raster:
        planes = list(_planes(raster))
    greatest = max(greatest_sample(image.header, cells_CYX[:, valid_YX]) for cells_CYX, valid_YX in planes)
    is_color = image.header.is_color
    areas = []
    for cells_CYX, valid_YX in planes:
        found = find_empty_areas(cells_CYX, valid_YX, side=side, is_color=is_color, greatest=greatest)
        if is_color and not found.is_stained and (found.padding_YX & ~cells_CYX.any(axis=0)).any():
            # Exactly 0 may be the background of fluorescence, whose even objects are no glass: nothing tells it from padding.
            found = replace(found, padding_YX=np.zeros_like(found.padding_YX), glass_YX=np.zeros_like(found.glass_YX))
        areas.append(found)
    return content_of(areas, side=side, shape=image.header.shape, greatest=greatest)


def read_has_data(image: Image, side: int) -> list[NDArray[np.bool_]]:
    """Return for each plane which cells (Y, X) hold a valid pixel, judged on the pyramid level that is read."""
    height, width = resampled_shape(image.header.shape, (side, side))
    found = np.zeros((image.header.num_planes, height, width), np.bool_)
    with open_finer(image, side) as raster:
        steps = [side * at / own for at, own in zip(raster.header.shape, image.header.shape, strict=True)]
        part = PART * max(1, int(min(steps)))
        for plane in range(len(found)):
            for box in Grid(raster.header.shape, part, 0, part).blocks():
                _, valid_YX = raster.read_valid(box, plane)
                valid_YX = np.ones(box.shape, np.bool_) if valid_YX is None else valid_YX
                ends = ((box.y0, box.y1, steps[0], height), (box.x0, box.x1, steps[1], width))
                rows, cols = (np.minimum((np.arange(*end[:2]) + 0.5) // end[2], end[3] - 1).astype(np.intp) for end in ends)
                starts = [np.flatnonzero(np.diff(index, prepend=-1)) for index in (rows, cols)]
                any_YX = np.logical_or.reduceat(np.logical_or.reduceat(valid_YX, starts[0], axis=0), starts[1], axis=1)
                found[plane][np.ix_(rows[starts[0]], cols[starts[1]])] |= any_YX
    return list(found)


def skipped_image(image: Image, halo: int) -> SkippedImage:
    """Return the view of an image that a skip gets; pixels are read when it asks for them."""
    side = cell_side(image.header.shape)

    def cells() -> list[tuple[NDArray[np.generic], NDArray[np.bool_]]]:
        with open_cells(image, side) as raster:
            return list(_planes(raster))

    return SkippedImage(
        name=image.name,
        path=image.path,
        own=image.grid.own if image.grid else image.header,
        header=image.header,
        side=side,
        halo=halo,
        greatest=lambda values: greatest_sample(image.header, values),
        cells=cells,
        has_data=lambda: read_has_data(image, side),
    )


def skipped_share(job: Job, image: Image) -> tuple[float, float]:
    """Return, before a run, the share of an image's pixels that is skipped and the share of tiles that is not predicted."""
    assert job.skip is not None
    found, header = job.skip.find(skipped_image(image, job.recipe.halo)), image.header
    if not found:
        return 0.0, 0.0
    with ExitStack() as stack:
        kept = open_kept(found, header, lambda path: stack.enter_context(build("readers", {"name": "auto"}, "skip").open(path)))
        pixels = picture_of(kept, header.shape, header.num_planes)
        tiles = list(job.grid(image).tiles(Box(0, 0, *header.shape)))
        seen = [tile.outer.clip(header.shape) if job.blends else tile.core for tile in tiles]
        needed = [kept.has_any(box, plane) for box in seen for plane in range(header.num_planes)]
    return 1 - float(pixels.mean()), 1 - sum(needed) / len(needed)


def _planes(raster: Raster) -> Iterator[tuple[NDArray[np.generic], NDArray[np.bool_]]]:
    return (read_cells(raster, plane) for plane in range(raster.header.num_planes))
