"""SegNet (Badrinarayanan, Kendall and Cipolla 2015, arXiv:1511.00561)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipeline.models import Network
from pipeline.models.networks import Shapes, channels_and_classes

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SegNet"]

Stages = tuple[tuple[int, ...], ...]


class SegNet(Network):
    """The SegNet of the paper: the 13 convolutions of VGG16, max-pooling, and a mirrored decoder that unpools by the poolings' indices.

    29,449,355 parameters for three channels and 11 classes. As in the authors' own files, each 3x3 convolution has a bias,
    batch norm and ReLU, except the last, which computes the logits. The field of 186 pixels holds where tiles lie on the
    grid of the stride, 32.

    Example::

        model: {name: segnet, channels: 3, classes: 11}
    """

    code_packages: ClassVar[tuple[str, ...]] = ()
    # Feature maps of each convolution, by stage: a pooling follows each stage of the encoder, an unpooling precedes each of the decoder.
    encoder: ClassVar[Stages] = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
    decoder: ClassVar[Stages] = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,))
    kernel: ClassVar[int] = 3  # of all convolutions but the last, pixels
    head: ClassVar[int] = 3  # kernel of the last convolution, pixels
    is_rectified: ClassVar[bool] = True  # whether the decoder has ReLUs
    is_normalized: ClassVar[bool] = False  # whether the input's channels are normalised by their neighbours (LRN)

    channels: int = Field(default=3, ge=1, description="channels of the input")
    classes: int = Field(default=11, ge=1, description="channels of the output; 1: two classes, class 1 where the logit > 0")

    @property
    def stride(self) -> int:
        """Two for each pooling."""
        return int(2 ** len(self.encoder))

    @property
    def field(self) -> int:
        """Exact: the first pixel of a cell, followed back to its inputs. Unpooling sees no further than pooling."""
        reach, low = self.kernel // 2, -(self.head // 2)
        for stage in reversed(self.decoder):
            low = (low - reach * len(stage)) // 2
        for stage in reversed(self.encoder):
            low = 2 * low - reach * len(stage)
        return -low

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Count four times the first stage's float32 maps, which are in use around the first pooling and the last unpooling."""
        height, width = tile
        return height * width * 4 * (channels + 4 * self.encoder[0][0] + 2 * self.num_classes)

    @classmethod
    def guess_options(cls, shapes: Shapes) -> Iterable[dict[str, Any]]:
        """Infer channels and classes."""
        options = channels_and_classes(shapes, "encoder.0.0.weight", "head.weight")
        return [options] if options else []

    def build(self) -> nn.Module:
        """Build the module."""
        from pipeline.models.networks.segnet import SegNetModule

        return SegNetModule(
            self.channels,
            self.classes,
            self.encoder,
            self.decoder,
            kernel=self.kernel,
            head=self.head,
            is_rectified=self.is_rectified,
            is_normalized=self.is_normalized,
        )
