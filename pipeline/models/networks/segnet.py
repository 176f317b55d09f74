"""The torch module of both SegNets; scriptable and traceable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.networks.wrappers import pad_to_multiple

__all__ = ["SegNetModule"]

Stages = Sequence[Sequence[int]]


class SegNetModule(nn.Module):
    """SegNet: the decoder puts each value at the position of the maximum that the encoder's pooling found.

    Zeros pad a size that is not a multiple of the stride at the bottom and right, and the output is cropped to the input's size.
    The arguments are those of :class:`pipeline.models.segnet.SegNet`.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        encoder: Stages,
        decoder: Stages,
        *,
        kernel: int,
        head: int,
        is_rectified: bool,
        is_normalized: bool,
    ) -> None:
        super().__init__()
        self.stride = 2 ** len(encoder)
        self.norm = nn.LocalResponseNorm(5) if is_normalized else nn.Identity()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        width = channels
        for stage in encoder:
            self.encoder.append(_stage(width, stage, kernel, True))
            width = stage[-1]
        for stage in decoder:
            self.decoder.append(_stage(width, stage, kernel, is_rectified))
            width = stage[-1]
        self.head = nn.Conv2d(width, classes, head, padding=head // 2)

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits (N, K, Y, X)."""
        height, width = pixels_NCYX.shape[-2], pixels_NCYX.shape[-1]
        x = pad_to_multiple(pixels_NCYX, self.stride)
        x = self.norm(x.float()).to(x.dtype)  # torch has no such norm in bfloat16
        positions: list[Tensor] = []
        for stage in self.encoder:
            x, position = _pool(stage(x))
            positions.append(position)
        for stage in self.decoder:
            x = stage(_unpool(x, positions.pop()))
        logits: Tensor = self.head(x)
        return logits[..., :height, :width]


def _pool(x_NCYX: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maximum of each 2x2 pixels, and its position: 0 to 3, row by row, uint8.

    Torch's own indices take eight bytes each, and unpooling by them cannot be exported.
    """
    pooled_NCYX, index_NCYX = functional.max_pool2d_with_indices(x_NCYX, (2, 2))
    height, width = pooled_NCYX.shape[-2], x_NCYX.shape[-1]
    lower_Y1 = width * (2 * torch.arange(height, device=x_NCYX.device)[:, None] + 1)
    return pooled_NCYX, (index_NCYX & 1).to(torch.uint8) + 2 * (index_NCYX >= lower_Y1).to(torch.uint8)


def _unpool(x_NCYX: Tensor, position_NCYX: Tensor) -> Tensor:
    """Put each value at its position among 2x2 pixels; the others are 0."""
    height, width = 2 * x_NCYX.shape[-2], 2 * x_NCYX.shape[-1]
    rows_Y, columns_X = torch.arange(height, device=x_NCYX.device), torch.arange(width, device=x_NCYX.device)
    own_YX = 2 * (rows_Y[:, None] & 1) + (columns_X & 1)
    position_NCYX = functional.interpolate(position_NCYX, scale_factor=2.0, mode="nearest")
    return torch.where(position_NCYX == own_YX.to(torch.uint8), functional.interpolate(x_NCYX, scale_factor=2.0, mode="nearest"), 0.0)


def _stage(channels: int, widths: Sequence[int], kernel: int, is_rectified: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, width in zip([channels, *widths], widths, strict=False):
        layers += [nn.Conv2d(inputs, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width)]
        layers += [nn.ReLU(inplace=True)] * is_rectified
    return nn.Sequential(*layers)
