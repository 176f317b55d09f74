"""Test-time augmentation: predict a tile in several orientations, turn the logits back, and average the probabilities.

After Wang et al., "Aleatoric uncertainty estimation with test-time augmentation" (2019, arXiv:1807.07356).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.models._predictor import Predictor

if TYPE_CHECKING:
    from pipeline.statistics import ImageFit

__all__ = ["TTA", "Orientations", "average_probs", "orientations"]

TTA = Literal["none", "flips", "d4"]
Turn = Callable[[Any], Any]

TINY = np.float32(1e-30)  # keeps the logarithm of a probability of 0 finite


def orientations(kind: TTA) -> list[tuple[Turn, Turn]]:
    """Return pairs of functions that turn an array (..., Y, X) and turn it back.

    ``flips``: unchanged, mirrored along either axis, and along both. ``d4``: also all of these turned by 90 degrees.

    Example:
        >>> picture = np.arange(6).reshape(2, 3)
        >>> [len({turn(picture).tobytes() for turn, _ in orientations(kind)}) for kind in ("none", "flips", "d4")]
        [1, 4, 8]
        >>> all((back(turn(picture)) == picture).all() for turn, back in orientations("d4"))
        True
    """
    flips: list[Turn] = [
        lambda x: x,
        lambda x: x[..., ::-1, :],
        lambda x: x[..., ::-1],
        lambda x: x[..., ::-1, ::-1],
    ]
    pairs = [(flip, flip) for flip in flips]
    if kind == "none":
        return pairs[:1]
    if kind == "flips":
        return pairs
    # Turn: flip, then exchange the axes. Back: exchange the axes, then flip.
    return pairs + [(_then(flip, _swap), _then(_swap, flip)) for flip in flips]


def _swap(x: Any) -> Any:
    """Exchange rows and columns."""
    return np.swapaxes(x, -1, -2)


def _then(first: Turn, second: Turn) -> Turn:
    return lambda x: second(first(x))


def average_probs(answers: Iterable[NDArray[Any]], weights: Sequence[float]) -> NDArray[np.float32]:
    """Average the softmax of several logits, and return its logarithm, which are logits again.

    Args:
        answers: logits (B, K, Y, X), computed one after the other.
        weights: one for each of them, adding up to 1.

    Example:
        >>> one, other = np.zeros((1, 2, 1, 1)), np.log([0.9, 0.1]).reshape(1, 2, 1, 1)
        >>> np.exp(average_probs([one, other], [0.5, 0.5])).astype(float).round(2).ravel().tolist()
        [0.7, 0.3]
    """
    total = np.zeros((), np.float32)
    for logits, weight in zip(answers, weights, strict=True):
        probs = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float32)
        probs *= weight / probs.sum(axis=1, keepdims=True)
        total = np.add(total, probs, out=probs)
    return np.log(np.maximum(total, TINY, out=total), out=total)


class Orientations(Predictor):
    """Averages the predictions of one predictor over orientations of the tile.

    Args:
        predict: the predictor; its notes become those of this one.
        kind: the orientations.
    """

    def __init__(self, predict: Predictor, kind: TTA) -> None:
        super().__init__(notes=predict.notes)
        self.predict, self.kind = predict, kind

    def __call__(self, pixels_BCYX: NDArray[Any], fits: Sequence[ImageFit]) -> NDArray[np.float32]:
        """Return logits (B, K, Y, X) of the averaged probabilities."""
        turns = list(orientations(self.kind))
        answers = (back(self.ops.as_array(self.predict(np.ascontiguousarray(turn(pixels_BCYX)), fits))) for turn, back in turns)
        return average_probs(answers, [1 / len(turns)] * len(turns))
