"""SegNet-Basic (Badrinarayanan, Kendall and Cipolla 2015, arXiv:1511.00561)."""

from __future__ import annotations

from typing import ClassVar

from pipeline.models.segnet import SegNet, Stages

__all__ = ["SegNetBasic"]


class SegNetBasic(SegNet):
    """The small SegNet of the paper: four 7x7 convolutions down, four up by the poolings' indices, and a 1x1 classifier.

    1,416,587 parameters for three channels and 11 classes. As in the authors' own files, the input's channels are
    normalised by their neighbours, all convolutions have a bias, all but the classifier have batch norm, and only the encoder
    has ReLUs. The field of 93 pixels holds where tiles lie on the grid of the stride, 16.

    Example::

        model: {name: segnet_basic, channels: 3, classes: 11}
    """

    code_packages: ClassVar[tuple[str, ...]] = ()
    encoder: ClassVar[Stages] = ((64,),) * 4
    decoder: ClassVar[Stages] = ((64,),) * 4
    kernel: ClassVar[int] = 7
    head: ClassVar[int] = 1
    is_rectified: ClassVar[bool] = False
    is_normalized: ClassVar[bool] = True
