"""A network with its surroundings as one graph, from raw pixels to logits or class ids: recorded, and run for all pixels that come."""

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

__all__ = ["MAX_SIZED_GRAPHS", "Argmax", "Graph", "GraphPredictor", "Run", "prepare_network", "refuse_network", "trace"]

_SIDES = (64, 256)  # of the tiles that a graph of any size is recorded with, pixels; the first that the network takes
_TOLERANCE = 1e-4  # allowed difference of logits, as a share of the largest logit
MAX_SIZED_GRAPHS = 4  # graphs of one tile size that are kept: the tiles of a block have at most four sizes
_HUGE = 1e30  # pixel values from here on are refused: a runtime may hide the NaN that they cause behind the next ReLU

Run = Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]]
"""From pixels, mean and std to the graph's outputs: class ids in memory of their own, logits valid until the next call."""


class Graph(nn.Module):
    """Normalisation, network, and on request the argmax.

    Args:
        network: maps float32 (N, C, H, W) to logits (N, K, H, W); in evaluation mode.
        interleaved: whether pixels come as (N, H, W, C), else as (N, C, H, W).
        classes: whether to return class ids (N, H, W) and the sum of each tile's logits, which is finite only where all logits are.
    """

    def __init__(self, network: nn.Module, *, interleaved: bool, classes: bool) -> None:
        super().__init__()
        self.network, self.interleaved, self.classes = network, interleaved, classes

    def forward(self, pixels: Tensor, mean_BC11: Tensor, std_BC11: Tensor) -> Any:
        """Return logits (N, K, H, W), float32, K at least 2; or class ids and sums. Ties go to the lowest class."""
        pixels_BCYX = pixels.permute(0, 3, 1, 2) if self.interleaved else pixels
        logits_BKYX = self.network((pixels_BCYX.to(torch.float32) - mean_BC11) / std_BC11).to(torch.float32)
        if logits_BKYX.shape[1] == 1:
            logits_BKYX = torch.cat([torch.zeros_like(logits_BKYX), logits_BKYX], 1)
        return Argmax()(logits_BKYX) if self.classes else logits_BKYX


class Argmax(nn.Module):
    """The last step of a graph whose logits nobody needs."""

    def forward(self, logits_BKYX: Tensor) -> tuple[Tensor, Tensor]:
        """Return class ids (N, H, W), the lowest in ties, and the sum of each tile's logits."""
        dtype = torch.uint8 if logits_BKYX.shape[1] <= 256 else torch.int32
        return logits_BKYX.argmax(1).to(dtype), logits_BKYX.sum(dim=(1, 2, 3))


def prepare_network(network: nn.Module) -> nn.Module:
    """Put a network into evaluation mode, and fold its batch norms in place.

    Raises:
        BlockError: a weight is NaN or infinite; a runtime may hide that from the scores.
    """
    network = network.eval().float()
    fold_batch_norms(network)
    if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values() if tensor.is_floating_point()):
        raise BlockError("weights are NaN or infinite, and so would be the scores")
    return network


def trace(graph: Graph, shape: Sequence[int], backend: str) -> tuple[Any, bool]:
    """Record a graph with one tile, and compare the recording with the graph on another tile.

    Args:
        graph: to record.
        shape: of the pixels at hand.
        backend: name, for messages.

    Returns:
        A TorchScript module, and whether it takes any batch, height and width; else it takes ``shape`` alone.

    Raises:
        InputError: the recording computes something else.
    """
    batch, *rest = shape
    *sides, channels = rest if graph.interleaved else [*rest[1:], rest[0]]
    attempts = [((2, side, side), (1, side + 64, side + 128)) for side in _SIDES]
    cause = "its code depends on the values of the pixels"
    for recorded, other in [*attempts, ((batch, *sides), (batch, *sides))]:
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TorchScript is deprecated; sizes may be constants, which the comparison finds out
                first, second = _example(graph, (*recorded, channels), 128), _example(graph, (*other, channels), 0)
                traced: Any = torch.jit.trace(graph, first, check_trace=False)  # type: ignore[no-untyped-call]  # torch has no types here
                if _is_same(traced(*second), graph(*second)):
                    return traced, recorded != other
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, IndexError) as error:
            cause = f"{type(error).__name__} {error}"
    raise refuse_network(backend, cause)


def refuse_network(backend: str, cause: object) -> InputError:
    """Return the error to raise where a runtime cannot run a network."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    found = f"{backend}, which cannot run this network ({lines[-1][:200] if lines else 'no reason given'})"
    return InputError(Problem("compute.backend", found, "auto, torch"))


def _example(graph: Graph, sides: tuple[int, ...], least: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs of a graph; the values lie in ``least..least + 127``, as code may branch on bright and dark pixels."""
    batch, height, width, channels = sides
    shape = (batch, height, width, channels) if graph.interleaved else (batch, channels, height, width)
    pixels = torch.randint(least, least + 128, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(least))
    return pixels, torch.full((batch, channels, 1, 1), 128.0), torch.full((batch, channels, 1, 1), 64.0)


def _is_same(found: Any, expected: Any) -> bool:
    """Return whether logits agree, or the sums of logits where the graph returns class ids."""
    found_values, expected_values = (outputs[1] if isinstance(outputs, tuple) else outputs for outputs in (found, expected))
    difference = (found_values - expected_values).abs().max() if found_values.shape == expected_values.shape else None
    return difference is not None and bool(difference <= _TOLERANCE * expected_values.abs().max())


class GraphPredictor(Predictor):
    """A network and its graphs: one for each number of channels, type and layout of pixels, made when the first such tile comes.

    Where a graph takes one tile size only, the graphs of the sizes used last are kept.

    Args:
        network: see :class:`pipeline.backends.Backend`, as for ``normalize``.
        prepare: prepares a graph for pixels like these; returns the function, and whether it takes any size.
        raw: dtypes that a graph takes unchanged; all others become float32.
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
            if not self.graphs and not self.sized:
                self.network = prepare_network(self.network)
            while len(self.sized) >= MAX_SIZED_GRAPHS:  # freed before the next graph is made
                del self.sized[next(iter(self.sized))]
            run, takes_any = self.prepare(Graph(self.network, interleaved=interleaved, classes=classes), pixels)
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
