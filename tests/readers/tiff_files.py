"""TIFFs of many kinds for tests, and what the reader makes of them."""

from __future__ import annotations

import numpy as np
import tifffile

from pipeline.geometry import Box
from pipeline.plugins import build

GREY = {"photometric": "minisblack", "metadata": None}
RGB = {"photometric": "rgb", "metadata": None}
OME = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{attributes}>{content}</OME>'


def noise(*shape, dtype="uint8", seed=0):
    """The same noise every time, between 1 and 249."""
    return np.random.default_rng(seed).integers(1, 250, shape).astype(dtype)


def header(path, **options):
    """The header of a file."""
    with build("readers", {"name": "tiff", **options}).open(str(path)) as raster:
        return raster.header


def whole(path, plane=0, **options):
    """All pixels (C, Y, X) of a plane, and where there is data, put together from boxes that match no strip or tile."""
    with build("readers", {"name": "tiff", **options}).open(str(path)) as raster:
        height, width = raster.header.shape
        pixels_CYX = np.zeros((raster.header.channels, height, width), raster.header.dtype)
        valid_YX = np.zeros((height, width), bool)
        for y in range(0, height, 37):
            for x in range(0, width, 53):
                box = Box(y, x, y + 37, x + 53).clip((height, width))
                pixels_CYX[:, *box.slices], valid = raster.read_valid(box, plane)
                valid_YX[box.slices] = True if valid is None else valid
                np.testing.assert_array_equal(raster.read(box, plane), pixels_CYX[:, *box.slices])
        return pixels_CYX, valid_YX


def pixels(path, plane=0, **options):
    """All pixels (C, Y, X) of a plane."""
    return whole(path, plane, **options)[0]


def valid(path, plane=0, **options):
    """Where there is data (Y, X)."""
    return whole(path, plane, **options)[1]


def ome_image(index, name, size, *, attributes="", channels="", planes="", files=""):
    """The Image element of one plane (Y, X) a channel; ``files`` are TiffData elements, by default one page after the other."""
    height, width = size
    pages = files or f'<TiffData IFD="{index}" PlaneCount="1"/>'
    num_channels = max(1, channels.count("<Channel"))
    return (
        f'<Image ID="Image:{index}" Name="{name}"><Pixels ID="Pixels:{index}" DimensionOrder="XYCZT" Type="uint8" SizeX="{width}" '
        f'SizeY="{height}" SizeC="{num_channels}" SizeZ="1" SizeT="1" {attributes}>{channels}{pages}{planes}</Pixels></Image>'
    )


def ome_text(content, attributes=""):
    """An OME-XML document."""
    return OME.format(attributes=attributes, content=content)


def write_pages(path, *pages, description=None, **options):
    """A TIFF of pages that may differ in size; the first has the description."""
    with tifffile.TiffWriter(path) as writer:
        for index, page in enumerate(pages):
            kind = "rgb" if page.ndim == 3 else "minisblack"
            writer.write(
                page, photometric=kind, metadata=None, description=description.encode() if description and index == 0 else None, **options
            )
    return path
