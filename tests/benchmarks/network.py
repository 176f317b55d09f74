"""A U-Net with a ResNet-18 encoder and untrained weights, of the size that people run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from scipy.ndimage import gaussian_filter
from typing_extensions import override

from pipeline.models import Network
from pipeline.models.unet import UNet
from tests.benchmarks.images import tile

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ResNet18UNet"]

MEAN, STD = 128.0, 50.0
"""What the pixels of :func:`tests.benchmarks.images.tile` are normalised with."""
DEEP = 0.01  # times the weights of what comes from below: as in a trained network, what is near decides
LEAST_SHARE = 0.05  # of the pixels, that each class must have


class ResNet18UNet(Network):
    """segmentation-models-pytorch's U-Net-ResNet18, RGB, four classes that all occur.

    Example::

        model: {name: tests.benchmarks.network}
    """

    radius: int | None = Field(default=None, description="field radius, pixels: 305 as probed for the built-in weights")
    light: bool = Field(default=False, description="a small U-Net instead, for images of gigapixels")

    @property
    @override
    def field(self) -> int | None:
        return self.radius

    @property
    @override
    def num_classes(self) -> int:
        return 4

    @property
    @override
    def num_channels(self) -> int:
        return 3

    @property
    @override
    def stride(self) -> int:
        return 32

    @override
    def build(self) -> nn.Module:
        if self.light:
            return UNet(depth=2, base=4, padding="same", channels=3, classes=4).build()
        import segmentation_models_pytorch as smp

        return smp.Unet("resnet18", encoder_weights=None, in_channels=3, classes=4)

    def load(self) -> nn.Module:
        """Build the network with the weights of the file; without one, with random features and a head fitted to four levels of brightness.

        A random head is all but constant, which makes argmax and writing look free, or noise, which no precision repeats.
        """
        import torch

        network = super().load()
        if self.weights is not None:
            return network
        pixels_CYX = tile(3)[:, :512, :512]
        head, seen = network.head if self.light else network.segmentation_head[0], []
        with torch.no_grad():
            if not self.light:
                for block, skipped in zip(network.decoder.blocks, network.encoder.out_channels[-2:0:-1], strict=False):
                    block.conv1[0].weight[:, :-skipped] *= DEEP
            handle = head.register_forward_hook(lambda _, given, __: seen.append(given[0]))
            network(torch.from_numpy((pixels_CYX[None].astype(np.float32) - MEAN) / STD))
            handle.remove()
            weight_KCYX, bias_K = fit_head(seen[0].numpy(), classes_of(pixels_CYX), head.kernel_size[0])
            head.weight.copy_(torch.from_numpy(weight_KCYX))
            head.bias.copy_(torch.from_numpy(bias_K))
        return network


def classes_of(pixels_CYX: np.ndarray) -> np.ndarray:
    """Four classes of equal area, from dark to bright, of the smoothed mean of the channels."""
    smooth_YX = gaussian_filter(pixels_CYX.mean(axis=0), 2)
    return np.digitize(smooth_YX, np.quantile(smooth_YX, (0.25, 0.5, 0.75)))


def fit_head(features_NCYX: np.ndarray, classes_YX: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (K, C, side, side) and bias (K,) of a convolution that gives each class's own logit the largest value, by least squares."""
    scale = float(features_NCYX.std())
    windows_CYXyx = np.lib.stride_tricks.sliding_window_view(features_NCYX[0] / scale, (side, side), axis=(1, 2))
    rows_PF = windows_CYXyx.transpose(1, 2, 0, 3, 4).reshape(-1, features_NCYX.shape[1] * side**2)
    margin = side // 2
    ids_P = classes_YX[margin : classes_YX.shape[0] - margin, margin : classes_YX.shape[1] - margin].ravel()
    some = np.random.default_rng(0).permutation(len(ids_P))[:20_000]
    given_PF = np.concatenate([rows_PF[some], np.ones((len(some), 1))], axis=1)
    found_FK = np.linalg.lstsq(given_PF, np.eye(4)[ids_P[some]], rcond=1e-2)[0].astype(np.float32)
    bias_K, logits_PK = found_FK[-1], given_PF @ found_FK
    for _ in range(100):  # until every class has about its quarter
        shares_K = np.bincount(logits_PK.argmax(axis=1), minlength=4) / len(some)
        change_K = (0.02 * logits_PK.std() * (1 - 4 * shares_K)).astype(np.float32)
        bias_K, logits_PK = bias_K + change_K, logits_PK + change_K
    return found_FK[:-1].T.reshape(4, -1, side, side) / scale, bias_K


def check_shares(mask_YX: np.ndarray) -> str:
    """Shares of the classes in a mask, for people.

    Raises:
        SystemExit: one of them hardly occurs.
    """
    shares = np.bincount(mask_YX.ravel(), minlength=4)[:4] / mask_YX.size
    if shares.min() < LEAST_SHARE:
        raise SystemExit(f"classes have shares of {shares}: a mask that is nearly constant says nothing of speed")
    return ", ".join(f"{share:.0%}" for share in shares)
