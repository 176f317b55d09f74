"""The operations that turn scores into a mask and its counts, for numpy arrays or for tensors of a device.

The predict phase is written once, in terms of :class:`ArrayOps`. Everything else that it does with arrays is slicing, indexing and
comparing, which numpy and torch do alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pipeline.errors import BlockError
from pipeline.statistics import count_confidence, count_pixels, sum_cross_entropy
from pipeline.tiling import stitching as stitch

__all__ = ["ArrayOps", "Fetched", "NumpyOps"]

LARGEST_HALF = 65504.0  # the largest number of float16

Fetched = Callable[[], dict[str, Any]]
"""Waits for values that were fetched, and returns them by name: numpy arrays and Python numbers."""


class ArrayOps(ABC):
    """Operations on one kind of array: that of the predictor whose scores they are."""

    @abstractmethod
    def put(self, array: NDArray[Any]) -> Any:
        """Return a numpy array as one of this kind. Only the calling thread waits for the copy; computing goes on."""

    @abstractmethod
    def stack(self, views: Sequence[Any]) -> Any:
        """Return arrays of one shape as a batch; a single one is not copied."""

    @abstractmethod
    def as_array(self, outputs: Any) -> Any:
        """Return a model's outputs as an array of this kind; copied only where the model computes elsewhere."""

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return zeros of a numpy type; class ids of type uint16 may be wider until they are fetched."""

    @abstractmethod
    def argmax(self, scores_KYX: Any) -> tuple[Any, Any]:
        """Find the class of the largest score; ties go to the lowest class.

        Returns:
            Class ids (Y, X), and a number that is finite only if all scores are.

        Raises:
            BlockError: a score is not finite. Operations on a device do not wait to find out, and return the number instead.
        """

    @abstractmethod
    def axis_weights(self, kind: str, core: int, halo: int, index: int, count: int) -> Any:
        """Return the weights of one tile along one axis, as :func:`pipeline.tiling.stitching.axis_weights`."""

    @abstractmethod
    def weigh(self, scores_KYX: Any, weight_Y: Any, weight_X: Any) -> Any:
        """Return scores times both weights, float32, as a new array."""

    @abstractmethod
    def softmax_bytes(self, scores_KYX: Any) -> Any:
        """Return probabilities in steps of 1/255, as :func:`pipeline.tiling.stitching.softmax_bytes`."""

    @abstractmethod
    def winner_bytes(self, scores_KYX: Any) -> Any:
        """Return the largest probability of each pixel in steps of 1/255, as :func:`pipeline.tiling.stitching.winner_bytes`."""

    @abstractmethod
    def as_half(self, values: Any) -> tuple[Any, Any]:
        """Round values to float16; those beyond its range become its least or greatest number.

        Returns:
            The values, and a number that is finite only if all of them are.

        Raises:
            BlockError: a value is not finite; as in :meth:`argmax`, a device may report it later.
        """

    @abstractmethod
    def cross_entropy(self, scores_KYX: Any, truth_YX: Any) -> tuple[Any, Any]:
        """Return sum and number of pixels, as :func:`pipeline.statistics.pixel_counts.sum_cross_entropy`, or as arrays of one element."""

    @abstractmethod
    def confidence(self, scores_KYX: Any, classes_YX: Any, truth_YX: Any) -> Any:
        """Return :func:`pipeline.statistics.count_confidence` of the scores and their classes."""

    @abstractmethod
    def count_equal(self, first_YX: Any, second_YX: Any) -> Any:
        """Count the pixels whose class is the same in both; the number may be an array of one element."""

    @abstractmethod
    def count(self, mask_YX: Any, truth_YX: Any | None, num_classes: int) -> dict[str, Any]:
        """Count a mask's ``predicted`` (K,), ``no_prediction`` and ``confusion`` (K, K): see :class:`pipeline.statistics.Counts`."""

    @abstractmethod
    def fetch(self, values: Mapping[str, Any]) -> Fetched:
        """Begin to copy arrays and numbers of this kind to numpy and Python; the caller may go on computing."""


class NumpyOps(ArrayOps):
    """Operations on numpy arrays; nothing is copied that is in the processor's memory already."""

    @override
    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    @override
    def stack(self, views: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return views[0][None] if len(views) == 1 else np.stack(views)

    @override
    def as_array(self, outputs: Any) -> NDArray[Any]:
        return np.asarray(outputs.cpu() if hasattr(outputs, "cpu") else outputs)

    @override
    def zeros(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        return np.zeros(shape, dtype)

    @override
    def argmax(self, scores_KYX: NDArray[Any]) -> tuple[NDArray[Any], float]:
        ids_YX = np.zeros(scores_KYX.shape[1:], np.uint8 if len(scores_KYX) <= 255 else np.uint16)
        stitch.argmax_into(scores_KYX, ids_YX)
        return ids_YX, 0.0

    @override
    def axis_weights(self, kind: str, core: int, halo: int, index: int, count: int) -> NDArray[np.float32]:
        return stitch.axis_weights(kind, core, halo, index, count)

    @override
    def weigh(self, scores_KYX: NDArray[Any], weight_Y: NDArray[np.float32], weight_X: NDArray[np.float32]) -> NDArray[np.float32]:
        weighted_KYX: NDArray[np.float32] = np.multiply(scores_KYX, weight_Y[:, None] * weight_X, dtype=np.float32)
        return weighted_KYX

    @override
    def softmax_bytes(self, scores_KYX: NDArray[Any]) -> NDArray[np.uint8]:
        return stitch.softmax_bytes(scores_KYX)

    @override
    def winner_bytes(self, scores_KYX: NDArray[Any]) -> NDArray[np.uint8]:
        return stitch.winner_bytes(scores_KYX)

    @override
    def as_half(self, values: NDArray[Any]) -> tuple[NDArray[np.float16], float]:
        if not np.isfinite(values).all():
            raise BlockError("the model gave NaN or infinite values beside its scores")
        return np.clip(values, -LARGEST_HALF, LARGEST_HALF).astype(np.float16), 0.0

    @override
    def cross_entropy(self, scores_KYX: NDArray[Any], truth_YX: NDArray[Any]) -> tuple[float, int]:
        return sum_cross_entropy(scores_KYX, truth_YX)

    @override
    def confidence(self, scores_KYX: NDArray[Any], classes_YX: NDArray[Any], truth_YX: NDArray[Any]) -> NDArray[np.int64]:
        return count_confidence(scores_KYX, classes_YX, truth_YX)

    @override
    def count_equal(self, first_YX: NDArray[Any], second_YX: NDArray[Any]) -> int:
        return int(np.count_nonzero(first_YX == second_YX))

    @override
    def count(self, mask_YX: NDArray[Any], truth_YX: NDArray[Any] | None, num_classes: int) -> dict[str, Any]:
        counts = count_pixels(mask_YX, truth_YX, num_classes)
        return {"predicted": counts.predicted, "no_prediction": counts.no_prediction, "confusion": counts.confusion}

    @override
    def fetch(self, values: Mapping[str, Any]) -> Fetched:
        return lambda: dict(values)
