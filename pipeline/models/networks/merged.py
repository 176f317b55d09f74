"""Networks between channels and classes that are not one to one: channels merged into three, outputs gathered into classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["MergedChannels", "MergedOutputs"]


class MergedChannels(nn.Module):
    """A network of three channels that takes any number: their mean, minimum and maximum at each pixel.

    The order of the channels does not matter, and a single one is seen three times.

    Args:
        network: takes (N, 3, Y, X).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return the network's logits."""
        parts = (pixels_NCYX.mean(1, keepdim=True), pixels_NCYX.amin(1, keepdim=True), pixels_NCYX.amax(1, keepdim=True))
        logits: Tensor = self.network(torch.cat(parts, 1))
        return logits


class MergedOutputs(nn.Module):
    """A network whose output channels are gathered into classes, so that probabilities add.

    Args:
        network: returns logits (N, heads, Y, X).
        outputs: class of each head; each class has at least one.
    """

    def __init__(self, network: nn.Module, outputs: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.heads = [[head for head, one in enumerate(outputs) if one == wanted] for wanted in range(max(outputs) + 1)]

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits (N, K, Y, X): the log of the sum of the exponentials of a class's heads."""
        logits = self.network(pixels_NCYX)
        # Softmax over these equals the sums of the softmax over the heads.
        return torch.cat([torch.logsumexp(logits[:, heads], 1, keepdim=True) for heads in self.heads], 1)
