"""The physical size of a TIFF's pixels: from OME-XML, ImageJ or the software of a microscope, else from the resolution tags.

Resolution tags seldom give the size of the specimen: programs write 72, 96 or 300 dots per inch into pictures of
anything. The rule:

- above 9600 dots per inch (pixels below 2.6 micrometres): a size in any unit, as no screen, printer or scanner is so fine;
- in centimetres: a size below 50 micrometres, except 72, 96 and multiples of 100 or 720 dots per inch, as printers and scanners have;
- in millimetres and micrometres: a size, as only microscopes write these units;
- in inches: otherwise no size.

A note names a resolution that is not used. Slide scanners are known by their format: their resolution is always a size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.raster import PlaneStep
from pipeline.readers._ome_xml import Physical, ome_physical
from pipeline.readers._units import is_plausible, micrometers, seconds

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET

    import tifffile

__all__ = ["physical_size"]

Size = tuple[float, float] | None
Source = Callable[["tifffile.TiffPage"], Physical | None]
MOST_DOTS = 9605  # per inch: a scanner's 9600, with a margin for rounding
UNITS = {2: "inch", 3: "cm", 4: "mm", 5: "µm"}
SCANNERS = {"ndpi": "Hamamatsu", "scn": "Leica", "qpi": "PerkinElmer"}  # tifffile's names of formats whose resolution tags are sizes


def physical_size(page: tifffile.TiffPage, kind: str, element: ET.Element | None) -> tuple[Physical, str]:
    """Return the size of a pixel of the largest level, and its source; the source is empty if the size is unknown.

    Args:
        page: the first of the largest level.
        kind: tifffile's name for the format of the image.
        element: the image in the OME-XML.
    """
    ome = ome_physical(element) if element is not None else None
    if ome is not None and ome.size:
        return ome, "OME-XML"
    known = ome.notes if ome is not None else ()
    steps = ome.steps if ome is not None else {}
    for source, read in _sources(kind).items():
        found = read(page)
        if found is None:
            continue
        steps = steps | found.steps
        if found.size is None or all(map(is_plausible, found.size)):
            return Physical(found.size, found.offset, steps, (*known, *found.notes)), source if found.size else ""
        note = f"{source} gives a pixel of {found.size[0]:g} x {found.size[1]:g} micrometres, which is no size: it is ignored"
        return Physical(None, (0.0, 0.0), steps, (*known, note)), ""
    return Physical(None, (0.0, 0.0), steps, known), ""


def _sources(kind: str) -> dict[str, Source]:
    """Return the sources that may state the size of an image of this kind, the most trusted first."""
    known: dict[str, Source] = {
        "ImageJ": _imagej,
        "Aperio": _aperio,
        "Ventana": _ventana,
        "Philips": _philips,
        "FEI": _fei,
        "Zeiss SEM": _zeiss_sem,
    }
    if kind in SCANNERS:
        return {SCANNERS[kind]: _scanner}
    return known | {"resolution tag": _resolution_tag}


def _tag_size(page: tifffile.TiffPage, unit: str | tuple[str, str]) -> Size:
    """Return the (y, x) size of a pixel in micrometres from the resolution tags, in one unit or one for each axis."""
    sizes = []
    for code, name in zip((283, 282), (unit, unit) if isinstance(unit, str) else unit, strict=True):
        pixels = page.tags.valueof(code)
        size = micrometers(pixels[1] / pixels[0] if pixels and pixels[0] else math.nan, name)
        if size is None:
            return None
        sizes.append(size)
    return sizes[0], sizes[1]


def _resolution_tag(page: tifffile.TiffPage) -> Physical | None:
    """Return the size that the resolution tags give by the rule of this module."""
    unit = UNITS.get(int(page.tags.valueof(296, default=2)), "")
    size = _tag_size(page, unit)
    if size is None:
        return None
    if all(_is_size(side, unit) for side in size):
        return Physical(size)
    # Programs write one pixel an inch or a centimetre where they do not know the size: no note is needed.
    return None if min(size) >= 10000 else Physical(notes=(_left_alone(size),))


def _left_alone(size: tuple[float, float]) -> str:
    dots = " x ".join(f"{25400 / side:.4g}" for side in dict.fromkeys(size) if side)
    return f"{dots} dots per inch are not taken for the pixel size, as screens, printers and scanners have them: set reader.pixel_size"


def _is_size(size_um: float, unit: str) -> bool:
    """Whether the resolution tag of a picture gives the size of the specimen.

    Example:
        >>> [_is_size(25400 / dpi, "inch") for dpi in (72, 300, 4800, 101600)]
        [False, False, False, True]
        >>> [_is_size(size, "cm") for size in (25400 / 600, 352.8, 0.25, 10.0)]
        [False, False, True, True]
    """
    if not is_plausible(size_um):
        return False
    return 25400 / size_um > MOST_DOTS or unit in ("mm", "µm") or (unit == "cm" and size_um < 50 and not _is_printers(size_um))


def _is_printers(size_um: float) -> bool:
    """Whether this is a common resolution of screens, printers or scanners, in whole dots per inch."""
    dots = 25400 / size_um if size_um else 0.0
    is_usual = any(abs(dots - round(dots / step) * step) < 0.05 for step in (100, 720)) or round(dots, 1) in (72, 96)
    return 0 < dots <= MOST_DOTS and is_usual


def _scanner(page: tifffile.TiffPage) -> Physical | None:
    size = _tag_size(page, UNITS.get(int(page.tags.valueof(296, default=2)), ""))
    return Physical(size) if size else None


def _imagej(page: tifffile.TiffPage) -> Physical | None:
    """Return ImageJ's calibration: pixel size from the resolution tags in ImageJ's unit, origin, z spacing and frame interval."""
    facts = page.parent.imagej_metadata
    if not facts:
        return None
    unit = str(facts.get("unit", ""))
    size = _tag_size(page, (str(facts.get("yunit", unit)), unit))
    notes: tuple[str, ...] = ()
    is_inch = unit.lower().startswith("in")
    # ImageJ turns the resolution tag of any picture that it opens into a calibration in inches or centimetres.
    if size and any(not _is_size(side, "inch") if is_inch else unit == "cm" and _is_printers(side) for side in size):
        notes = (_left_alone(size),)
        size = None
    origin = [_number(facts.get(f"{axis}origin")) or 0.0 for axis in "yxz"]
    offset = (-origin[0] * size[0], -origin[1] * size[1]) if size else (0.0, 0.0)
    steps = {}
    step = micrometers(_number(facts.get("spacing")), str(facts.get("zunit", unit)))
    if step is not None and is_plausible(abs(step)):
        steps["z"] = PlaneStep(abs(step), "micrometer", -origin[2] * abs(step))
    interval = seconds(_number(facts.get("finterval")), str(facts.get("tunit", "sec")))
    if interval is not None and interval > 0:
        steps["t"] = PlaneStep(interval, "second")
    return Physical(size, offset, steps, notes)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _square(size_um: str | float | None, unit: str = "um") -> Physical | None:
    size = micrometers(size_um, unit)
    return None if size is None else Physical((size, size))


def _aperio(page: tifffile.TiffPage) -> Physical | None:
    found = re.search(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)", page.description) if page.is_svs else None
    return _square(found[1]) if found else None


def _ventana(page: tifffile.TiffPage) -> Physical | None:
    packet = page.tags.valueof(700) if page.parent.is_bif else None
    text = packet.decode("utf-8", errors="replace") if isinstance(packet, bytes) else str(packet or "")
    found = re.search(r'<iScan\b[^>]*\bScanRes\s*=\s*"([^"]+)"', text)
    return _square(found[1]) if found else None


def _philips(page: tifffile.TiffPage) -> Physical | None:
    """Return the pixel size of the largest level: the smallest of the spacings (millimetres) that the file lists."""
    text = (page.parent.philips_metadata or "").replace("&quot;", '"')
    pairs = re.findall(r'Name="DICOM_PIXEL_SPACING"[^>]*>\s*"([^"]+)"\s+"([^"]+)"', text)
    sizes = [(y, x) for y, x in ((micrometers(row, "mm"), micrometers(column, "mm")) for row, column in pairs) if y and x]
    return Physical(min(sizes)) if sizes else None


def _fei(page: tifffile.TiffPage) -> Physical | None:
    scan = (page.parent.fei_metadata or {}).get("Scan", {}) if page.parent.is_fei else {}
    y, x = (micrometers(_number(scan.get(name)), "m") for name in ("PixelHeight", "PixelWidth"))
    return Physical((y, x)) if y is not None and x is not None else None


def _zeiss_sem(page: tifffile.TiffPage) -> Physical | None:
    """Return the size that a Zeiss electron microscope writes as (label, number, unit)."""
    facts = (page.parent.sem_metadata or {}) if page.parent.is_sem else {}
    stated = facts.get("ap_image_pixel_size") or facts.get("ap_pixel_size")
    return _square(stated[1], stated[2]) if isinstance(stated, tuple) and len(stated) == 3 else None
