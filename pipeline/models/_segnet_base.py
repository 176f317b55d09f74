"""What both SegNets share: their layers as a table, and what follows from it without torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipeline.models import Network
from pipeline.models.networks.tensor_shapes import Shapes, ends

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Layers", "SegNetBase"]


@dataclass(frozen=True)
class Layers:
    """The convolutions of a SegNet.

    Attributes:
        encoder: feature maps of each convolution, stage by stage; a pooling follows each stage.
        decoder: likewise, deepest first; an unpooling precedes each stage.
        kernel: of all of them, pixels.
        head: kernel of the last convolution, pixels.
        is_rectified: whether the decoder has ReLUs.
        is_normalized: whether the input's channels are normalised by their neighbours (LRN).
    """

    encoder: tuple[tuple[int, ...], ...]
    decoder: tuple[tuple[int, ...], ...]
    kernel: int
    head: int
    is_rectified: bool
    is_normalized: bool

    @property
    def stride(self) -> int:
        """Two for each pooling."""
        return int(2 ** len(self.encoder))

    @property
    def field(self) -> int:
        """Exact: the first pixel of a cell, followed back to what it sees; indices see no further than what they place."""
        reach, low = self.kernel // 2, -(self.head // 2)
        for stage in reversed(self.decoder):
            low = (low - reach * len(stage)) // 2
        for stage in reversed(self.encoder):
            low = 2 * low - reach * len(stage)
        return -low

    def narrowed(self, share: int) -> Layers:
        """The same layers with a share of the feature maps, for studies.

        Args:
            share: what the numbers of feature maps are divided by.
        """
        encoder, decoder = (tuple(tuple(width // share for width in stage) for stage in part) for part in (self.encoder, self.decoder))
        return replace(self, encoder=encoder, decoder=decoder)


class SegNetBase(Network):
    """A SegNet of the layers that a subclass names."""

    layers: ClassVar[Layers]

    channels: int = Field(default=3, ge=1, description="channels of the input")
    classes: int = Field(default=11, ge=1, description="channels of the output; 1: two classes, class 1 where the logit > 0")

    @property
    def num_classes(self) -> int:
        """One logit tells two classes apart."""
        return max(self.classes, 2)

    @property
    def num_channels(self) -> int:
        """Exactly ``channels``."""
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
        """The widest moment, around the first pooling and the last unpooling: four times the first stage's maps, in float32."""
        height, width = tile
        return height * width * 4 * (channels + 4 * self.layers.encoder[0][0] + 2 * self.num_classes)

    @classmethod
    def guesses(cls, shapes: Shapes) -> Iterable[dict[str, Any]]:
        """Channels and classes."""
        options = ends(shapes, "encoder.0.0.weight", "head.weight")
        return [options] if options else []

    def build(self) -> nn.Module:
        """Build the module."""
        from pipeline.models.networks.segnet import SegNetModule

        return SegNetModule(self.channels, self.classes, self.layers)
