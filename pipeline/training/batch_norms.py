"""Statistics of batch norms: measured for weights that have none of their own, and frozen for fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["freeze_batch_norms", "measure_batch_norms"]

BATCHES = 100


def measure_batch_norms(network: nn.Module, batches: Iterable[torch.Tensor], device: str) -> None:
    """Measure the batch norm statistics of a mean of weights, which are not the mean of the statistics (Izmailov et al., UAI 2018).

    Args:
        network: ends in training mode.
        batches: pixels (B, C, Y, X) as the network sees them; the first 100 are used, in float32.
        device: where the network is.
    """
    import torch
    from torch.optim.swa_utils import update_bn

    update_bn(islice(batches, BATCHES), network.train(), torch.device(device))


def freeze_batch_norms(network: nn.Module) -> None:
    """Let batch norms use the statistics that they have, as in prediction; scale and shift still learn."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
