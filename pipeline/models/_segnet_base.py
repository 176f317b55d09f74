"""The base of both SegNets: options, and the facts that follow from the layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipeline.models import Network
from pipeline.models.networks import SegNetLayers, Shapes, channels_and_classes

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SegNetBase"]


class SegNetBase(Network):
    """A SegNet; a subclass gives its layers."""

    layers: ClassVar[SegNetLayers]

    channels: int = Field(default=3, ge=1, description="channels of the input")
    classes: int = Field(default=11, ge=1, description="channels of the output; 1: two classes, class 1 where the logit > 0")

    @property
    def num_classes(self) -> int:
        """At least 2: one logit separates two classes."""
        return max(self.classes, 2)

    @property
    def num_channels(self) -> int:
        """As given."""
        return self.channels

    @property
    def stride(self) -> int:
        """Two for each pooling."""
        return self.layers.stride

    @property
    def field(self) -> int:
        """Exact, where every tile origin is a multiple of the stride."""
        return self.layers.field

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Count four times the first stage's float32 maps, which are in use around the first pooling and the last unpooling."""
        height, width = tile
        return height * width * 4 * (channels + 4 * self.layers.encoder[0][0] + 2 * self.num_classes)

    @classmethod
    def guess_options(cls, shapes: Shapes) -> Iterable[dict[str, Any]]:
        """Infer channels and classes."""
        options = channels_and_classes(shapes, "encoder.0.0.weight", "head.weight")
        return [options] if options else []

    def build(self) -> nn.Module:
        """Build the module."""
        from pipeline.models.networks.segnet import SegNetModule

        return SegNetModule(self.channels, self.classes, self.layers)
