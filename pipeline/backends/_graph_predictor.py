"""A network and all that surrounds it as one graph, raw pixels in and classes out, for runtimes that take graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.backends._batch_norm_folding import fold_batch_norms
from pipeline.errors import BlockError, InputError, Problem
from pipeline.models import Predictor
from pipeline.statistics import mean_and_std

if TYPE_CHECKING:
    from pipeline.statistics import ImageFit

__all__ = ["Classes", "Graph", "GraphPredictor", "prepared", "refusal", "trace"]

Run = Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]]
"""Pixels, mean and std in; the graph's outputs out: classes in memory of their own, logits until the next call."""

SIZES = 4  # graphs of one size each that are kept: a block has tiles of as many, at most
_HUGE = 1e30  # a pixel value from here on is refused: runtimes hide the NaN that it turns into behind the next ReLU
_SIDES = (64, 256)  # of the tiles that a graph of any size is recorded with, pixels; the first that the network takes
_TOLERANCE = 1e-4  # of the largest logit


class Graph(nn.Module):
    """Normalisation, network, and what turns logits into classes.

    Args:
        network: float32 (N, C, H, W) in, logits (N, K, H, W) out, in evaluation mode.
        interleaved: pixels come as (N, H, W, C), else as (N, C, H, W).
        classes: return classes (N, H, W) and the sum of each tile's logits, which is finite unless one of them is not.
    """

    def __init__(self, network: nn.Module, *, interleaved: bool, classes: bool) -> None:
        super().__init__()
        self.network, self.interleaved, self.classes = network, interleaved, classes

    def forward(self, pixels: Tensor, mean_BC11: Tensor, std_BC11: Tensor) -> Any:
        """Return logits (N, K, H, W), float32, K at least 2; or classes and sums. Ties go to the lowest class."""
        pixels_BCYX = pixels.permute(0, 3, 1, 2) if self.interleaved else pixels
        logits_BKYX = self.network((pixels_BCYX.to(torch.float32) - mean_BC11) / std_BC11).to(torch.float32)
        if logits_BKYX.shape[1] == 1:
            logits_BKYX = torch.cat([torch.zeros_like(logits_BKYX), logits_BKYX], 1)
        return Classes()(logits_BKYX) if self.classes else logits_BKYX


class Classes(nn.Module):
    """What a graph makes of logits where nobody needs them."""

    def forward(self, logits_BKYX: Tensor) -> tuple[Tensor, Tensor]:
        """Return classes (N, H, W), the lowest in ties, and the sum of each tile's logits."""
        small = torch.uint8 if logits_BKYX.shape[1] <= 256 else torch.int32
        return logits_BKYX.argmax(1).to(small), logits_BKYX.sum(dim=(1, 2, 3))


class GraphPredictor(Predictor):
    """A network and the graphs that have been made of it: one for each number of channels, type and layout of pixels.

    Where a graph takes one size of tiles only, there is one for each size that was used last.

    Args:
        network: is taken over and changed.
        normalize: see :class:`pipeline.backends.Backend`.
        prepare: makes a graph ready to run on pixels like these; returns the function, and whether it takes any size.
        raw: types of pixels that a graph takes as they are; all others become float32.
    """

    has_own_classes = True

    def __init__(
        self,
        network: nn.Module,
        normalize: Mapping[str, Any] | None,
        prepare: Callable[[Graph, NDArray[Any]], tuple[Run, bool]],
        raw: Sequence[str],
    ) -> None:
        super().__init__()
        self.network, self.normalize, self.prepare, self.raw = network, normalize, prepare, raw
        self.graphs: dict[tuple[Any, ...], Run] = {}
        self.sized: dict[tuple[Any, ...], Run] = {}  # used last comes last

    def __call__(self, pixels_BCYX: NDArray[Any], fits: Sequence[ImageFit]) -> NDArray[np.float32]:
        """Return logits (B, K, Y, X)."""
        logits_BKYX: NDArray[np.float32] = self._run(pixels_BCYX, fits, classes=False)[0]
        return logits_BKYX

    def classes(self, pixels_BCYX: NDArray[Any], fits: Sequence[ImageFit]) -> NDArray[Any]:
        """Return classes (B, Y, X), those of the largest logits, the lowest in ties; logits where one of them is not finite."""
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
        """The graph for such pixels, made where there is none."""
        key = (classes, interleaved, channels, pixels.dtype.name)
        if key in self.graphs:
            return self.graphs[key]
        sized = (*key, pixels.shape)
        run = self.sized.pop(sized, None)
        if run is None:
            if not self.graphs and not self.sized:
                self.network = prepared(self.network)
            while len(self.sized) >= SIZES:  # let go of before the next one is made
                del self.sized[next(iter(self.sized))]
            run, takes_any = self.prepare(Graph(self.network, interleaved=interleaved, classes=classes), pixels)
            if takes_any:
                self.graphs[key] = run
                return run
        self.sized[sized] = run
        return run

    def _as_taken(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Contiguous pixels of a type that the graph takes.

        Raises:
            BlockError: one is infinite, or all but.
        """
        native = pixels.dtype.newbyteorder("=")
        dtype = np.dtype("uint8") if native.kind == "b" else native if native.name in self.raw else np.dtype("float32")
        pixels = np.ascontiguousarray(pixels, dtype)
        if native.kind == "f" and not np.abs(pixels).max() < _HUGE:
            raise BlockError("pixels are infinite, and so would be the scores")
        return pixels


def prepared(network: nn.Module) -> nn.Module:
    """Put a network into evaluation mode and fold its batch norms, in place.

    Raises:
        BlockError: a weight is NaN or infinite, which a runtime might hide.
    """
    network = network.eval().float()
    fold_batch_norms(network)
    if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values() if tensor.is_floating_point()):
        raise BlockError("weights are NaN or infinite, and so would be the scores")
    return network


def trace(graph: Graph, shape: Sequence[int], backend: str) -> tuple[Any, bool]:
    """Record what a graph does to one tile, and prove it on another one.

    Args:
        graph: what is recorded.
        shape: of the pixels at hand.
        backend: for messages.

    Returns:
        A TorchScript module, and whether it takes any batch, height and width; else it takes ``shape`` alone.

    Raises:
        InputError: what was recorded computes something else.
    """
    batch, *rest = shape
    *sides, channels = rest if graph.interleaved else [*rest[1:], rest[0]]
    attempts = [((2, side, side), (1, side + 64, side + 128)) for side in _SIDES]
    cause = "its code depends on the values of the pixels"
    for recorded, other in [*attempts, ((batch, *sides), (batch, *sides))]:
        try:
            with torch.no_grad(), warnings.catch_warnings():
                # That TorchScript is old, and that sizes may have been frozen, which is what is looked at here.
                warnings.simplefilter("ignore")
                first, second = _example(graph, (*recorded, channels), 128), _example(graph, (*other, channels), 0)
                traced: Any = torch.jit.trace(graph, first, check_trace=False)  # type: ignore[no-untyped-call]  # torch has no types here
                if _is_same(traced(*second), graph(*second)):
                    return traced, recorded != other
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, IndexError) as error:
            cause = f"{type(error).__name__} {error}"
    raise refusal(backend, cause)


def refusal(backend: str, cause: object) -> InputError:
    """What to raise where a runtime cannot run a network."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    found = f"{backend}, which cannot run this network ({lines[-1][:200] if lines else 'no reason given'})"
    return InputError(Problem("compute.backend", found, "auto, torch"))


def _example(graph: Graph, sides: tuple[int, ...], least: int) -> tuple[Tensor, Tensor, Tensor]:
    """A bright tile or a dark one: code that looks at pixels would take another branch."""
    batch, height, width, channels = sides
    shape = (batch, height, width, channels) if graph.interleaved else (batch, channels, height, width)
    pixels = torch.randint(least, least + 128, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(least))
    return pixels, torch.full((batch, channels, 1, 1), 128.0), torch.full((batch, channels, 1, 1), 64.0)


def _is_same(found: Any, expected: Any) -> bool:
    """Whether the logits agree; of classes, their sums tell."""
    one, other = (outputs[1] if isinstance(outputs, tuple) else outputs for outputs in (found, expected))
    return one.shape == other.shape and bool((one - other).abs().max() <= _TOLERANCE * other.abs().max())
