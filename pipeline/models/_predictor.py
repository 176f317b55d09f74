"""What an opened model is: a predictor of scores or class ids for batches of tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.tiling import ArrayOps, NumpyOps

if TYPE_CHECKING:
    from pipeline.statistics import ImageFit

__all__ = ["Predict", "Predictor", "as_predictor"]

Predict = Callable[[Any, Sequence["ImageFit"]], Any]
"""``predict(pixels_BCYX, fits)``: a plain function, or a :class:`Predictor`.

Args:
    pixels_BCYX: raw values as stored (no normalisation), numpy; B tiles of one size, each a multiple of ``stride``.
    fits: B mappings, what the fit phase found for each tile's image.

Returns:
    Logits (B, K, Y, X), float, numpy or torch; or class ids (B, Y, X), unsigned integers, where the
    model decides itself. Y and X may be smaller than the input by the same margin on opposite
    sides (valid padding). The next call may overwrite the logits.
"""


class Predictor(ABC):
    """An opened model: a :data:`Predict` that can also return class ids alone, and says where its arrays live.

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
        """Return logits or class ids; see :data:`Predict`."""

    def classes(self, pixels_BCYX: Any, fits: Sequence[ImageFit]) -> Any:
        """Return class ids (B, Y, X), exactly those of the largest logits; or logits, where ids save nothing or a logit is not finite.

        Raises:
            BlockError: a logit is not finite.
        """
        return self(pixels_BCYX, fits)


class _Function(Predictor):
    """A plain function as a predictor."""

    def __init__(self, function: Predict) -> None:
        super().__init__()
        self.function = function

    def __call__(self, pixels_BCYX: Any, fits: Sequence[ImageFit]) -> Any:
        return self.function(pixels_BCYX, fits)


def as_predictor(predict: Predict) -> Predictor:
    """Return a predictor unchanged, and wrap a plain function, which a plug-in may yield instead.

    Example:
        >>> predictor = as_predictor(lambda pixels_BCYX, fits: pixels_BCYX[:, 0] > 128)
        >>> as_predictor(predictor) is predictor, predictor.notes, predictor.has_own_classes
        (True, [], False)
    """
    return predict if isinstance(predict, Predictor) else _Function(predict)
