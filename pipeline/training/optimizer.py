"""The optimizer of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.training.schema import Optimizer

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["make_optimizer"]


def make_optimizer(network: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    """Make the optimizer of a network's trainable parameters.

    Weight decay is for weights with more than one axis, not for norms and biases.
    """
    import torch

    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if spec.name == "sgd":
        return torch.optim.SGD(groups, lr=spec.rate, momentum=spec.momentum, nesterov=spec.momentum > 0)
    return torch.optim.AdamW(groups, lr=spec.rate)
