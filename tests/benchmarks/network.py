"""A U-Net with a ResNet-18 encoder, the size that people run: for benchmarks, with random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.models import Network

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ResNet18UNet"]


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
        """Build it, and spread its classes: a constant mask would make argmax and writing look free."""
        import segmentation_models_pytorch as smp
        import torch

        network = smp.Unet("resnet18", encoder_weights=None, in_channels=3, classes=4)
        network.train()
        with torch.no_grad():
            noise_NCHW = torch.rand(2, 3, 256, 256)
            network(noise_NCHW)
            network.eval()
            logits_NKHW = network(noise_NCHW)
            head = network.segmentation_head[0]
            spread_K = logits_NKHW.std(dim=(0, 2, 3))
            head.weight.mul_(1 / spread_K[:, None, None, None])
            head.bias.copy_((head.bias - logits_NKHW.mean(dim=(0, 2, 3))) / spread_K)
        return network
