"""Tiles of the user's own images, read before the run begins to try backends and precisions on them, and a model's answers on them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Recipe
from pipeline.engine import read_zero_filled
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.inputs import Catalogue, Image, open_image
from pipeline.models import PredictFunction
from pipeline.statistics import Fitter, Fitters, Summary, normalization_fitter, resolve_normalization

__all__ = ["SURE_MARGIN", "Comparison", "SampleTile", "TileLocation", "predict_tiles", "read_sample_tiles", "spread_locations"]

MOST_DECODED_BYTES = 2**28  # of files that decode only as a whole, which takes a second or two
SURE_MARGIN = 0.1
"""A pixel is sure of its class where its two largest logits differ by more than this share of the logits' standard deviation."""


class TileLocation(NamedTuple):
    """Where a tile lies: its box is in pixels of the working grid, and reflected where it leaves the image."""

    image: Image
    plane: int
    box: Box


class SampleTile(NamedTuple):
    """What a model is given: raw ``pixels_BCYX``, 0 where there is no data, and the fit of the image that they come from.

    ``valid_YX`` says where there is data; None: everywhere.
    """

    pixels_BCYX: NDArray[Any]
    fit: Mapping[str, Any]
    valid_YX: NDArray[np.bool_] | None = None

    def where_valid(self, answer: NDArray[Any]) -> NDArray[Any]:
        """Return an answer (..., Y, X) at the pixels that hold data, (..., 1, N); the answer itself where all do, or none.

        An answer that is smaller than the tile belongs to its middle.
        """
        if self.valid_YX is None:
            return answer
        margin = (len(self.valid_YX) - answer.shape[-2]) // 2
        valid_YX = self.valid_YX[margin : margin + answer.shape[-2], margin : margin + answer.shape[-1]]
        return answer[..., valid_YX][..., None, :] if valid_YX.any() else answer


def spread_locations(images: Sequence[Image], count: int, side: int) -> list[TileLocation]:
    """Choose so many locations that do not overlap, equally many in each image; the same arguments give the same locations.

    There are fewer where the images have no room for more. An image smaller than a tile's side, in pixels, has one location.
    """
    chosen = _spread(images, count)
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


def _spread(images: Sequence[Image], most: int) -> Sequence[Image]:
    """At most so many of the images, evenly spread over the list."""
    return images if len(images) <= most else [images[at * len(images) // most] for at in range(most)]


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
        catalogue: of the run.
        images: some of its images.
        count: of tiles; fewer where the images have no room for more, hold no data there, or cannot be read.
        side: of a tile, pixels.
        num_locations: that are read to choose from, at most; at least ``count``.

    Raises:
        InputError: an image cannot be opened.
    """
    normalization = resolve_normalization(catalogue.config.normalize, catalogue.model)
    asked: dict[str, Fitter | None] = {"normalize": normalization_fitter(normalization), "model": catalogue.model.fitter()}
    fitters = Fitters({name: fitter for name, fitter in asked.items() if fitter})
    whole_bytes = max((image.header.whole_bytes for image in images), default=0)
    affordable = _spread(images, max(count, MOST_DECODED_BYTES // whole_bytes)) if whole_bytes else images
    locations = spread_locations(affordable, num_locations, side)
    groups = [list(group) for _, group in groupby(locations, key=lambda location: location.image.name)]
    shares = [max(1, _share(count, at, len(groups))) for at in range(len(groups))]
    tiles = (tile for group, share in zip(groups, shares, strict=True) for tile in _widest(group, share, fitters))
    return [tile for _, tile in nlargest(count, tiles, key=itemgetter(0))]


def _widest(locations: Sequence[TileLocation], count: int, fitters: Fitters) -> list[tuple[float, SampleTile]]:
    """Read locations of one image and keep the tiles of the widest ranges, with their ranges.

    The fit is that of all locations: the tiles that are kept are no fair sample of the image.
    """
    total: Summary | None = None

    def read_all() -> Iterator[tuple[float, NDArray[Any], NDArray[np.bool_] | None]]:
        nonlocal total
        with open_image(locations[0].image) as raster:
            for _, plane, box in locations:
                try:
                    grown_CYX, known_YX = read_zero_filled(raster, box.grow(fitters.halo), plane)
                except BlockError:
                    continue  # the run will meet the same failure and report where it is
                summary = fitters.observe(grown_CYX, known_YX, box, plane)
                rows, cols = box.relative_to(box.grow(fitters.halo)).slices
                pixels_CYX, valid_YX = grown_CYX[:, rows, cols], None if known_YX is None else known_YX[rows, cols]
                total = summary if total is None else fitters.merge(total, summary)
                if valid_YX is None or valid_YX.any():
                    yield _width(pixels_CYX, valid_YX), pixels_CYX[None], valid_YX

    kept = nlargest(count, read_all(), key=itemgetter(0))
    fit = {} if total is None else fitters.conclude(total)
    return [(width, SampleTile(pixels_BCYX, fit, valid_YX)) for width, pixels_BCYX, valid_YX in kept]


def _width(pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None) -> float:
    """Range of the valid values, of which there is one at least, in the channel where it is widest.

    Example:
        >>> _width(np.array([[[1, 2, 9]], [[5, 5, 0]]]), np.array([[True, True, False]]))
        1.0
    """
    values_CN = pixels_CYX.reshape(len(pixels_CYX), -1) if valid_YX is None else pixels_CYX[:, valid_YX]
    return float((values_CN.max(1).astype(np.float64) - values_CN.min(1)).max())


def predict_tiles(
    catalogue: Catalogue, recipe: Recipe, tiles: Sequence[SampleTile], num_rounds: int = 0
) -> tuple[list[list[NDArray[Any]]], float]:
    """Predict tiles with the catalogue's model, and time the first one so many times.

    Returns:
        The answers for each tile, where there is data (:meth:`SampleTile.where_valid`), and the fewest seconds that the logits of
        the first tile took (infinity without a round). Answers are the logits (1, K, Y, X), and the classes (1, Y, X) where the
        backend computes them by another graph.

    Raises:
        BlockError: a logit is not finite.
    """
    normalize = resolve_normalization(catalogue.config.normalize, catalogue.model)
    with catalogue.model.predictor(recipe, normalize if isinstance(normalize, Mapping) else None) as predict:
        calls: list[PredictFunction] = [predict, predict.classes] if predict.has_own_classes else [predict]
        answers = [[np.array(call(tile.pixels_BCYX, [tile.fit])) for call in calls] for tile in tiles]
        seconds = float("inf")
        for _ in range(num_rounds):
            start = time.perf_counter()
            predict(tiles[0].pixels_BCYX, [tiles[0].fit])
            seconds = min(seconds, time.perf_counter() - start)
    if not all(np.isfinite(logits).all() for logits, *_ in answers):
        raise BlockError("the model gave NaN or infinite scores")
    return [[tile.where_valid(answer) for answer in given] for tile, given in zip(tiles, answers, strict=True)], seconds


@dataclass(frozen=True)
class Comparison:
    """How far answers agree with the expected logits.

    Attributes:
        agreement: share of the pixels that have the expected class in every answer.
        sure_K: pixels of each expected class that are sure of it (see :data:`SURE_MARGIN`), int64 (K,).
        lost_K: those of them that have another class in an answer, int64 (K,).
    """

    agreement: float
    sure_K: NDArray[np.int64]
    lost_K: NDArray[np.int64]

    @property
    def num_lost(self) -> int:
        """Pixels that were sure of their class and have another one."""
        return int(self.lost_K.sum())

    @property
    def is_telling(self) -> bool:
        """Whether the tiles can show a difference: pixels are sure of at least two classes."""
        return int(np.count_nonzero(self.sure_K)) > 1

    @classmethod
    def of(cls, answers: Sequence[Sequence[NDArray[Any]]], expected: Sequence[NDArray[Any]]) -> Comparison:
        """Compare answers with the expected logits (B, K, Y, X) of several tiles.

        Args:
            answers: for each tile: logits (B, K, Y, X) or classes (B, Y, X), one or several. A pixel agrees where all have its class.
            expected: for each tile.

        Example:
            >>> expected = np.array([[[[0.0, 0.0]], [[1.0, 0.01]]]])
            >>> Comparison.of([[expected, np.array([[[1, 0]]])]], [expected])
            Comparison(agreement=0.5, sure_K=array([0, 1]), lost_K=array([0, 0]))
        """
        std = float(np.std(np.concatenate([logits_BKYX.ravel() for logits_BKYX in expected])))
        equal = pixels = 0
        sure_K = lost_K = np.zeros(expected[0].shape[1], np.int64)
        for given, logits_BKYX in zip(answers, expected, strict=True):
            classes_BYX = logits_BKYX.argmax(axis=1)
            is_equal_BYX = np.ones(classes_BYX.shape, np.bool_)
            for answer in given:
                is_equal_BYX &= classes_BYX == (answer.argmax(axis=1) if answer.ndim > classes_BYX.ndim else answer)
            ordered_BKYX = np.sort(logits_BKYX, axis=1)
            is_sure_BYX = ordered_BKYX[:, -1] - ordered_BKYX[:, -2] > SURE_MARGIN * std
            equal, pixels = equal + int(np.count_nonzero(is_equal_BYX)), pixels + is_equal_BYX.size
            sure_K = sure_K + np.bincount(classes_BYX[is_sure_BYX], minlength=len(sure_K))
            lost_K = lost_K + np.bincount(classes_BYX[is_sure_BYX & ~is_equal_BYX], minlength=len(lost_K))
        return cls(equal / pixels, sure_K, lost_K)
