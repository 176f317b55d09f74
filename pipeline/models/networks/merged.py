"""Wrappers of networks: any number of channels merged into three, output channels merged into classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["MergedChannels", "MergedOutputs"]


class MergedChannels(nn.Module):
    """Gives a network of three channels the mean, minimum and maximum over any number of channels.

    The order of the channels does not matter. A single channel is repeated three times.

    Args:
        network: takes (N, 3, Y, X).
    """

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
    """

    def __init__(self, network: nn.Module, outputs: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.channels = [[at for at, owner in enumerate(outputs) if owner == class_id] for class_id in range(max(outputs) + 1)]

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits (N, K, Y, X): the log of the sum of the exponentials of a class's channels."""
        logits = self.network(pixels_NCYX)
        # Softmax over these equals the sum of softmax over the channels of a class.
        return torch.cat([torch.logsumexp(logits[:, channels], 1, keepdim=True) for channels in self.channels], 1)
