"""What a model answers on sample tiles, and how far its answers agree with the logits of eager float32."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Recipe
from pipeline.errors import BlockError
from pipeline.inputs import Catalogue
from pipeline.models import Predict
from pipeline.statistics import resolve_normalization
from pipeline.tuning.sample_tiles import SampleTile

__all__ = ["SURE_MARGIN", "Comparison", "predict_tiles"]

SURE_MARGIN = 0.1
"""A pixel is sure of its class where its two largest logits differ by more than this share of the logits' standard deviation."""


def predict_tiles(
    catalogue: Catalogue, recipe: Recipe, tiles: Sequence[SampleTile], num_rounds: int = 0
) -> tuple[list[list[NDArray[Any]]], float]:
    """Predict tiles with the catalogue's model, and time the first one.

    Args:
        catalogue: the run's config and model.
        recipe: backend, precision and threads to use.
        tiles: what the model is given.
        num_rounds: how often the first tile is predicted again for its time.

    Returns:
        The answers for each tile, and the fewest seconds that the logits of the first tile took (infinity without a round).
        Answers are the logits (1, K, Y, X), and the classes (1, Y, X) where the backend computes them by another graph.

    Raises:
        BlockError: a logit is not finite.
    """
    normalize = resolve_normalization(catalogue.config.normalize, catalogue.model)
    with catalogue.model.predictor(recipe, normalize if isinstance(normalize, Mapping) else None) as predict:
        calls: list[Predict] = [predict, predict.classes] if predict.has_own_classes else [predict]
        answers = [[np.array(call(pixels_BCYX, [fit])) for call in calls] for pixels_BCYX, fit in tiles]
        seconds = float("inf")
        for _ in range(num_rounds):
            start = time.perf_counter()
            predict(tiles[0].pixels_BCYX, [tiles[0].fit])
            seconds = min(seconds, time.perf_counter() - start)
    if not all(np.isfinite(logits).all() for logits, *_ in answers):
        raise BlockError("the model gave NaN or infinite scores")
    return answers, seconds


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
            >>> Comparison.of([[expected[:, ::-1]]], [expected])
            Comparison(agreement=0.0, sure_K=array([0, 1]), lost_K=array([0, 1]))
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
