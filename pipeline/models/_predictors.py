"""What an opened model is, and test-time augmentation: averaged predictions of a tile in several orientations.

After Wang et al., "Aleatoric uncertainty estimation with test-time augmentation" (2019, arXiv:1807.07356).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.tiling import ArrayOps, NumpyOps

if TYPE_CHECKING:
    from pipeline.statistics import ImageFit

__all__ = ["TTA", "PredictFunction", "Predictor", "as_predictor", "augmented", "average_probs", "orientations"]

TTA = Literal["none", "flips", "d4"]
Turn = Callable[[Any], Any]

_TINY = np.float32(1e-30)  # keeps the logarithm of a probability of 0 finite

PredictFunction = Callable[[Any, Sequence["ImageFit"]], Any]
"""``predict(pixels_BCYX, fits)``: a plain function, or a :class:`Predictor`.

Args:
    pixels_BCYX: raw values as stored (no normalisation), numpy; B tiles of one size, each a multiple of ``stride``.
    fits: B mappings, what the fit phase found for each tile's image.

Returns:
    Logits (B, K, Y, X), float, numpy or torch, and after them the channels of the maps that were asked for;
    or class ids (B, Y, X), unsigned integers, where the model decides itself. Y and X may be smaller than
    the input by the same margin on opposite sides (valid padding). The next call may overwrite the logits.
"""


class Predictor(ABC):
    """An opened model: a :data:`PredictFunction` that can also return class ids alone, and says where its arrays live.

    Attributes:
        ops: operations on the arrays that the predictor takes and returns; numpy's unless it computes on a device.
        notes: what differs from the recipe, such as a halved batch. Who reads them empties the list.
        has_own_classes: whether :meth:`classes` computes otherwise than :meth:`__call__`.
    """

    has_own_classes: bool = False

    def __init__(self, ops: ArrayOps | None = None, notes: list[str] | None = None) -> None:
        self.ops: ArrayOps = NumpyOps() if ops is None else ops
        self.notes: list[str] = [] if notes is None else notes

    @abstractmethod
    def __call__(self, pixels_BCYX: Any, fits: Sequence[ImageFit]) -> Any:
        """Return logits or class ids; see :data:`PredictFunction`."""

    def classes(self, pixels_BCYX: Any, fits: Sequence[ImageFit]) -> Any:
        """Return class ids (B, Y, X), exactly those of the largest logits; or logits, where ids save nothing or a logit is not finite.

        A predictor that gives maps is not asked for class ids.

        Raises:
            BlockError: a logit is not finite.
        """
        return self(pixels_BCYX, fits)


class _Function(Predictor):
    def __init__(self, function: PredictFunction) -> None:
        super().__init__()
        self.function = function

    def __call__(self, pixels_BCYX: Any, fits: Sequence[ImageFit]) -> Any:
        return self.function(pixels_BCYX, fits)


def as_predictor(predict: PredictFunction) -> Predictor:
    """Return a predictor unchanged, and wrap a plain function, which a plug-in may yield instead."""
    return predict if isinstance(predict, Predictor) else _Function(predict)


def augmented(predict: Predictor, kind: TTA, num_classes: int) -> Predictor:
    """Return a predictor that averages over the orientations of the tile, and shares the notes of the given one."""
    return predict if kind == "none" else _Augmented(predict, kind, num_classes)


def orientations(kind: TTA) -> list[tuple[Turn, Turn]]:
    """Return pairs of functions that turn an array (..., Y, X) and turn it back.

    ``flips``: unchanged, mirrored along either axis, and along both. ``d4``: also all of these turned by 90 degrees.
    """
    flips: list[Turn] = [lambda x: x, lambda x: x[..., ::-1, :], lambda x: x[..., ::-1], lambda x: x[..., ::-1, ::-1]]
    pairs = [(flip, flip) for flip in flips]
    if kind == "none":
        return pairs[:1]
    if kind == "flips":
        return pairs
    # Turn: flip, then exchange the axes. Back: exchange the axes, then flip.
    return pairs + [(_then(flip, _swap), _then(_swap, flip)) for flip in flips]


def _swap(x: Any) -> Any:
    return np.swapaxes(x, -1, -2)


def _then(first: Turn, second: Turn) -> Turn:
    return lambda x: second(first(x))


def average_probs(answers: Iterable[NDArray[Any]], weights: Sequence[float], num_classes: int) -> NDArray[np.float32]:
    """Average predictions (B, K + E, Y, X) by weights that add up to 1.

    The K logits become the logarithm of the average softmax, which is logits again; the maps after them are averaged as they are.
    """
    total: NDArray[np.float32] = np.zeros((), np.float32)
    maps: NDArray[np.float32] = np.zeros((), np.float32)
    for answer, weight in zip(answers, weights, strict=True):
        logits = answer[:, :num_classes]
        probs = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float32)
        probs *= weight / probs.sum(axis=1, keepdims=True)
        total = np.add(total, probs, out=probs)
        maps = np.add(maps, np.multiply(answer[:, num_classes:], weight, dtype=np.float32))
    scores = np.log(np.maximum(total, _TINY, out=total), out=total)
    return np.concatenate([scores, maps], axis=1) if maps.size else scores


class _Augmented(Predictor):
    """Averages the predictions of one predictor over orientations of the tile."""

    def __init__(self, predict: Predictor, kind: TTA, num_classes: int) -> None:
        super().__init__(notes=predict.notes)
        self.predict, self.kind, self.num_classes = predict, kind, num_classes

    def __call__(self, pixels_BCYX: NDArray[Any], fits: Sequence[ImageFit]) -> NDArray[np.float32]:
        turns = orientations(self.kind)
        answers = (back(self.ops.as_array(self.predict(np.ascontiguousarray(turn(pixels_BCYX)), fits))) for turn, back in turns)
        return average_probs(answers, [1 / len(turns)] * len(turns), self.num_classes)
