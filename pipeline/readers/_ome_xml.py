"""Pixel size, steps between planes, position and channels of one image, from the OME-XML of a TIFF."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import unescape
from xml.etree import ElementTree as ET

from pipeline.raster import PlaneStep
from pipeline.readers._units import is_plausible, micrometers, seconds
from pipeline.readers._world_file import parse_xml

__all__ = ["Physical", "find_images", "listed_files", "metadata_file", "ome_channel_names", "ome_physical", "significant_bits"]


@dataclass(frozen=True)
class Physical:
    """Size and position of an image from one source, in micrometres and seconds."""

    size: tuple[float, float] | None = None  # (y, x) of a pixel of the largest level
    offset: tuple[float, float] = (0.0, 0.0)  # (y, x) of the first pixel's corner
    steps: dict[str, PlaneStep] = field(default_factory=dict)  # of the axes t and z
    notes: tuple[str, ...] = ()


def find_images(text: str, wanted: Sequence[tuple[str | None, int, int]], path: str) -> list[ET.Element | None]:
    """Return the Image element of each wanted image (name or None for any, height, width), matched in document order.

    Raises:
        InputError: the XML has a document type.
    """
    try:
        elements = iter(parse_xml(text, path).findall("{*}Image"))
    except ET.ParseError:
        return [None] * len(wanted)
    return [next((element for element in elements if _fits(element, *image)), None) for image in wanted]


def _fits(image: ET.Element, name: str | None, height: int, width: int) -> bool:
    pixels = image.find("{*}Pixels")
    is_named = name is None or image.get("Name", "") == name
    return pixels is not None and is_named and (pixels.get("SizeY"), pixels.get("SizeX")) == (str(height), str(width))


def listed_files(text: str) -> list[str]:
    """Return the names of the files that hold the planes of an image, by a search that parses no XML: it may be long.

    Example:
        >>> listed_files('<UUID FileName="b.ome.tif">urn:uuid:1</UUID><UUID FileName="a&amp;b.tif"/><UUID FileName="b.ome.tif"/>')
        ['b.ome.tif', 'a&b.tif']
    """
    return [unescape(name) for name in dict.fromkeys(re.findall(r'<(?:\w+:)?UUID\s[^>]*?FileName\s*=\s*"([^"]+)"', text))]


def metadata_file(text: str) -> str:
    """Return the file that holds the OME-XML, for a file that only refers to it; empty if the file has its own.

    Example:
        >>> metadata_file('<OME><BinaryOnly MetadataFile="a.companion.ome" UUID="urn:uuid:1"/></OME>'), metadata_file("<OME/>")
        ('a.companion.ome', '')
    """
    found = re.search(r'<(?:\w+:)?BinaryOnly\s[^>]*?MetadataFile\s*=\s*"([^"]+)"', text[: 1 << 16])
    return unescape(found[1]) if found else ""


def ome_physical(image: ET.Element) -> Physical | None:
    """Return the sizes of an image; None if it states none. Sizes in pixels or in a unit that is no length do not count."""
    pixels = image.find("{*}Pixels")
    if pixels is None:
        return None
    notes = []
    sizes: dict[str, float | None] = {}
    for axis in "YXZ":
        stated, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        sizes[axis] = micrometers(stated, unit)
        if stated is not None and not is_plausible(sizes[axis]):
            notes.append(f"PhysicalSize{axis} {stated!r} {unit} of the OME-XML is no size: it is ignored")
            sizes[axis] = None
    offsets = _positions(pixels)
    steps = {"z": PlaneStep(sizes["Z"], "micrometer", offsets.get("Z", 0.0))} if sizes["Z"] else {}
    interval = seconds(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s"))
    if interval is not None and interval > 0:
        steps["t"] = PlaneStep(interval, "second")
    size = (sizes["Y"], sizes["X"]) if sizes["Y"] and sizes["X"] else None
    if size is None and not steps and not notes:
        return None
    return Physical(size, (offsets.get("Y", 0.0), offsets.get("X", 0.0)) if size else (0.0, 0.0), steps, tuple(notes))


def _positions(pixels: ET.Element) -> dict[str, float]:
    """Return the position along each axis in micrometres, if all planes state the same; Z is that of the first z plane."""
    planes = pixels.findall("{*}Plane")
    found = {}
    for axis in "YXZ":
        chosen = [plane for plane in planes if axis != "Z" or plane.get("TheZ") == "0"]
        stated = {(plane.get(f"Position{axis}"), plane.get(f"Position{axis}Unit", "reference frame")) for plane in chosen}
        places = {micrometers(*one) for one in stated}
        if len(places) == 1 and (place := places.pop()) is not None:
            found[axis] = place
    return found


def ome_channel_names(image: ET.Element) -> tuple[str, ...]:
    """Return a name for each channel: Name, else Fluor, else ``channel N``; empty if no channel has a Name or Fluor.

    Channels of several samples, such as one that holds red, green and blue, are not named one by one.
    """
    channels = image.findall("{*}Pixels/{*}Channel")
    names = [channel.get("Name") or channel.get("Fluor") or "" for channel in channels]
    if not any(names) or any(channel.get("SamplesPerPixel", "1") != "1" for channel in channels):
        return ()
    return tuple(name or f"channel {index}" for index, name in enumerate(names))


def significant_bits(image: ET.Element | None) -> int:
    """Return the number of used bits of a sample; 0 if the XML does not say."""
    stated = "" if image is None else image.find("{*}Pixels").get("SignificantBits", "")  # type: ignore[union-attr]  # find_images saw it
    return int(stated) if stated.isdigit() else 0
