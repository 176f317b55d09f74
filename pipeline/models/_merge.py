"""Several outputs of a network reported as one class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["MergedOutputs"]


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
