"""The torch module of U-Net; scriptable and traceable."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.networks.wrappers import pad_to_multiple

__all__ = ["UNetModule"]


class UNetModule(nn.Module):
    """U-Net, with a rule for each padding for sizes that do not fit its poolings.

    Same: zeros pad the input at the bottom and right, and the output is cropped to the input's size.
    Valid: the input is cropped around its centre to the largest size that fits, so that the grid of the poolings
    lies the same in all inputs whose sizes and origins are multiples of the stride.
    """

    def __init__(self, channels: int, classes: int, valid: bool, norm: bool, depth: int, base: int, patch: int = 1) -> None:
        super().__init__()
        self.valid, self.patch, self.stride = valid, patch, patch * 2**depth
        widths = [base * 2**level for level in range(depth + 1)]
        inputs = [channels * patch**2, *widths[:-1]]
        self.encoder = nn.ModuleList(_pair(channels, width, valid, norm) for channels, width in zip(inputs, widths, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in widths[-2::-1])
        self.decoder = nn.ModuleList(_pair(2 * width, width, valid, norm) for width in widths[-2::-1])
        self.head = nn.Conv2d(base, classes * patch**2, 1)

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits (N, K, Y, X)."""
        height, width = pixels_NCYX.shape[-2], pixels_NCYX.shape[-1]
        x = self._crop(pixels_NCYX) if self.valid else pad_to_multiple(pixels_NCYX, self.stride)
        if self.patch > 1:
            x = functional.pixel_unshuffle(x, self.patch)
        skips: list[Tensor] = []
        for level, pair in enumerate(self.encoder):
            x = pair(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for up, pair in zip(self.up, self.decoder, strict=True):
            x = _join(skips.pop(), up(x))  # unnamed, so that the joined parts are freed before the pair runs
            x = pair(x)
        logits: Tensor = self.head(x)
        if self.patch > 1:
            logits = functional.pixel_shuffle(logits, self.patch)
        return logits if self.valid else logits[..., :height, :width]

    def _crop(self, x: Tensor) -> Tensor:
        # Each level loses 4 pixels before it is halved, so a size fits where it is -4 modulo the stride.
        above, left = (x.shape[-2] + 4) % self.stride, (x.shape[-1] + 4) % self.stride
        height, width = x.shape[-2] - above, x.shape[-1] - left
        return x[..., above // 2 : above // 2 + height, left // 2 : left // 2 + width]


def _join(skip: Tensor, x: Tensor) -> Tensor:
    """Crop the skip around its centre to the size of ``x``, and concatenate both."""
    top, left = (skip.shape[-2] - x.shape[-2]) // 2, (skip.shape[-1] - x.shape[-1]) // 2
    return torch.cat([skip[..., top : top + x.shape[-2], left : left + x.shape[-1]], x], 1)


def _pair(channels: int, width: int, valid: bool, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs in (channels, width):
        layers.append(nn.Conv2d(inputs, width, 3, padding=0 if valid else 1, bias=not norm))
        layers += [nn.BatchNorm2d(width)] * norm
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
