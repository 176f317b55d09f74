"""A U-Net with a ResNet-18 encoder, the size that people run: for benchmarks, with random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.models import Network

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ResNet18UNet"]

MEAN, STD = 128.0, 50.0
"""What the pixels of :func:`tests.benchmarks.images.tile` are normalised with."""
LEAST_SHARE = 0.05  # of the pixels, that each class must have


class ResNet18UNet(Network):
    """segmentation-models-pytorch's U-Net-ResNet18, RGB, four classes that all occur.

    Example::

        model: {name: tests.benchmarks.network}
    """

    @property
    def num_classes(self) -> int:
        """Four."""
        return 4

    @property
    def num_channels(self) -> int:
        """RGB."""
        return 3

    @property
    def stride(self) -> int:
        """Five halvings."""
        return 32

    def build(self) -> nn.Module:
        """Build it, and spread its classes over the pixels of the benchmarks: a constant mask makes argmax and writing look free."""
        import segmentation_models_pytorch as smp
        import torch

        from tests.benchmarks.images import tile

        network = smp.Unet("resnet18", encoder_weights=None, in_channels=3, classes=4)
        if next(network.parameters()).is_meta:
            return network
        pixels_NCHW = torch.from_numpy((tile(3)[None, :, :512, :512].astype(np.float32) - MEAN) / STD)
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for module in norms:
            module.momentum = None  # the statistics of these pixels alone, not of what it was born with
        network.train()
        with torch.no_grad():
            network(pixels_NCHW)
            logits_NKHW = network.eval()(pixels_NCHW)
            head = network.segmentation_head[0]
            spread_K = logits_NKHW.std(dim=(0, 2, 3))
            head.weight.mul_(1 / spread_K[:, None, None, None])
            head.bias.copy_((head.bias - logits_NKHW.mean(dim=(0, 2, 3))) / spread_K)
        return network


def check_shares(mask_YX: np.ndarray) -> str:
    """Shares of the classes in a mask, for people.

    Raises:
        SystemExit: one of them hardly occurs.
    """
    shares = np.bincount(mask_YX.ravel(), minlength=4)[:4] / mask_YX.size
    if shares.min() < LEAST_SHARE:
        raise SystemExit(f"classes have shares of {shares}: a mask that is nearly constant says nothing of speed")
    return ", ".join(f"{share:.0%}" for share in shares)
