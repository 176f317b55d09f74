"""The torch module of FRRN; scriptable and traceable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.networks.wrappers import pad_to_multiple

__all__ = ["FRRNModule"]


class FRRNModule(nn.Module):
    """FRRN. Zeros pad a size that the stride does not divide at the bottom and right, and the output is cropped to the input's size.

    Args:
        channels: of the input.
        classes: of the output.
        stages: (scale, feature maps, units) of each stage, in order.
        units: residual units before the streams divide, and after they join.
        base: feature maps before and after the stages.
        lanes: feature maps of the residual stream.
    """

    def __init__(
        self, channels: int, classes: int, stages: Sequence[tuple[int, int, int]], *, units: int = 3, base: int = 48, lanes: int = 32
    ) -> None:
        super().__init__()
        self.stride = max(scale for scale, _, _ in stages)
        self.stem = nn.Sequential(*_conv(channels, base, 5), *(_ResidualUnit(base, base) for _ in range(units)))
        self.part = _conv(base, lanes, 1, is_rectified=False)
        self.stages = nn.ModuleList()
        width, before = base, 1
        for scale, out, count in stages:
            self.stages.append(_Stage(width, out, lanes, scale, count, is_coarser=scale > before))
            width, before = out, scale
        self.join = nn.Sequential(_ResidualUnit(width + lanes, base), *(_ResidualUnit(base, base) for _ in range(units - 1)))
        self.head = nn.Conv2d(base, classes, 1)

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits (N, K, Y, X)."""
        height, width = pixels_NCYX.shape[-2], pixels_NCYX.shape[-1]
        pooled = self.stem(pad_to_multiple(pixels_NCYX, self.stride))
        residual = self.part(pooled)
        for stage in self.stages:
            pooled, residual = stage(pooled, residual)
        logits: Tensor = self.head(self.join(torch.cat([_grow(pooled), residual], 1)))
        return logits[..., :height, :width]


class _Stage(nn.Module):
    """A step to half or double the resolution, then full-resolution residual units."""

    def __init__(self, channels: int, width: int, lanes: int, scale: int, count: int, *, is_coarser: bool) -> None:
        super().__init__()
        self.is_coarser = is_coarser
        self.units = nn.ModuleList(_FullResolutionUnit(width if unit else channels, width, lanes, scale) for unit in range(count))

    def forward(self, pooled: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        pooled = functional.max_pool2d(pooled, 2) if self.is_coarser else _grow(pooled)
        for unit in self.units:
            pooled, residual = unit(pooled, residual)
        return pooled, residual


class _FullResolutionUnit(nn.Module):
    """Reads both streams at the scale of the pooled one, and adds its result to the residual stream at full resolution."""

    def __init__(self, channels: int, width: int, lanes: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.convs = nn.Sequential(*_conv(channels + lanes, width, 3), *_conv(width, width, 3))
        self.back = nn.Conv2d(width, lanes, 1)

    def forward(self, pooled: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.convs(torch.cat([pooled, functional.max_pool2d(residual, self.scale)], 1))
        return pooled, residual + functional.interpolate(self.back(pooled), scale_factor=float(self.scale), mode="nearest")


class _ResidualUnit(nn.Module):
    """Two convolutions added to the identity, or to a 1x1 projection where the number of feature maps changes."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*_conv(channels, width, 3), *_conv(width, width, 3, is_rectified=False))
        self.project = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convs(x) + self.project(x)
        return y


def _conv(channels: int, width: int, kernel: int, *, is_rectified: bool = True) -> nn.Sequential:
    """Return a convolution without bias, a batch norm, and a ReLU unless ``is_rectified`` is false."""
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), *[nn.ReLU(inplace=True)] * is_rectified)


def _grow(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
