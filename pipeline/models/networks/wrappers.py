"""Wrappers that adapt a network to an image: any size, any number of channels, output channels merged into classes, a fixed batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.networks.object_outputs import join_tensors

__all__ = ["FixedBatch", "MergedChannels", "MergedOutputs", "pad_to_multiple"]


def pad_to_multiple(x_NCYX: Tensor, stride: int) -> Tensor:
    """Append zeros at the bottom and right up to multiples of the stride."""
    below, right = -x_NCYX.shape[-2] % stride, -x_NCYX.shape[-1] % stride
    return functional.pad(x_NCYX, (0, right, 0, below)) if below or right else x_NCYX


class MergedChannels(nn.Module):
    """Gives a network of three channels the mean, minimum and maximum over any number of channels, in any order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return the network's logits."""
        merged = (pixels_NCYX.mean(1, keepdim=True), pixels_NCYX.amin(1, keepdim=True), pixels_NCYX.amax(1, keepdim=True))
        logits: Tensor = self.network(torch.cat(merged, 1))
        return logits


class MergedOutputs(nn.Module):
    """Merges output channels of a network into classes, so that the probability of a class is the sum of its channels'.

    Args:
        network: returns logits (N, outputs, Y, X).
        outputs: class of each output channel; each class has at least one.
        maps: output channels whose own probabilities follow the logits.
    """

    def __init__(self, network: nn.Module, outputs: Sequence[int], maps: Sequence[int] = ()) -> None:
        super().__init__()
        self.network, self.maps = network, list(maps)
        self.channels = [[at for at, owner in enumerate(outputs) if owner == class_id] for class_id in range(max(outputs) + 1)]

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits (N, K, Y, X), the log of the sum of the exponentials of a class's channels, and after them the probabilities."""
        logits = self.network(pixels_NCYX)
        # Softmax over these equals the sum of softmax over the channels of a class.
        merged = [torch.logsumexp(logits[:, channels], 1, keepdim=True) for channels in self.channels]
        probs = [logits.float().softmax(1)[:, self.maps]] if self.maps else []
        return torch.cat([*merged, *probs], 1)


class FixedBatch(nn.Module):
    """A graph as a module that divides a batch into pieces of the graph's size, and fills the last piece up.

    Args:
        graph: maps float32 (N, C, H, W) to logits; several tensors are joined; its errors become RuntimeError.
        batch: N; None: any.
    """

    def __init__(self, graph: Callable[[Tensor], Any], batch: int | None) -> None:
        super().__init__()
        self.graph, self.batch = graph, batch

    def train(self, mode: bool = True) -> FixedBatch:
        """Change nothing: an exported graph has one mode, and raises an error when it is asked to change."""
        return self

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits (N, K, H, W)."""
        try:
            if self.batch is None or self.batch == len(pixels_NCYX):
                return join_tensors(self.graph(pixels_NCYX))
            return torch.cat([self._run_piece(piece_NCYX, self.batch) for piece_NCYX in torch.split(pixels_NCYX, self.batch)])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise RuntimeError(str(error)) from error

    def _run_piece(self, piece_NCYX: Tensor, batch: int) -> Tensor:
        filled: Any = torch.cat([piece_NCYX, piece_NCYX[-1:].expand(batch - len(piece_NCYX), -1, -1, -1)])
        return join_tensors(self.graph(filled))[: len(piece_NCYX)]
