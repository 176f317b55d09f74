"""Full-resolution residual networks (Pohlen, Hermans, Mathias and Leibe 2017, arXiv:1611.08323)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipeline.models import Network
from pipeline.models.networks import Shapes, channels_and_classes

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FRRN"]

_DOWN = ((2, 96, 3), (4, 192, 4), (8, 384, 2), (16, 384, 2))
_UP = ((8, 192, 2), (4, 192, 2), (2, 96, 2))
_STAGES = {"a": (*_DOWN, *_UP), "b": (*_DOWN, (32, 384, 2), (16, 192, 2), *_UP)}
_UNITS = 3  # residual units before the streams divide, and after they join


class FRRN(Network):
    """FRRN A and B of the paper: one stream is pooled and unpooled, another keeps the full resolution.

    17,746,803 (A) and 24,755,699 (B) parameters for three channels and 19 classes, as in the authors' own code. Each unit
    of a stage takes the previous unit's output. The pooled stream grows by bilinear interpolation without aligned corners,
    so that a tile on the grid of the stride computes what the whole image would give.

    Example::

        model: {name: frrn, variant: a, channels: 3, classes: 19}
    """

    code_packages: ClassVar[tuple[str, ...]] = ()

    variant: Literal["a", "b"] = Field(default="a", description="a: pooled to 1/16; b: to 1/32")
    channels: int = Field(default=3, ge=1, description="channels of the input")
    classes: int = Field(default=19, ge=1, description="channels of the output; 1: two classes, class 1 where the logit > 0")

    @property
    def stages(self) -> tuple[tuple[int, int, int], ...]:
        """For each stage its scale (the input's size over its own), its feature maps, and its number of units."""
        return _STAGES[self.variant]

    @property
    def stride(self) -> int:
        """Scale of the coarsest stage."""
        return max(scale for scale, _, _ in self.stages)

    @property
    def field(self) -> int:
        """Exact: the first pixel of a cell, followed back to its inputs in both streams."""
        residual = pooled = -2 * _UNITS  # the first pixel seen, in pixels of the stream
        at = 1
        for scale, _, units in reversed(self.stages):
            # In the forward direction this step halves the pooled stream, or doubles it (bilinear: one pixel more).
            pooled = (pooled - 1) // 2 if scale > at else pooled * at // scale
            for _ in range(units):
                pooled = min(pooled, residual // scale) - 2
                residual = min(residual, pooled * scale)
            at = scale
        return -(min(residual, pooled * at) - 2 * _UNITS - 2)

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Count twelve times the 48 float32 maps of the full resolution, as measured where the streams join."""
        height, width = tile
        return height * width * 4 * (channels + 12 * 48 + 2 * self.num_classes)

    @classmethod
    def guess_options(cls, shapes: Shapes) -> Iterable[dict[str, Any]]:
        """Infer channels and classes, and return both variants, which share most names."""
        options = channels_and_classes(shapes, "stem.0.weight", "head.weight")
        return [{"variant": variant, **options} for variant in _STAGES] if options else []

    def build(self) -> nn.Module:
        """Build the module."""
        from pipeline.models.networks.frrn import FRRNModule

        return FRRNModule(self.channels, self.classes, self.stages, units=_UNITS)
