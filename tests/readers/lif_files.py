"""Writes LIF files as "Leica Image File Formats" 3.2 says: an XML header in UTF-16, and a block of pixels for each image."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

DIM_IDS = {"x": 1, "y": 2, "z": 3, "t": 4, "w": 5, "m": 10}  # w: emission wavelength
ORDER = "mtzc"  # from the slowest axis to the fastest, before y and x


@dataclass
class Image:
    """One image, its pixels with axes such as ``mtzcyx``, or ``yxc`` for colours that lie side by side."""

    name: str
    pixels: np.ndarray
    axes: str
    steps: Mapping[str, float] = field(default_factory=dict)  # by axis, metres; seconds for t
    channels: Sequence[Mapping[str, object]] = ()  # name (look-up table), dye, tag, bits
    tiles: Sequence[Mapping[str, object]] = ()  # attributes of each Tile
    scan: Mapping[str, object] = field(default_factory=dict)  # attributes of TileScanInfo


def element(image, number):
    """The XML of an image."""
    size, strides = dict(zip(image.axes, image.pixels.shape, strict=True)), dict(zip(image.axes, image.pixels.strides, strict=True))
    dimensions = "".join(
        f'<DimensionDescription DimID="{DIM_IDS[axis]}" NumberOfElements="{size[axis]}" Origin="0" BitInc="0" BytesInc="{strides[axis]}"'
        f' Length="{image.steps.get(axis, 0) * (size[axis] - 1)}" Unit="{"s" if axis == "t" else "m"}"/>'
        for axis in reversed(image.axes)  # LAS X lists x first
        if axis != "c"
    )
    channels = ""
    for index in range(size.get("c", 1)):
        said = dict(image.channels[index]) if index < len(image.channels) else {}
        bits = said.get("bits", 8 * image.pixels.itemsize)
        dye = f"<ChannelProperty><Key>DyeName</Key><Value>{said['dye']}</Value></ChannelProperty>" if "dye" in said else ""
        channels += (
            f'<ChannelDescription DataType="{int(image.pixels.dtype.kind == "f")}" ChannelTag="{said.get("tag", 0)}" Resolution="{bits}"'
            f' NameOfMeasuredQuantity="" Min="0" Max="1" Unit="" LUTName={quoteattr(said.get("name", "Gray"))} IsLUTInverted="0"'
            f' BytesInc="{index * strides.get("c", 0)}" BitInc="0">{dye}</ChannelDescription>'
        )
    attributes = lambda values: " ".join(f'{key}="{value}"' for key, value in values.items())
    tiles = "".join(f"<Tile {attributes(tile)}/>" for tile in image.tiles)
    scan = f'<Attachment Name="TileScanInfo" {attributes(image.scan)}>{tiles}</Attachment>' if image.tiles else ""
    return (
        f'<Element Name={quoteattr(image.name)} Visibility="1"><Data><Image><ImageDescription><Channels>{channels}</Channels>'
        f"<Dimensions>{dimensions}</Dimensions></ImageDescription>{scan}</Image></Data>"
        f'<Memory Size="{image.pixels.nbytes}" MemoryBlockID="MemBlock_{number}"/></Element>'
    )


def write_lif(path, images: Sequence[Image], prefix: str = ""):
    """Write images; ``prefix`` goes before the XML."""
    parts = "".join(element(image, number) for number, image in enumerate(images))
    xml = (
        f'{prefix}<LMSDataContainerHeader Version="2"><Element Name="project.lif"><Data><Experiment Path=""/></Data>'
        f'<Memory Size="0" MemoryBlockID="MemBlock_9"/><Children>{parts}</Children></Element></LMSDataContainerHeader>'
    )
    text = xml.encode("utf-16-le")
    with Path(path).open("wb") as file:
        file.write(struct.pack("<IIBI", 0x70, len(text) + 5, 0x2A, len(text) // 2) + text)
        for number, image in enumerate(images):
            name = f"MemBlock_{number}".encode("utf-16-le")
            head = struct.pack("<BQBI", 0x2A, image.pixels.nbytes, 0x2A, len(name) // 2)
            file.write(struct.pack("<II", 0x70, len(head) + len(name)) + head + name + image.pixels.tobytes())
