"""Where scores live and are turned into a mask: the same few steps in the processor's memory or on a device.

``work`` of the predict phase is written once, over arrays of a :class:`ArrayOps`; :class:`NumpyOps` is numpy's.
A place's arrays are only sliced, indexed and compared outside of it, which numpy and torch do alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics import pixel_counts
from pipeline.tiling import stitching as stitch

__all__ = ["ArrayOps", "NumpyOps"]

Fetched = Callable[[], dict[str, Any]]
"""Waits for what was asked for, and returns it by name: arrays of numpy's, numbers of Python's."""


class ArrayOps(ABC):
    """What the predict phase does with arrays."""

    @abstractmethod
    def put(self, array: NDArray[Any]) -> Any:
        """Bring an array here; whoever asks may go on computing meanwhile."""

    @abstractmethod
    def stack(self, views: Sequence[Any]) -> Any:
        """Make a batch of arrays of one shape; of one array, a view."""

    @abstractmethod
    def as_array(self, outputs: Any) -> Any:
        """See what a model returned as an array of this place."""

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], num_classes: int) -> Any:
        """Zeros, with room for class ids and no prediction, or for probabilities in steps of 1/255 where there are three axes."""

    @abstractmethod
    def argmax(self, scores_KYX: Any) -> tuple[Any, Any]:
        """Find the class of the largest score; ties go to the lowest class.

        Returns:
            Class ids (Y, X), and a number that is finite only where all scores are.

        Raises:
            BlockError: a score is not finite, where that is known at once.
        """

    @abstractmethod
    def axis_weights(self, kind: str, core: int, halo: int, index: int, count: int) -> Any:
        """As :func:`pipeline.tiling.stitching.axis_weights`."""

    @abstractmethod
    def weigh(self, scores_KYX: Any, weight_Y: Any, weight_X: Any) -> Any:
        """Return scores times both weights, float32, in memory of their own."""

    @abstractmethod
    def softmax_bytes(self, scores_KYX: Any) -> Any:
        """As :func:`pipeline.tiling.stitching.softmax_bytes`."""

    @abstractmethod
    def cross_entropy(self, scores_KYX: Any, truth_YX: Any) -> tuple[Any, Any]:
        """As :func:`pipeline.statistics.pixel_counts.sum_cross_entropy`; the sum and the number of pixels may be arrays of one element."""

    @abstractmethod
    def count_equal(self, one_YX: Any, other_YX: Any) -> Any:
        """Count the pixels of one class in both; the number may be an array of one element."""

    @abstractmethod
    def count(self, mask_YX: Any, truth_YX: Any | None, num_classes: int) -> dict[str, Any]:
        """Count pixels.

        Returns:
            ``predicted`` (K,), ``no_prediction`` and ``confusion`` (K, K), as :class:`pipeline.statistics.pixel_counts.Counts` has them.
        """

    @abstractmethod
    def fetch(self, values: Mapping[str, Any]) -> Fetched:
        """Ask for arrays and numbers of this place; whoever asks may go on computing meanwhile."""


class NumpyOps(ArrayOps):
    """Numpy, in the processor's memory."""

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        """It is here."""
        return array

    def stack(self, views: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """A single view is not copied."""
        return views[0][None] if len(views) == 1 else np.stack(views)

    def as_array(self, outputs: Any) -> NDArray[Any]:
        """Those of a GPU are copied."""
        return np.asarray(outputs.cpu() if hasattr(outputs, "cpu") else outputs)

    def zeros(self, shape: tuple[int, ...], num_classes: int) -> NDArray[Any]:
        """Eight bits up to 255 classes."""
        return np.zeros(shape, np.uint8 if num_classes <= 255 or len(shape) == 3 else np.uint16)

    def argmax(self, scores_KYX: NDArray[Any]) -> tuple[NDArray[Any], float]:
        """As :func:`pipeline.tiling.stitching.argmax_into`."""
        ids_YX = self.zeros(scores_KYX.shape[1:], len(scores_KYX))
        stitch.argmax_into(scores_KYX, ids_YX)
        return ids_YX, 0.0

    def axis_weights(self, kind: str, core: int, halo: int, index: int, count: int) -> NDArray[np.float32]:
        """Numpy's own."""
        return stitch.axis_weights(kind, core, halo, index, count)

    def weigh(self, scores_KYX: NDArray[Any], weight_Y: NDArray[np.float32], weight_X: NDArray[np.float32]) -> NDArray[np.float32]:
        """One multiplication a score."""
        weighted_KYX: NDArray[np.float32] = np.multiply(scores_KYX, weight_Y[:, None] * weight_X, dtype=np.float32)
        return weighted_KYX

    def softmax_bytes(self, scores_KYX: NDArray[Any]) -> NDArray[np.uint8]:
        """Band by band."""
        return stitch.softmax_bytes(scores_KYX)

    def cross_entropy(self, scores_KYX: NDArray[Any], truth_YX: NDArray[Any]) -> tuple[float, int]:
        """In float64."""
        return pixel_counts.sum_cross_entropy(scores_KYX, truth_YX)

    def count_equal(self, one_YX: NDArray[Any], other_YX: NDArray[Any]) -> int:
        """A plain number."""
        return int(np.count_nonzero(one_YX == other_YX))

    def count(self, mask_YX: NDArray[Any], truth_YX: NDArray[Any] | None, num_classes: int) -> dict[str, Any]:
        """By histograms of small integers."""
        counts = pixel_counts.count_pixels(mask_YX, truth_YX, num_classes)
        return {"predicted": counts.predicted, "no_prediction": counts.no_prediction, "confusion": counts.confusion}

    def fetch(self, values: Mapping[str, Any]) -> Fetched:
        """It is here."""
        return lambda: dict(values)
