"""Recording a network with its surroundings as one TorchScript graph, from raw pixels to logits or class ids.

The graph of any size must compute what the network does at another size; else it is recorded for one size.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backends._batch_norm_folding import fold_batch_norms
from pipeline.backends._graph import GraphKind, refuse_network
from pipeline.errors import BlockError

__all__ = ["Argmax", "prepare_network", "trace"]

_SIDES = (64, 256)  # of the tiles that a graph of any size is recorded with, pixels; the first that the network takes
_TOLERANCE = 1e-4  # allowed difference of logits, as a share of the largest logit


class Graph(nn.Module):
    """Normalisation, network, and on request the argmax.

    Args:
        network: maps float32 (N, C, H, W) to logits (N, K, H, W); in evaluation mode.
        kind: layout of the pixels, and what is returned.
    """

    def __init__(self, network: nn.Module, kind: GraphKind) -> None:
        super().__init__()
        self.network, self.kind = network, kind

    def forward(self, pixels: Tensor, mean_BC11: Tensor, std_BC11: Tensor) -> Any:
        """Return logits (N, K, H, W), float32, K at least 2; or class ids and sums. Ties go to the lowest class."""
        pixels_BCYX = pixels.permute(0, 3, 1, 2) if self.kind.interleaved else pixels
        logits_BKYX = self.network((pixels_BCYX.to(torch.float32) - mean_BC11) / std_BC11).to(torch.float32)
        if logits_BKYX.shape[1] == 1:
            logits_BKYX = torch.cat([torch.zeros_like(logits_BKYX), logits_BKYX], 1)
        return Argmax()(logits_BKYX) if self.kind.classes else logits_BKYX


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


def trace(network: nn.Module, kind: GraphKind, shape: Sequence[int], backend: str) -> tuple[Any, bool]:
    """Record the graph of a network with one tile, and compare the recording with the network on another tile.

    Args:
        network: as :func:`prepare_network` returns it.
        kind: of the graph.
        shape: of the pixels at hand.
        backend: name, for messages.

    Returns:
        A TorchScript module, and whether it takes any batch, height and width; else it takes ``shape`` alone.

    Raises:
        InputError: the recording computes something else.
    """
    graph = Graph(network, kind)
    batch, *rest = shape
    *sides, channels = rest if kind.interleaved else [*rest[1:], rest[0]]
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


def _example(graph: Graph, sides: tuple[int, ...], least: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs of a graph; the values lie in ``least..least + 127``, as code may branch on bright and dark pixels."""
    batch, height, width, channels = sides
    shape = (batch, height, width, channels) if graph.kind.interleaved else (batch, channels, height, width)
    pixels = torch.randint(least, least + 128, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(least))
    return pixels, torch.full((batch, channels, 1, 1), 128.0), torch.full((batch, channels, 1, 1), 64.0)


def _is_same(found: Any, expected: Any) -> bool:
    """Return whether logits agree, or the sums of logits where the graph returns class ids."""
    found_values, expected_values = (outputs[1] if isinstance(outputs, tuple) else outputs for outputs in (found, expected))
    difference = (found_values - expected_values).abs().max() if found_values.shape == expected_values.shape else None
    return difference is not None and bool(difference <= _TOLERANCE * expected_values.abs().max())
