"""Running graphs from raw pixels to logits or class ids, one for each kind of tile that comes; torch is needed only to make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError, InputError, Problem
from pipeline.models import Predictor
from pipeline.statistics import mean_and_std

if TYPE_CHECKING:
    from pipeline.statistics import ImageFit

__all__ = ["MAX_SIZED_GRAPHS", "GraphKind", "GraphPredictor", "Run", "refuse_network"]

MAX_SIZED_GRAPHS = 4  # graphs of one tile size that are kept: the tiles of a block have at most four sizes
_HUGE = 1e30  # pixel values from here on are refused: a runtime may hide the NaN that they cause behind the next ReLU

Run = Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]]
"""From pixels, mean and std to the graph's outputs: class ids in memory of their own, logits valid until the next call."""


@dataclass(frozen=True)
class GraphKind:
    """What a graph takes and returns.

    Attributes:
        interleaved: whether pixels come as (N, H, W, C), else as (N, C, H, W).
        classes: whether it returns class ids (N, H, W) and the sum of each tile's logits, which is finite only where all logits are;
            else logits (N, K, H, W).
    """

    interleaved: bool
    classes: bool

    def channels(self, shape: Sequence[int]) -> int:
        """Return the number of channels of pixels of this shape."""
        return shape[3 if self.interleaved else 1]


def refuse_network(backend: str, cause: object) -> InputError:
    """Return the error to raise where a runtime cannot run a network."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    found = f"{backend}, which cannot run this network ({lines[-1][:200] if lines else 'no reason given'})"
    return InputError(Problem("compute.backend", found, "auto, torch"))


class GraphPredictor(Predictor):
    """A network and its graphs: one for each number of channels, type and layout of pixels, made when the first such tile comes.

    Where a graph takes one tile size only, the graphs of the sizes used last are kept.

    Args:
        normalize: see :class:`pipeline.backends.Backend`.
        prepare: prepares a graph for pixels like these; returns the function, and whether it takes any size.
        raw: dtypes that a graph takes unchanged; all others become float32.
    """

    has_own_classes = True

    def __init__(
        self,
        normalize: Mapping[str, Any] | None,
        prepare: Callable[[GraphKind, NDArray[Any]], tuple[Run, bool]],
        raw: Sequence[str],
    ) -> None:
        super().__init__()
        self.normalize, self.prepare, self.raw = normalize, prepare, raw
        self.graphs: dict[tuple[Any, ...], Run] = {}
        self.sized: dict[tuple[Any, ...], Run] = {}  # in order of use, the latest last

    def __call__(self, pixels_BCYX: NDArray[Any], fits: Sequence[ImageFit]) -> NDArray[np.float32]:
        """Return logits (B, K, Y, X)."""
        logits_BKYX: NDArray[np.float32] = self._run(pixels_BCYX, fits, classes=False)[0]
        return logits_BKYX

    def classes(self, pixels_BCYX: NDArray[Any], fits: Sequence[ImageFit]) -> NDArray[Any]:
        """Return class ids (B, Y, X) of the largest logits, the lowest in ties; or logits, where one of them is not finite."""
        classes_BYX, sums_B = self._run(pixels_BCYX, fits, classes=True)
        return classes_BYX if np.isfinite(sums_B).all() else self(pixels_BCYX, fits)

    def _run(self, pixels_BCYX: NDArray[Any], fits: Sequence[ImageFit], *, classes: bool) -> list[NDArray[Any]]:
        batch, channels = pixels_BCYX.shape[:2]
        interleaved = channels > 1 and pixels_BCYX.strides[1] < pixels_BCYX.strides[3]
        pixels = self._as_taken(np.moveaxis(pixels_BCYX, 1, -1) if interleaved else pixels_BCYX)
        numbers = mean_and_std(self.normalize, fits, channels)
        mean_BC, std_BC = numbers or (np.zeros((batch, channels), np.float32), np.ones((batch, channels), np.float32))
        run = self._graph(pixels, channels, interleaved=interleaved, classes=classes)
        return run([pixels, mean_BC[:, :, None, None], std_BC[:, :, None, None]])

    def _graph(self, pixels: NDArray[Any], channels: int, *, interleaved: bool, classes: bool) -> Run:
        key = (classes, interleaved, channels, pixels.dtype.name)
        if key in self.graphs:
            return self.graphs[key]
        sized = (*key, pixels.shape)
        run = self.sized.pop(sized, None)
        if run is None:
            while len(self.sized) >= MAX_SIZED_GRAPHS:  # freed before the next graph is made
                del self.sized[next(iter(self.sized))]
            run, takes_any = self.prepare(GraphKind(interleaved, classes), pixels)
            if takes_any:
                self.graphs[key] = run
                return run
        self.sized[sized] = run
        return run

    def _as_taken(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return contiguous pixels of a dtype that the graph takes.

        Raises:
            BlockError: a pixel is infinite or larger than any real value.
        """
        native = pixels.dtype.newbyteorder("=")
        dtype = np.dtype("uint8") if native.kind == "b" else native if native.name in self.raw else np.dtype("float32")
        pixels = np.ascontiguousarray(pixels, dtype)
        if native.kind == "f" and not np.abs(pixels).max() < _HUGE:
            raise BlockError("pixels are infinite, and so would be the scores")
        return pixels
