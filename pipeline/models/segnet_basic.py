"""SegNet-Basic (Badrinarayanan, Kendall and Cipolla 2015, arXiv:1511.00561)."""

from __future__ import annotations

from typing import ClassVar

from pipeline.models._segnet_base import SegNetBase
from pipeline.models.networks import SegNetLayers

__all__ = ["SegNetBasic"]


class SegNetBasic(SegNetBase):
    """The small SegNet of the paper: four 7x7 convolutions down, four up by the poolings' indices, and a 1x1 classifier.

    1,416,587 parameters for three channels and 11 classes. As in the authors' own files, the input's channels are
    normalised by their neighbours, all convolutions have a bias, all but the classifier have batch norm, and only the encoder
    has ReLUs. The field of 93 pixels holds where tiles lie on the grid of the stride, 16.

    Example::

        model: {name: segnet_basic, channels: 3, classes: 11}
    """

    layers: ClassVar[SegNetLayers] = SegNetLayers(
        encoder=((64,),) * 4, decoder=((64,),) * 4, kernel=7, head=1, is_rectified=False, is_normalized=True
    )
