"""Tiles of the user's own images, read before the run begins, to try backends and precisions on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import read_reflected, valid_pixels
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.inputs import Catalogue, Image
from pipeline.plugins import build
from pipeline.statistics import Fitter, Summary, normalization_fitter, resolve_normalization

__all__ = ["SampleTile", "TileLocation", "read_sample_tiles", "spread_locations"]

MOST_DECODED_BYTES = 2**28  # of files that decode only as a whole, which takes a second or two


class TileLocation(NamedTuple):
    """Where a tile lies.

    Attributes:
        image: the image.
        plane: index of the (t, z) plane.
        box: pixels of the working grid; where they leave the image, they are reflected.
    """

    image: Image
    plane: int
    box: Box


class SampleTile(NamedTuple):
    """One tile.

    Attributes:
        pixels_BCYX: raw values, B = 1; zero where there is no data.
        fit: what the fit phase would find, were all locations that were read the whole image.
    """

    pixels_BCYX: NDArray[Any]
    fit: Mapping[str, Any]


def spread_locations(images: Sequence[Image], count: int, side: int) -> list[TileLocation]:
    """Choose locations that do not overlap, equally many in each image; the same arguments give the same locations.

    Args:
        images: to choose from.
        count: of locations; fewer where the images have no room for more.
        side: of a tile, pixels; an image that is smaller has one location.
    """
    chosen = images if len(images) <= count else [images[at * len(images) // count] for at in range(count)]
    locations = []
    for at, image in enumerate(chosen):
        height, width = image.header.shape
        rows, cols = max(1, height // side), max(1, width // side)
        num_tiles = image.header.num_planes * rows * cols
        share = min(num_tiles, _share(count, at, len(chosen)))
        for tile in np.random.default_rng(at).choice(num_tiles, share, replace=False).tolist():
            y = (height - rows * side) // 2 + tile // cols % rows * side
            x = (width - cols * side) // 2 + tile % cols * side
            locations.append(TileLocation(image, tile // (rows * cols), Box(y, x, y + side, x + side)))
    return locations


def _share(count: int, at: int, parts: int) -> int:
    """How many of ``count`` the part ``at`` of so many parts gets.

    Example:
        >>> [_share(5, at, 3) for at in range(3)]
        [1, 2, 2]
    """
    return count * (at + 1) // parts - count * at // parts


def read_sample_tiles(catalogue: Catalogue, images: Sequence[Image], count: int, side: int, num_locations: int) -> list[SampleTile]:
    """Read the tiles with the widest range of values, equally many in each image; the widest of all comes first.

    Most of an image may be empty, and a trial on glass says nothing of the specimen.

    Args:
        catalogue: the run's model and config.
        images: some of its images.
        count: of tiles; fewer where the images have no room for more, or cannot be read.
        side: of a tile, pixels.
        num_locations: that are read to choose from, at most; at least ``count``.

    Raises:
        InputError: an image cannot be opened.
    """
    normalization = resolve_normalization(catalogue.config.normalize, catalogue.model)
    fitters = {"normalize": normalization_fitter(normalization), "model": catalogue.model.fitter()}
    used = {name: chosen for name, chosen in fitters.items() if chosen}
    locations = spread_locations(_affordable(images, count), num_locations, side)
    groups = [list(group) for _, group in groupby(locations, key=lambda location: location.image.name)]
    shares = [max(1, _share(count, at, len(groups))) for at in range(len(groups))]
    tiles = (tile for group, share in zip(groups, shares, strict=True) for tile in _widest(group, share, used))
    return [tile for _, tile in nlargest(count, tiles, key=itemgetter(0))]


def _affordable(images: Sequence[Image], count: int) -> Sequence[Image]:
    """The images to read from: of those that decode as a whole only so many as a trial can wait for, but at least ``count``."""
    whole = max((image.header.whole_bytes for image in images), default=0)
    most = max(count, MOST_DECODED_BYTES // whole) if whole else len(images)
    return images if len(images) <= most else [images[at * len(images) // most] for at in range(most)]


def _widest(locations: Sequence[TileLocation], count: int, fitters: Mapping[str, Fitter]) -> list[tuple[float, SampleTile]]:
    """Read locations of one image and keep the tiles of the widest ranges, with their ranges.

    The fit is that of all locations: the tiles that are kept are no fair sample of the image.
    """
    sums: dict[str, Summary] = {}

    def read_all() -> Iterator[tuple[float, NDArray[Any]]]:
        with build("readers", locations[0].image.reader).open(locations[0].image.path) as raster:
            for image, plane, box in locations:
                try:
                    pixels_CYX = read_reflected(raster, box, plane)
                except BlockError:
                    continue  # the run will meet the same failure and report where it is
                valid_YX = valid_pixels(pixels_CYX, image.header)
                if valid_YX is not None:
                    pixels_CYX = np.where(valid_YX, pixels_CYX, pixels_CYX.dtype.type(0))
                for name, gatherer in fitters.items():
                    summary = gatherer.observe(pixels_CYX, valid_YX, box, plane)
                    sums[name] = gatherer.merge(sums[name], summary) if name in sums else summary
                yield _width(pixels_CYX, valid_YX), pixels_CYX[None]

    kept = nlargest(count, read_all(), key=itemgetter(0))
    fit = {name: fitters[name].fit(summary) for name, summary in sums.items()}
    return [(width, SampleTile(pixels_BCYX, fit)) for width, pixels_BCYX in kept]


def _width(pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None) -> float:
    """Range of the valid values in the channel where it is widest; below zero where none is valid or one is infinite.

    Example:
        >>> _width(np.array([[[1, 2, 9]], [[5, 5, 0]]]), np.array([[True, True, False]]))
        1.0
    """
    values_CN = pixels_CYX.reshape(len(pixels_CYX), -1) if valid_YX is None else pixels_CYX[:, valid_YX]
    if not values_CN.size or not np.isfinite(values_CN).all():
        return -1.0
    return float((values_CN.max(1).astype(np.float64) - values_CN.min(1)).max())
