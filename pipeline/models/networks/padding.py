"""Padding for sizes that a network's poolings do not divide."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["pad_to_multiple"]


def pad_to_multiple(x_NCYX: Tensor, stride: int) -> Tensor:
    """Append zeros at the bottom and right up to multiples of the stride."""
    below, right = -x_NCYX.shape[-2] % stride, -x_NCYX.shape[-1] % stride
    return functional.pad(x_NCYX, (0, right, 0, below)) if below or right else x_NCYX
