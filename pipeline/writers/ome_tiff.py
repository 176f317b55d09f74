"""OME-TIFF: a mask with its pyramid in SubIFDs, for microscopy programs."""

from __future__ import annotations

from typing import ClassVar

from pipeline.writers import MaskMeta
from pipeline.writers.tiff import Tiff

__all__ = ["OmeTiff"]


class OmeTiff(Tiff):
    """A mask as a tiled OME-TIFF of class ids, its smaller levels in SubIFDs, which Bio-Formats, QuPath and napari read.

    Pixel sizes, steps of z and t, class names and colours are in the OME-XML. With ``of: objects`` it holds ids of objects, 32 bits, in
    the folder ``instances``.

    Example::

        writers: [{name: ome_zarr}, {name: ome_tiff}]
    """

    suffix: ClassVar[str] = ".ome.tif"

    def is_ome(self, meta: MaskMeta) -> bool:
        """Every mask is an OME-TIFF."""
        return True
