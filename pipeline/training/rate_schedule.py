"""How far a training is, and the learning rate there: pure functions of the share that is done."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pipeline.training.schema import Optimizer, RateSchedule

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["make_optimizer", "rate_at"]


def rate_at(schedule: RateSchedule, done: float) -> float:
    """Return the learning rate as a share of the largest one.

    Args:
        schedule: its shape.
        done: share of the training that is done, 0 to 1.

    Example:
        >>> [round(rate_at(RateSchedule(warmup=0.1), done), 3) for done in (0.05, 0.1, 0.55, 1.0)]
        [0.5, 1.0, 0.5, 0.0]
        >>> [rate_at(RateSchedule(name="step", warmup=0.0), done) for done in (0.4, 0.5)]
        [1.0, 0.1]
    """
    if done < schedule.warmup:
        return done / schedule.warmup
    left = (1 - done) / (1 - schedule.warmup) if schedule.warmup < 1 else 1.0
    if schedule.name == "cosine":
        return 0.5 - 0.5 * math.cos(math.pi * left)
    if schedule.name == "poly":
        return float(left**schedule.power)
    if schedule.name == "step":
        return float(schedule.factor ** sum(done >= at for at in schedule.at))
    return 1.0


def make_optimizer(network: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    """Make the optimizer; weight decay is for weights with more than one axis, not for norms and biases."""
    import torch

    weights = [one for one in network.parameters() if one.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [one for one in weights if one.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [one for one in weights if one.ndim <= 1], "weight_decay": 0.0},
    ]
    if spec.name == "sgd":
        return torch.optim.SGD(groups, lr=spec.rate, momentum=spec.momentum, nesterov=spec.momentum > 0)
    return torch.optim.AdamW(groups, lr=spec.rate)
