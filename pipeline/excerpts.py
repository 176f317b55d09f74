"""Tiles of the user's own images, read to try something out on them before the run begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.fits import Summary
from pipeline.geometry import Box
from pipeline.job import read_reflected, valid_pixels
from pipeline.normalize import fitter, resolve
from pipeline.plugins import build
from pipeline.receipts import Image
from pipeline.survey import Survey

__all__ = ["Excerpt", "Place", "read_excerpts", "spread"]


class Place(NamedTuple):
    """Where a tile lies.

    Attributes:
        image: that it is of.
        plane: index of the (t, z) plane.
        box: may leave the image, and is reflected there.
    """

    image: Image
    plane: int
    box: Box


class Excerpt(NamedTuple):
    """One tile.

    Attributes:
        pixels_BCYX: raw values, B = 1; zero where there is no data.
        fit: what the fit phase would find, were the tiles of its image the whole image.
    """

    pixels_BCYX: NDArray[Any]
    fit: Mapping[str, Any]


def spread(images: Sequence[Image], count: int, side: int) -> list[Place]:
    """Choose tiles that do not overlap, as many in one image as in another, always the same ones.

    Args:
        images: to choose from.
        count: of tiles; fewer where the images have no room for more.
        side: of a tile, pixels; an image that is smaller has one tile.
    """
    chosen = images if len(images) <= count else [images[at * len(images) // count] for at in range(count)]
    places = []
    for at, image in enumerate(chosen):
        height, width = image.header.shape
        rows, cols = max(1, height // side), max(1, width // side)
        cells = image.header.num_planes * rows * cols
        share = min(cells, count * (at + 1) // len(chosen) - count * at // len(chosen))
        for cell in np.random.default_rng(at).choice(cells, share, replace=False).tolist():
            y = (height - rows * side) // 2 + cell // cols % rows * side
            x = (width - cols * side) // 2 + cell % cols * side
            places.append(Place(image, cell // (rows * cols), Box(y, x, y + side, x + side)))
    return places


def read_excerpts(found: Survey, places: Sequence[Place]) -> list[Excerpt]:
    """Read tiles, in the order of the places.

    Raises:
        BlockError: one cannot be read.
        InputError: an image cannot be opened.
    """
    fitters = {"normalize": fitter(resolve(found.config.normalize, found.model)), "model": found.model.fitter()}
    tiles: list[tuple[str, NDArray[Any]]] = []
    sums: dict[tuple[str, str], Summary] = {}
    for image, plane, box in places:
        with build("readers", image.reader).open(image.path) as raster:
            pixels_CYX = read_reflected(raster, box, plane)
        valid_YX = valid_pixels(pixels_CYX, image.header)
        if valid_YX is not None:
            pixels_CYX = np.where(valid_YX, pixels_CYX, pixels_CYX.dtype.type(0))
        tiles.append((image.name, pixels_CYX[None]))
        for name, one in fitters.items():
            if one:
                seen, key = one.observe(pixels_CYX, valid_YX, box, plane), (image.name, name)
                sums[key] = one.merge(sums[key], seen) if key in sums else seen
    fits: dict[str, dict[str, Any]] = {name: {} for name, _ in tiles}
    for (image_name, name), summary in sums.items():
        used = fitters[name]
        assert used is not None
        fits[image_name][name] = used.fit(summary)
    return [Excerpt(pixels_BCYX, fits[name]) for name, pixels_BCYX in tiles]
