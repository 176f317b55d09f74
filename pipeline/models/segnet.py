"""SegNet (Badrinarayanan, Kendall and Cipolla 2015, arXiv:1511.00561)."""

from __future__ import annotations

from typing import ClassVar

from pipeline.models._segnet_base import SegNetBase
from pipeline.models.networks import SegNetLayers

__all__ = ["SegNet"]


class SegNet(SegNetBase):
    """The SegNet of the paper: the 13 convolutions of VGG16, max-pooling, and a mirrored decoder that unpools by the poolings' indices.

    29,449,355 parameters for three channels and 11 classes. As in the authors' own files, each 3x3 convolution has a bias,
    batch norm and ReLU, except the last, which computes the logits. The field of 186 pixels holds where tiles lie on the
    grid of the stride, 32.

    Example::

        model: {name: segnet, channels: 3, classes: 11}
    """

    layers: ClassVar[SegNetLayers] = SegNetLayers(
        encoder=((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
        decoder=((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,)),
        kernel=3,
        head=3,
        is_rectified=True,
        is_normalized=False,
    )
