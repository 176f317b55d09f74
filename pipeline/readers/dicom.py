"""DICOM whole slides: one level of the pyramid of a series. A read decodes only the frames that its box touches."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError, InputError, Problem
from pipeline.geometry import Box
from pipeline.raster import Header, PlaneStep, Raster
from pipeline.readers import Member, Reader, known_suffixes
from pipeline.readers._dicom_level import DicomLevel
from pipeline.readers._files import local_path, opening, reading
from pipeline.readers._layout import Layout, check_level, decoded_bytes, make_header, resolve_layout

if TYPE_CHECKING:
    from wsidicom.file.io import WsiDicomReader

__all__ = ["Dicom"]

IMPORTING = Lock()

SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
FIRST_ELEMENTS = (0x00080008, 0x00080016, 0x00080060)  # ImageType, SOPClassUID, Modality
SERIES, OPTICAL_PATHS = 0x0020000E, 0x00480105
SAME_PLACE = 0.02  # millimetres; the corners of two levels of one image may differ by so much


class Dicom(Reader):
    """DICOM whole slides, named by an instance or by the folder of a series.

    All instances of a series in the folder are one image: each holds a level, a focal plane (z), an optical path (a channel), or a part
    of one. Labels, overviews and thumbnails are never read. Tiles that a sparse instance omits hold no data. A series
    that scanned several areas of a slide holds one image each; `series` chooses. Colours are read as stored; ICC profiles are not
    applied.

    Example::

        reader: {name: dicom, level: 0}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".dcm",)
    packages: ClassVar[tuple[str, ...]] = ("wsidicom",)
    extra: ClassVar[str] = "slide"

    def claims(self, path: str) -> bool:
        """Whether the path ends in ``.dcm``, or is a folder that holds the instances of one slide and no other images."""
        return super().claims(path) or (not self.missing(path) and _is_slide_folder(path.removeprefix("file://")))

    def companions(self, path: str) -> Sequence[str]:
        """Return the other instances of the series in the folder: together they are one image."""
        file = path.removeprefix("file://")
        if self.missing(path) or not Path(file).is_file() or (own := _instance(file)) is None or own.kind != SLIDE:
            return ()
        return [one for one in _instances(Path(file).parent, own.series) if one != file]

    def members(self, path: str) -> Sequence[Member]:
        """With ``series: all``, every scanned area of a slide."""
        if self.series != "all":
            return ()
        with opening(path), ExitStack() as stack:
            count = len(_images(_open_files(_files(local_path(path), path), stack, path)))
        return [Member(str(index), path, {"series": index}) for index in range(count)] if count > 1 else ()

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Open the instances of one level; no frame is decoded."""
        with ExitStack() as stack:
            with opening(path):
                files = _files(local_path(path), path)
                raster = _open_raster(self, _open_files(files, stack, path), path)
            try:
                yield raster
            finally:
                raster.is_over = True


@dataclass(frozen=True)
class _Instance:
    """The first elements of a DICOM file."""

    kind: str  # unique identifier of the storage class
    modality: str  # such as `SM` or `CT`
    series: str  # unique identifier
    flavor: str  # what it shows: `VOLUME` (the slide itself), `LABEL`, `OVERVIEW` or `THUMBNAIL`


def _instance(path: str) -> _Instance | None:
    """Read the first elements of a file; None if it is no DICOM file."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return _read_instance(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1 << 16)
def _read_instance(path: str, mtime_ns: int, size: int) -> _Instance | None:
    with IMPORTING:  # its modules import each other: two threads that begin together may see half of one
        from pydicom.filereader import read_partial

    del mtime_ns, size  # part of the cache key: a changed file is read again
    try:
        with Path(path).open("rb") as stream:
            stream.seek(128)
            if stream.read(4) != b"DICM":
                return None
            stream.seek(0)
            data = read_partial(stream, stop_when=lambda tag, _, __: tag > SERIES, specific_tags=[*FIRST_ELEMENTS, SERIES])
        flavor = [*data.get("ImageType", ()), "", "", ""][2]
        return _Instance(str(data.get("SOPClassUID", "")), str(data.get("Modality", "")), str(data.get("SeriesInstanceUID", "")), flavor)
    except Exception:  # noqa: BLE001 - a damaged file raises anything; it is no instance of any series
        return None


def _named_as_instance(file: Path) -> bool:
    """Whether a file may be an instance by its name: ``.dcm``, or a DICOM identifier, which ends in numbers."""
    is_named = file.suffix.lower() == ".dcm" or not file.suffix.strip(".").isalpha()
    return is_named and not file.name.startswith(".") and file.name != "DICOMDIR"


def _instances(folder: Path, series: str | None = None) -> list[str]:
    """Return the files of a folder that are instances of slides (of ``series``, if given), sorted by name."""
    files = [str(file) for file in sorted(folder.iterdir()) if _named_as_instance(file)]
    return [file for file in files if (one := _instance(file)) and one.kind == SLIDE and series in (None, one.series)]


def _is_slide_folder(path: str) -> bool:
    """Whether a folder holds the instances of one slide, and no other image files."""
    folder = Path(path)
    if not folder.is_dir():
        return False
    other = tuple(suffix for suffix in known_suffixes() if suffix != ".dcm")
    series: set[str] = set()
    with suppress(OSError):
        for file in folder.iterdir():
            if file.name.lower().endswith(other):
                return False
            if _named_as_instance(file):  # so may be chunks of Zarr arrays and folders
                if (one := _instance(str(file))) is None or one.kind != SLIDE:
                    return False
                series.add(one.series)
    return len(series) == 1


def _files(file: str, path: str) -> list[str]:
    """Return the instances of the slide at a path, a file or a folder; refuse what is no slide."""
    if not Path(file).exists():
        raise InputError(Problem(path, "no file at this path"))
    if Path(file).is_dir():
        files = _instances(Path(file))
        if len({one.series for name in files if (one := _instance(name))}) != 1:
            raise InputError(Problem(path, "a folder", "the instances of one DICOM slide", "Name one of its files."))
        return files
    own = _instance(file)
    if own is None:
        raise InputError(Problem(path, "a file that is no DICOM file, or is damaged"))
    if own.kind != SLIDE:
        from pydicom.uid import UID

        found = f"a DICOM file of modality {own.modality or 'unknown'} ({UID(own.kind).name})"
        raise InputError(Problem(path, found, "a whole slide (modality SM)"))
    return _instances(Path(file).parent, own.series)


def _open_files(files: Sequence[str], stack: ExitStack, path: str) -> list[WsiDicomReader]:
    """Open the instances that show the slide itself. If one cannot be read, refuse all: a level could be missing."""
    from upath import UPath
    from wsidicom.file.io import WsiDicomReader, WsiDicomReadIO

    logging.getLogger("wsidicom").setLevel(logging.CRITICAL)  # our errors name the damage
    shown = [file for file in files if (one := _instance(file)) and one.flavor == "VOLUME"]
    if not shown:
        raise InputError(Problem(path, "a DICOM series without a slide image, such as a label alone"))
    readers = []
    for file in shown:
        stream = stack.enter_context(Path(file).open("rb"))  # noqa: SIM115 - the stack closes it
        try:
            readers.append(WsiDicomReader(WsiDicomReadIO(stream, UPath(file))))
        except Exception as error:
            raise InputError(Problem(path, f"{Path(file).name} of its series, which cannot be read ({error})")) from error
    return readers


def _images(readers: Sequence[WsiDicomReader]) -> list[list[list[WsiDicomReader]]]:
    """Group instances by image and level: images, the largest first; levels, the largest first; instances of one size.

    Instances belong to one image if their corners, rotations and merged focal planes agree.
    """
    images: list[list[list[WsiDicomReader]]] = []
    for reader in sorted(readers, key=lambda one: (-one.dataset.image_size.area, str(one.filepath))):
        image = next((image for image in images if _belongs(reader, image[0][0])), None)
        if image is None:
            images.append([[reader]])
        elif image[-1][0].dataset.image_size == reader.dataset.image_size:
            image[-1].append(reader)
        else:
            image.append([reader])
    return images


def _belongs(reader: WsiDicomReader, first: WsiDicomReader) -> bool:
    one, other = reader.dataset, first.dataset
    if one.ext_depth_of_field != other.ext_depth_of_field:
        return False
    place = one.image_coordinate_system
    return place is None or bool(place.origin_and_rotation_match(other.image_coordinate_system, origin_threshold=SAME_PLACE))


def _open_raster(options: Dicom, readers: Sequence[WsiDicomReader], path: str) -> _DicomRaster:
    """Choose image, level, planes and channels, and make the header."""
    images = _images(readers)
    index = 0 if options.series in ("largest", "all") else options.series
    if not isinstance(index, int) or not 0 <= index < len(images):
        raise InputError(Problem(path, f"reader.series {options.series!r}", f"0..{len(images) - 1}, or largest"))
    levels = tuple((level[0].dataset.image_size.height, level[0].dataset.image_size.width) for level in images[index])
    number = check_level(options, len(levels), path)
    level = DicomLevel(images[index][number], path)
    names, notes = _optical_paths(level)
    shape = (len(level.depths), len(level.paths), *levels[number], level.samples)
    layout = resolve_layout(options, "zcyxs", shape, path, channel_names=names)
    whole_bytes = decoded_bytes(level.tile_bytes, levels[number][0] * levels[number][1] * level.samples * level.dtype.itemsize)
    if len(images) > 1:
        notes = [*notes, f"the series holds {len(images)} images: image {index} is read; `reader.series` chooses another"]
    header = make_header(
        options,
        layout,
        level.dtype,
        **_pixel_size(images[index], number),
        plane_steps=_plane_steps(level, layout),
        has_mask=level.is_sparse,
        bits=level.bits if level.bits < level.dtype.itemsize * 8 else 0,
        is_color=level.samples == 3 and layout.channels == (0, 1, 2),
        is_lossy=any(reader.dataset.lossy_compressed or str(reader.transfer_syntax).endswith(".4.50") for reader in level.readers),
        levels=levels,
        series=str(index) if len(images) > 1 else "",
        whole_bytes=whole_bytes,
        work_bytes=2 * level.tile_bytes,  # a frame, compressed and decoded
        channel_names=names,
        notes=tuple(notes),
    )
    return _DicomRaster(path, header, layout, level)


def _pixel_size(image: Sequence[Sequence[WsiDicomReader]], number: int) -> dict[str, Any]:
    """Return the size of a pixel of a level, derived from the largest level so that levels agree."""
    spacing = image[0][0].dataset.pixel_spacing  # millimetres
    if spacing is None:
        return {}
    base, size = image[0][0].dataset.image_size, image[number][0].dataset.image_size
    return {
        "pixel_size": (float(spacing.height) * 1e3 * base.height / size.height, float(spacing.width) * 1e3 * base.width / size.width),
        "pixel_size_from": "DICOM",
        "unit": "micrometer",
    }


def _plane_steps(level: DicomLevel, layout: Layout) -> dict[str, PlaneStep]:
    """Return the step between the kept focal planes, if they are evenly spaced."""
    depths = [level.depths[index] for index in layout.kept["z"]]
    steps = np.diff(depths)
    if len(depths) < 2 or not steps[0] or not np.allclose(steps, steps[0], atol=1e-3):
        return {}
    return {"z": PlaneStep(float(steps[0]), "micrometer", depths[0])}


def _optical_paths(level: DicomLevel) -> tuple[tuple[str, ...], list[str]]:
    """Return a name for each optical path (none for colours), and a note if an ICC profile is not applied."""
    from pydicom.filereader import read_partial

    described: dict[str, str] = {}
    has_profile = False
    for reader in level.readers:
        with Path(str(reader.filepath)).open("rb") as stream:
            data = read_partial(stream, stop_when=lambda tag, _, __: tag > OPTICAL_PATHS, specific_tags=[OPTICAL_PATHS])
        for item in data.get("OpticalPathSequence", ()):
            identifier = str(item.get("OpticalPathIdentifier", ""))
            described[identifier] = str(item.get("OpticalPathDescription", "") or identifier)
            has_profile |= "ICCProfile" in item
    names = tuple(described.get(identifier, identifier) for identifier in level.paths) if level.samples == 1 else ()
    return names, ["colours are as stored: the slide's ICC profile is not applied"] if has_profile else []


class _DicomRaster(Raster):
    """One level of an open slide; frames are read one at a time and decoded in parallel by threads."""

    def __init__(self, path: str, header: Header, layout: Layout, level: DicomLevel) -> None:
        self.header = header
        self.is_over = False
        self._path, self._layout, self._level = path, layout, level

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Return the pixels; tiles that no instance holds are 0."""
        return self.read_masked(box, plane)[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Decode the frames that the box touches; data are missing where a channel is not stored."""
        level, layout = self._level, self._layout
        out_YXC = np.zeros((*box.shape, len(layout.channels)), level.dtype)
        stored_YX: NDArray[np.bool_] | None = None
        depth = layout.position(plane)["z"]
        samples: dict[int, list[tuple[int, int]]] = {}  # optical path -> (channel of the result, sample of the tile)
        for channel, stored in enumerate(layout.channels):
            samples.setdefault(stored // level.samples, []).append((channel, stored % level.samples))
        with reading(self._path, box):
            for row, column, tile in self._tiles(box):
                part = box.intersection(tile)
                assert part is not None
                rows, columns = part.relative_to(box).slices
                for path_index, pairs in samples.items():
                    if self.is_over:
                        raise BlockError(f"{self._path}: read after it was closed")
                    pixels_YXS = level.decode(path_index, depth, row, column)
                    if pixels_YXS is None:
                        stored_YX = np.ones(box.shape, np.bool_) if stored_YX is None else stored_YX
                        stored_YX[rows, columns] = False
                        continue
                    for channel, sample in pairs:
                        out_YXC[rows, columns, channel] = pixels_YXS[*part.relative_to(tile).slices, sample]
        return np.moveaxis(out_YXC, -1, 0), stored_YX

    def _tiles(self, box: Box) -> Iterator[tuple[int, int, Box]]:
        """Yield row, column and box of each tile that a box touches."""
        height, width = self._level.tile
        for row in range(box.y0 // height, (box.y1 - 1) // height + 1):
            for column in range(box.x0 // width, (box.x1 - 1) // width + 1):
                yield row, column, Box(0, 0, height, width).shift(row * height, column * width)
