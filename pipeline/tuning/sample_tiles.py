"""Tiles of the user's own images, read to try something out on them before the run begins, and how far two answers agree on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from pipeline.statistics import Fitter, Summary, fitter, resolve
from pipeline.tuning.halo_search import SURE

__all__ = ["Comparison", "SampleTile", "Spot", "read_sample_tiles", "spread"]


WHOLE = 2**28  # bytes that are decoded at most to choose tiles, a second or two: files that have no parts


class Spot(NamedTuple):
    """Where a tile lies.

    Attributes:
        image: that it is of.
        plane: index of the (t, z) plane.
        box: may leave the image, and is reflected there.
    """

    image: Image
    plane: int
    box: Box


class SampleTile(NamedTuple):
    """One tile.

    Attributes:
        pixels_BCYX: raw values, B = 1; zero where there is no data.
        fit: what the fit phase would find, were the places that were looked at the whole image.
    """

    pixels_BCYX: NDArray[Any]
    fit: Mapping[str, Any]


def spread(images: Sequence[Image], count: int, side: int) -> list[Spot]:
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
        share = min(cells, _share(count, at, len(chosen)))
        for cell in np.random.default_rng(at).choice(cells, share, replace=False).tolist():
            y = (height - rows * side) // 2 + cell // cols % rows * side
            x = (width - cols * side) // 2 + cell % cols * side
            places.append(Spot(image, cell // (rows * cols), Box(y, x, y + side, x + side)))
    return places


def _share(count: int, at: int, parts: int) -> int:
    """How many of ``count`` one of so many parts has.

    Example:
        >>> [_share(5, at, 3) for at in range(3)]
        [1, 2, 2]
    """
    return count * (at + 1) // parts - count * at // parts


def read_sample_tiles(found: Catalogue, images: Sequence[Image], count: int, side: int, looks: int) -> list[SampleTile]:
    """Read the tiles with the widest range of values, as many in one image as in another, the widest of all first.

    Most of an image may be empty, and what is tried on glass says nothing of the specimen.

    Args:
        found: the survey.
        images: some of its images.
        count: of tiles; fewer where the images have no room for more, or cannot be read.
        side: of a tile, pixels.
        looks: places that are read to choose from, at most; at least ``count``.

    Raises:
        InputError: an image cannot be opened.
    """
    fitters = {"normalize": fitter(resolve(found.config.normalize, found.model)), "model": found.model.fitter()}
    used = {name: one for name, one in fitters.items() if one}
    places = [list(group) for _, group in groupby(spread(_affordable(images, count), looks, side), key=lambda place: place.image.name)]
    shares = [max(1, _share(count, at, len(places))) for at in range(len(places))]
    tiles = (tile for group, share in zip(places, shares, strict=True) for tile in _widest(group, share, used))
    return [tile for _, tile in nlargest(count, tiles, key=itemgetter(0))]


def _affordable(images: Sequence[Image], count: int) -> Sequence[Image]:
    """Those that are looked at: of what decodes whole, no more than a trial should wait for, but at least ``count``."""
    whole = max((image.header.whole_bytes for image in images), default=0)
    most = max(count, WHOLE // whole) if whole else len(images)
    return images if len(images) <= most else [images[at * len(images) // most] for at in range(most)]


def _widest(places: Sequence[Spot], count: int, fitters: Mapping[str, Fitter]) -> list[tuple[float, SampleTile]]:
    """Look at places of one image and keep the tiles of the widest ranges; the fit is that of all places, as these are no fair sample."""
    sums: dict[str, Summary] = {}

    def look() -> Iterator[tuple[float, NDArray[Any]]]:
        with build("readers", places[0].image.reader).open(places[0].image.path) as raster:
            for image, plane, box in places:
                try:
                    pixels_CYX = read_reflected(raster, box, plane)
                except BlockError:
                    continue  # the run meets it again and says where
                valid_YX = valid_pixels(pixels_CYX, image.header)
                if valid_YX is not None:
                    pixels_CYX = np.where(valid_YX, pixels_CYX, pixels_CYX.dtype.type(0))
                for name, one in fitters.items():
                    seen = one.observe(pixels_CYX, valid_YX, box, plane)
                    sums[name] = one.merge(sums[name], seen) if name in sums else seen
                yield _width(pixels_CYX, valid_YX), pixels_CYX[None]

    kept = nlargest(count, look(), key=itemgetter(0))
    fit = {name: fitters[name].fit(summary) for name, summary in sums.items()}
    return [(width, SampleTile(pixels_BCYX, fit)) for width, pixels_BCYX in kept]


def _width(pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None) -> float:
    """Range of the valid values of the channel where it is widest; below zero: there are none, or some are infinite.

    Example:
        >>> _width(np.array([[[1, 2, 9]], [[5, 5, 0]]]), np.array([[True, True, False]]))
        1.0
    """
    values_CN = pixels_CYX.reshape(len(pixels_CYX), -1) if valid_YX is None else pixels_CYX[:, valid_YX]
    if not values_CN.size or not np.isfinite(values_CN).all():
        return -1.0
    return float((values_CN.max(1).astype(np.float64) - values_CN.min(1)).max())


@dataclass(frozen=True)
class Comparison:
    """How far answers agree with the logits that were expected.

    Attributes:
        agreement: share of the pixels of one class in both.
        sure: pixels of each expected class (K,) that are sure of it: the two largest logits further apart than 0.1 of all logits'
            standard deviation.
        lost: those of them (K,) that have another class.
    """

    agreement: float
    sure: NDArray[np.int64]
    lost: NDArray[np.int64]

    @property
    def num_lost(self) -> int:
        """Pixels that were sure of their class and have another one."""
        return int(self.lost.sum())

    @property
    def is_telling(self) -> bool:
        """Whether there was something to tell apart: two classes that pixels are sure of."""
        return int(np.count_nonzero(self.sure)) > 1

    @classmethod
    def of(cls, answers: Sequence[Sequence[NDArray[Any]]], expected: Sequence[NDArray[Any]]) -> Comparison:
        """Compare answers with the expected logits (B, K, Y, X) of several tiles.

        Args:
            answers: all of each tile, logits (B, K, Y, X) or classes (B, Y, X); a pixel agrees where each of them has its class.
            expected: of each tile.

        Example:
            >>> expected = np.array([[[[0.0, 0.0]], [[1.0, 0.01]]]])
            >>> Comparison.of([[expected[:, ::-1]]], [expected])
            Comparison(agreement=0.0, sure=array([0, 1]), lost=array([0, 1]))
            >>> Comparison.of([[expected, np.array([[[1, 0]]])]], [expected])
            Comparison(agreement=0.5, sure=array([0, 1]), lost=array([0, 0]))
        """
        std = float(np.std(np.concatenate([one.ravel() for one in expected])))
        equal = pixels = 0
        sure = lost = np.zeros(expected[0].shape[1], np.int64)
        for given, logits_BKYX in zip(answers, expected, strict=True):
            classes_BYX = logits_BKYX.argmax(axis=1)
            is_equal = np.ones(classes_BYX.shape, np.bool_)
            for answer in given:
                is_equal &= classes_BYX == (answer.argmax(axis=1) if answer.ndim > classes_BYX.ndim else answer)
            ordered = np.sort(logits_BKYX, axis=1)
            is_sure = ordered[:, -1] - ordered[:, -2] > SURE * std
            equal, pixels = equal + int(np.count_nonzero(is_equal)), pixels + is_equal.size
            sure = sure + np.bincount(classes_BYX[is_sure], minlength=len(sure))
            lost = lost + np.bincount(classes_BYX[is_sure & ~is_equal], minlength=len(lost))
        return cls(equal / pixels, sure, lost)
