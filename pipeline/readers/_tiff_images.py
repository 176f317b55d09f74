"""The images of a TIFF, and the choice of one. Files whose directories or XML could exhaust the machine are refused."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from xml.etree import ElementTree as ET

from pipeline.errors import InputError, Problem, one_of
from pipeline.readers import Member, Reader
from pipeline.readers._files import is_remote, local_path
from pipeline.readers._layout import MOST_PIXELS
from pipeline.readers._ome_xml import find_images, listed_files, metadata_file
from pipeline.readers._remote_file import RemoteFile
from pipeline.readers._series import choose_series, series_members

if TYPE_CHECKING:
    import tifffile

__all__ = ["choose_image", "find_mask", "images_of", "members_of", "missing_files", "opened_tiff", "other_files", "scanner_of"]

MOST_DIRECTORIES = 1 << 16
MOST_MIXED = 1 << 12  # directories of different kinds: tifffile compares every pair
MOST_TEXT, MOST_SEGMENTS = 1 << 25, 1 << 22
COUNT_LIMITS = {270: MOST_TEXT, 273: MOST_SEGMENTS, 279: MOST_SEGMENTS, 324: MOST_SEGMENTS, 325: MOST_SEGMENTS}
DESCRIPTION, SOFTWARE, SUBIFDS = 270, 305, 330
# Pictures of the glass and its label that scanners store with a slide, as tifffile and Bio-Formats name them.
AUXILIARY = re.compile(r"(label|macro|map|thumbnail|overview|barcode)([ _]image)?", re.IGNORECASE)


@dataclass(frozen=True)
class Image:
    """One image of a file, with all its planes, channels and levels."""

    index: int  # among the images of the file, not counting masks
    name: str  # from the file; empty if it has none
    series: tifffile.TiffPageSeries
    is_auxiliary: bool  # whether it is a thumbnail, a label or an overview of another image
    element: ET.Element | None = None  # its Image element in the OME-XML

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width as stored, pixels."""
        page = self.series.keyframe
        return page.imagelength, page.imagewidth

    @property
    def title(self) -> str:
        """The name for messages; the index if it has no name."""
        return self.name or str(self.index)


@contextmanager
def opened_tiff(path: str) -> Iterator[tifffile.TiffFile]:
    """Open a file, or for a multi-file OME-TIFF the file that holds the metadata; nothing is decoded.

    Raises:
        InputError: its directories form a circle or are too many, a tag is too long, or its XML could expand without bound.
    """
    import tifffile

    remote = RemoteFile(path) if is_remote(path) else None
    file = local_path(path) if remote is None else path
    number = _check_directories(remote or file, path)
    if remote is not None:
        remote.seek(0)
    tif = tifffile.TiffFile(cast("BinaryIO", remote) if remote else file)
    try:
        text = _description(tif, path)
        folder = Path(file).parent
        if remote is not None and tif.is_ome:
            _refuse_other_files(text, path)
        elif tif.is_ome and (metadata := metadata_file(text)) and (folder / metadata).is_file():
            tif.close()
            tif = _with_metadata(file, folder / metadata, path)
            text = tif.ome_metadata or ""
        for name in listed_files(text) if tif.is_ome and remote is None else ():
            if (folder / name).is_file():
                _check_directories(str(folder / name), path)
        if number > MOST_MIXED:
            _refuse_mixed(tif, path)
        yield tif
    finally:
        tif.close()


def _refuse_other_files(text: str, path: str) -> None:
    """Refuse an image at a URL whose planes or metadata are in other files: tifffile opens those by local paths."""
    own = path.rpartition("/")[2]
    others = [name for name in (metadata_file(text), *listed_files(text)) if name and name != own]
    if others:
        found = f"an OME-TIFF of several files, such as {others[0]}"
        raise InputError(
            Problem(path, found, "an image in one file", "Copy its files to a disk, or convert it to OME-Zarr: gigaseg convert.")
        )


def _refuse_mixed(tif: tifffile.TiffFile, path: str) -> None:
    """Make tifffile raise when it starts to sort directories by kind: its time for that has no bound."""

    def refuse() -> None:
        raise InputError(Problem(path, f"more than {MOST_MIXED} image directories of different kinds"))

    tif._series_generic = refuse  # type: ignore[method-assign]  # noqa: SLF001 - no public method stops it


def _with_metadata(file: str, other: Path, path: str) -> tifffile.TiffFile:
    """Open a file whose OME-XML is in ``other``: open that if it is a TIFF, else this file with the companion's text."""
    import tifffile

    with other.open("rb") as stream:
        start = stream.read(MOST_TEXT + 1)
    if start[:2] in (b"II", b"MM"):
        _check_directories(str(other), path)
        return tifffile.TiffFile(other)
    if len(start) > MOST_TEXT:
        raise InputError(Problem(path, f"OME-XML of more than {MOST_TEXT >> 20} MiB in {other.name}"))
    return tifffile.TiffFile(file, omexml=_checked_xml(start.decode("utf-8", errors="replace"), path))


def _description(tif: tifffile.TiffFile, path: str) -> str:
    """Return the first page's description, checked because tifffile parses it as XML."""
    return _checked_xml(tif.pages.first.description, path) if tif.pages else ""


def _checked_xml(text: str, path: str) -> str:
    """Return a text; refuse a document type, because tifffile would expand its entities."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(Problem(path, "XML with a document type", "XML without one", "Remove the <!DOCTYPE ...>."))
    return text


def _structure(stream: BinaryIO, file: str) -> tuple[struct.Struct, struct.Struct, struct.Struct, int]:
    """Return the layout of directories (number of tags, one tag, pointer to the next) and the offset of the first."""
    start = stream.read(16).ljust(16, b"\0")
    order = {b"II": "<", b"MM": ">"}.get(start[:2], "<")
    if start[2:4] in (b"\x2b\0", b"\0\x2b"):  # BigTIFF
        number, tag, pointer, offset = "Q", "HHQ8x", "Q", start[8:]
    elif file.lower().endswith(".ndpi"):  # 64-bit offsets in a classic file
        number, tag, pointer, offset = "H", "HHI4x", "Q", start[4:12]
    else:
        number, tag, pointer, offset = "H", "HHI4x", "I", start[4:8]
    structs = [struct.Struct(order + code) for code in (number, tag, pointer)]
    return structs[0], structs[1], structs[2], structs[2].unpack(offset)[0]


def _may_be_ome(file: str) -> bool:
    """Whether the first description ends like OME-XML: a quick test that spares most files from tifffile."""
    with Path(file).open("rb") as stream:
        number, tag, pointer, at = _structure(stream, file)
        stream.seek(at)
        count = min(number.unpack(stream.read(number.size).ljust(number.size, b"\0"))[0], 4096)
        body = stream.read(count * tag.size)
        for start in range(0, len(body) - tag.size + 1, tag.size):
            code, _, length = tag.unpack_from(body, start)
            if code == DESCRIPTION:
                stream.seek(pointer.unpack_from(body, start + tag.size - pointer.size)[0] + max(0, length - 64))
                return b"OME>" in stream.read(64)
    return False


def _check_directories(file: str | RemoteFile, path: str) -> int:
    """Count the directories by following their offsets. A chain that breaks off is accepted: tifffile reads what is there."""
    with nullcontext(cast("BinaryIO", file)) if isinstance(file, RemoteFile) else Path(file).open("rb") as stream:
        number, tag, pointer, at = _structure(stream, path)
        seen: set[int] = set()
        num_sub = 0
        while at:
            if at in seen:
                raise InputError(Problem(path, f"a chain of image directories that returns to its start after {len(seen)}"))
            seen.add(at)
            stream.seek(at)
            count = number.unpack(stream.read(number.size).ljust(number.size, b"\0"))[0]
            body = stream.read(count * tag.size + pointer.size) if count <= 4096 else b""
            if len(body) < count * tag.size + pointer.size:
                break
            num_sub += _check_tags(tag, body[: count * tag.size], path)
            if len(seen) + num_sub > MOST_DIRECTORIES:
                raise InputError(Problem(path, f"more than {MOST_DIRECTORIES} image directories"))
            at = pointer.unpack(body[-pointer.size :])[0]
        return len(seen) + num_sub


def _check_tags(tag: struct.Struct, body: bytes, path: str) -> int:
    """Return the number of sub-directories; refuse tags whose values would exhaust memory."""
    num_sub = 0
    for code, _, length in tag.iter_unpack(body):
        if length > COUNT_LIMITS.get(code, length):
            raise InputError(Problem(path, f"a tag {code} of {length} values", f"at most {COUNT_LIMITS[code]}"))
        num_sub += length if code == SUBIFDS else 0
    return num_sub


def other_files(path: str) -> list[str]:
    """Return the files beside a TIFF that hold planes or the OME-XML of the same image; empty for other files."""
    import tifffile

    if is_remote(path):
        return []  # an image of several files is refused
    file = Path(local_path(path))
    if not _may_be_ome(str(file)):
        return []
    _check_directories(str(file), path)
    with tifffile.TiffFile(file) as tif:
        text = tif.pages.first.description if tif.pages and tif.is_ome else ""
    names = listed_files(text)
    if metadata := metadata_file(text):
        other = file.parent / metadata
        names = [metadata, *_files_of(other)] if other.is_file() else [metadata]
    folder = path[: len(path) - len(file.name)]
    return [f"{folder}{name}" for name in names if name != file.name]


def _files_of(other: Path) -> list[str]:
    """Return the files that an OME-XML lists; it may be a text file or in a TIFF."""
    with other.open("rb") as stream:
        start = stream.read(MOST_TEXT)
    if start[:2] in (b"II", b"MM"):
        return [Path(name).name for name in other_files(str(other))]
    return listed_files(start.decode("utf-8", errors="replace"))


def missing_files(tif: tifffile.TiffFile, path: str) -> str:
    """Return a note on files that an OME-TIFF names but that are missing; empty if none is."""
    text = tif.ome_metadata or "" if tif.is_ome else ""
    if is_remote(path):
        return ""
    folder = Path(local_path(path)).parent
    if metadata := metadata_file(text):
        return f"the OME-XML is in {metadata}, which is missing: axes, sizes and names are unknown"
    absent = [name for name in listed_files(text) if not (folder / name).is_file()]
    absent = absent if any(series.is_multifile or None in series.pages for series in tif.series) else []
    more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
    return f"files with planes of this image are missing: {', '.join(absent[:3])}{more}" if absent else ""


def scanner_of(tif: tifffile.TiffFile) -> str:
    """Return the scanner of a slide that the reader `slide` reads because its tags do not tell everything; empty for other files."""
    marks = {"Philips": tif.is_philips, "Leica": tif.is_scn, "Ventana": tif.is_bif, "Hamamatsu": tif.is_ndpi}
    trestle = str(tif.pages.first.tags.valueof(SOFTWARE, "")).startswith("MedScan") if tif.pages else False
    return next((name for name, is_made in marks.items() if is_made), "Trestle" if trestle else "")


def images_of(tif: tifffile.TiffFile, path: str) -> list[Image]:
    """Return the images of a file in tifffile's order, without mask pages.

    Raises:
        InputError: the file holds no image, or one that is too large.
    """
    listed = [series for series in tif.series if not series.keyframe.is_mask] or list(tif.series)
    if not listed:
        raise InputError(Problem(path, "a TIFF without an image"))
    if any(_mixes_masks(tif, series) for series in listed):
        expected = "a photometric tag that marks masks"
        raise InputError(Problem(path, "mask pages without a mark", expected, "Store the mask in NAME.tif.msk."))
    sizes = [(series.keyframe.imagelength, series.keyframe.imagewidth) for series in listed]
    if max(height * width for height, width in sizes) > MOST_PIXELS:
        listing = one_of([f"{height} x {width}" for height, width in sizes[:3]])
        raise InputError(Problem(path, f"an image of {listing} pixels", f"at most {MOST_PIXELS} pixels a plane"))
    elements: Sequence[ET.Element | None] = [None] * len(listed)
    if tif.is_ome and tif.ome_metadata:
        wanted = [(series.name if series.kind == "ome" else None, *size) for series, size in zip(listed, sizes, strict=True)]
        elements = find_images(tif.ome_metadata, wanted, path)
    overviews = _scn_overviews(tif) if tif.is_scn else ()
    return [
        Image(index, _name(series, element), series, _is_auxiliary(series) or index in overviews, element)
        for index, (series, element) in enumerate(zip(listed, elements, strict=True))
    ]


def _mixes_masks(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> bool:
    """Whether tifffile took the mask page after an image for the next plane: both may be stored alike."""
    behind = series.pages[1:2] if series.kind in ("uniform", "generic") and not series.keyframe.is_mask else []
    pages = [tif.pages.get(page.index, aspage=True) for page in behind if page is not None and not page.is_subifd]
    return any(getattr(page, "is_mask", False) for page in pages)


def _name(series: tifffile.TiffPageSeries, element: ET.Element | None) -> str:
    name = (series.name or "").strip()
    return name or (element.get("Name", "") if element is not None else "")


def _is_auxiliary(series: tifffile.TiffPageSeries) -> bool:
    return series.keyframe.is_reduced or AUXILIARY.fullmatch((series.name or "").strip()) is not None


def _scn_overviews(tif: tifffile.TiffFile) -> set[int]:
    """Return the indices of the images of a Leica SCN that show the whole glass: their view equals the collection's."""
    images: list[bool] = []
    for collection in ET.fromstring(tif.pages.first.description).findall("{*}collection"):  # noqa: S314 - _description refused entities
        whole = collection.get("sizeX"), collection.get("sizeY")
        for image in collection.findall("{*}image"):
            view = image.find("{*}view")
            shown = (view.get("sizeX"), view.get("sizeY")) if view is not None else None
            images += [shown == whole] * len(image.findall("{*}pixels"))
    overviews = {index for index, is_overview in enumerate(images) if is_overview}
    return overviews if len(overviews) < len(images) else set()


def _own_images(images: Sequence[Image]) -> list[Image]:
    """Return the images but thumbnails, labels and overviews; all images if there are no others."""
    return [image for image in images if not image.is_auxiliary] or list(images)


def choose_image(options: Reader, images: Sequence[Image], path: str) -> tuple[Image, tuple[str, ...]]:
    """Return the image that ``reader.series`` chooses by index, name or OME identifier, and notes on other images.

    Raises:
        InputError: no image or several images have this name.
    """
    named = [image for image in images if image.element is not None and image.element.get("ID") == options.series]
    if named:
        return named[0], ()
    listed = _own_images(images) if options.series in ("largest", "all") else images
    areas = [image.shape[0] * image.shape[1] for image in listed]
    index, notes = choose_series(options, [image.title for image in listed], areas, path)
    chosen = listed[index]
    shape = f"{chosen.shape[0]} x {chosen.shape[1]} pixels"
    return chosen, tuple(f"{note}; this one has {shape} and index {chosen.index}" for note in notes)


def members_of(options: Reader, images: Sequence[Image], path: str) -> list[Member]:
    """Return every image but thumbnails, labels and overviews, with ``series: all``."""
    own = _own_images(images)
    members = series_members(options, [image.title for image in own], path)
    return [replace(member, options={"series": image.index}) for member, image in zip(members, own, strict=False)]


def find_mask(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[tifffile.TiffPageSeries, int] | None:
    """Return the mask series of a page's size, else the largest, and the index of its first mask after the page."""
    masks = [level for series in tif.series if series.keyframe.is_mask for level in series.levels if level.keyframe is not page]
    fitting = [level for level in masks if level.keyframe.shaped[2:4] == page.shaped[2:4]]
    pages = [(level, number, one) for level in fitting for number, one in enumerate(level.pages) if one is not None]
    for level, number, one in pages:
        if one.index > page.index:
            return level, number
    largest = max(masks, key=lambda level: level.keyframe.imagelength, default=None)
    return pages[0][:2] if pages else (largest, 0) if largest else None
