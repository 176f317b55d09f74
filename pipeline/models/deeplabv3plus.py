"""DeepLabv3+ (Chen, Zhu, Papandreou, Schroff and Adam 2018, arXiv:1802.02611)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipeline.models import Network
from pipeline.models.networks import Shapes, channels_and_classes
from pipeline.models.networks.smp import SMP_PACKAGES, make_network

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DeepLabV3Plus"]

_ENCODERS = {"xception65": "tu-xception65"}  # the library's name where it differs from ours
_STEMS = {"xception65": "model.stem_0.conv", "resnet101": "conv1", "resnet50": "conv1", "mobilenet_v2": "features.0.0"}


class DeepLabV3Plus(Network):
    """DeepLabv3+: atrous spatial pyramid pooling over a dilated encoder, refined by a decoder at a quarter of the size.

    One of its branches pools the whole tile, so the field is not finite, no halo is exact, and the tile's size changes
    the result. Encoders are those of segmentation-models-pytorch and timm. ``xception65`` is the aligned
    Xception of the authors, parameter for parameter: strided separable convolutions in place of pooling, norms after both
    halves, a ReLU between them in the exit flow only. Two things differ from the authors' head (41,042,005 parameters for 21
    classes, not 41,055,413): no norm and ReLU inside its separable convolutions, and one of the two 3x3 convolutions of the
    decoder comes before the low-level features instead of after.

    Example::

        model: {name: deeplabv3plus, encoder: mobilenet_v2, channels: 3, classes: 21}
    """

    code_packages: ClassVar[tuple[str, ...]] = SMP_PACKAGES
    field: ClassVar[None] = None  # image pooling sees the whole tile

    encoder: Literal["xception65", "resnet101", "resnet50", "mobilenet_v2"] = Field(default="xception65", description="the backbone")
    channels: int = Field(default=3, ge=1, description="channels of the input")
    classes: int = Field(default=21, ge=1, description="channels of the output; 1: two classes, class 1 where the logit > 0")
    output_stride: Literal[8, 16] = Field(default=16, description="how many times smaller than the input the encoder's output is")

    @property
    def stride(self) -> int:
        """That of the encoder's output."""
        return self.output_stride

    @classmethod
    def guess_options(cls, shapes: Shapes) -> Iterable[dict[str, Any]]:
        """Return the encoders whose first convolution has this name; the output stride does not show in the tensors."""
        if "decoder.aspp.0.convs.0.0.weight" not in shapes:
            return
        for encoder, stem in _STEMS.items():
            if options := channels_and_classes(shapes, f"encoder.{stem}.weight", "segmentation_head.0.weight"):
                yield {"encoder": encoder, **options}

    def build(self) -> nn.Module:
        """Build the module."""
        encoder, stride = _ENCODERS.get(self.encoder, self.encoder), self.output_stride
        return make_network(
            "DeepLabV3Plus", encoder, channels=self.channels, classes=self.classes, stride=stride, encoder_output_stride=stride
        )
