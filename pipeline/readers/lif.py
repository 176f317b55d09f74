"""LIF: one image of a Leica file, stored uncompressed and read by region; tile scans as one plane."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.raster import PlaneStep, Raster
from pipeline.readers import Member, Reader
from pipeline.readers._file_bytes import FileBytes, open_bytes
from pipeline.readers._files import opening, reading
from pipeline.readers._layout import Layout, check_level, make_header, resolve_layout
from pipeline.readers._mosaic import Mosaic
from pipeline.readers._remote_file import open_file
from pipeline.readers._series import choose_series, series_members
from pipeline.readers._units import is_plausible, micrometers, seconds

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET

    import liffile

__all__ = ["Lif"]

AXES = {"1": "x", "2": "y", "3": "z", "4": "t", "10": "m"}  # by DimID
OTHER_AXES = {"5": "emission", "6": "rotation", "7": "xt slice", "8": "t slice", "9": "excitation", "11": "loop"}
COLOR_TAGS = [1, 2, 3]  # ChannelTag of red, green and blue
MOST_POSITIONS = 10_000  # on axes other than t and z; a larger number is damage
MOST_SPREAD = 64  # times the area of its tiles; a mosaic that covers more has wrong positions


class Lif(Reader):
    """LIF and LOF files: images, tile scans, channels by dye or look-up table, z and t.

    A tile scan is one image: its tiles lie where the stage was, rounded to whole pixels, and a later tile covers an earlier one,
    as LAS X merges them. Pixels that no tile covers hold no data. Positions on other axes, such as the wavelengths of a
    lambda scan, are images of their own. Lifetime data are not read.

    Example::

        reader: {name: lif, series: Series001}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".lif", ".lof")
    packages: ClassVar[tuple[str, ...]] = ("liffile",)
    extra: ClassVar[str] = "bio"

    def members(self, path: str) -> Sequence[Member]:
        """Every image with ``series: all``."""
        if self.series != "all":
            return ()
        with opening(path):
            return series_members(self, [picture.name for picture in _pictures(path)], path)

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Read the XML header; no pixel is read yet."""
        with ExitStack() as stack:
            with opening(path):
                check_level(self, 1, path)
                pictures = _pictures(path)
                areas = [math.prod(picture.axes[letter].length for letter in "yxm" if letter in picture.axes) for picture in pictures]
                index, notes = choose_series(self, [picture.name for picture in pictures], areas, path)
                series = pictures[index].name if len(pictures) > 1 else ""
                file = stack.enter_context(closing(open_bytes(path)))
                raster = _raster(self, pictures[index], file, path, series, notes)
            yield raster


@dataclass(frozen=True)
class _Axis:
    """One dimension of an image."""

    length: int
    step: float | None  # from position to position, micrometres or seconds; None: unknown
    num_bytes: int  # from position to position in the file


@dataclass(frozen=True)
class _Picture:
    """One image of the file, at one position on the axes other than t and z."""

    name: str
    image: liffile.LifImageABC
    axes: Mapping[str, _Axis]  # by letter: x, y, z, t, m (tiles)
    skipped: int  # bytes before its position on the other axes
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Channel:
    """One channel of an image."""

    name: str
    tag: int  # 1, 2, 3: a colour; 0: grey
    dtype: np.dtype[Any]
    bits: int
    num_bytes: int  # to its first pixel


def _pictures(path: str) -> list[_Picture]:
    """List the images of a file; each position on an axis other than t and z is one.

    Raises:
        InputError: there is none.
    """
    import liffile

    with open_file(path) as stream, liffile.LifFile(stream) as file:
        pictures = [picture for image in file.images if not image.is_flim for picture in _positions(image)]
        for picture in pictures:
            picture.image.memory_block  # noqa: B018 - is looked up while the file is open
    if not pictures:
        raise InputError(Problem(path, "a Leica file without an image"))
    return pictures


def _positions(image: liffile.LifImageABC) -> Iterator[_Picture]:
    """Yield an image for each position on the axes other than t and z."""
    axes: dict[str, _Axis] = {}
    others: list[tuple[str, _Axis]] = []
    for dimension in image.xml_element.iterfind("./Data/Image/ImageDescription/Dimensions/DimensionDescription"):
        length, unit = int(dimension.attrib["NumberOfElements"]), dimension.get("Unit", "")
        distance = abs(float(dimension.get("Length", "nan"))) / (length - 1) if length > 1 else math.nan
        letter = AXES.get(dimension.attrib["DimID"], "")
        step = seconds(distance, unit) if letter == "t" else micrometers(distance, unit)
        axis = _Axis(length, step, int(dimension.attrib["BytesInc"]))
        if letter:
            axes[letter] = axis
        elif length > 1:
            others.append((OTHER_AXES.get(dimension.attrib["DimID"], "position"), axis))
    notes: tuple[str, ...] = ()
    for letter in "zt":
        if "y" not in axes and letter in axes:  # a section
            axes["y"] = axes.pop(letter)
            notes = (f"a section: its rows lie along {letter}",)
    if math.prod(axis.length for _, axis in others) > MOST_POSITIONS:
        raise ValueError(f"{image.path} with {math.prod(axis.length for _, axis in others)} positions on axes other than t and z")
    if "x" in axes and "y" in axes:
        for position in itertools.product(*(range(axis.length) for _, axis in others)):
            labels = [f"{name} {index}" for (name, _), index in zip(others, position, strict=True)]
            skipped = sum(axis.num_bytes * index for (_, axis), index in zip(others, position, strict=True))
            yield _Picture(" ".join([image.path, *labels]), image, axes, skipped, notes)


def _raster(options: Lif, picture: _Picture, file: FileBytes, path: str, series: str, notes: tuple[str, ...]) -> _LifRaster:
    """Make the header, and check that the file holds the pixels."""
    axes, channels = picture.axes, _channels(picture.image.xml_element)
    y, x = axes["y"], axes["x"]
    is_laid_out = all(axis.length == 1 or (axis.length > 1 and axis.num_bytes > 0) for axis in axes.values())
    if not channels or not is_laid_out or max(channel.dtype.itemsize for channel in channels) > x.num_bytes:
        raise InputError(Problem(path, f"{picture.name} without pixels that lie side by side"))
    if y.num_bytes < x.num_bytes * x.length and y.length > 1:
        raise InputError(Problem(path, f"{picture.name} stored column by column", "row by row"))
    block = picture.image.memory_block
    last = sum((axis.length - 1) * axis.num_bytes for axis in axes.values()) + picture.skipped
    if min(axis.num_bytes for axis in axes.values()) < 0 or max(last + c.num_bytes + c.dtype.itemsize for c in channels) > block.size:
        raise InputError(Problem(path, f"{picture.name}: {block.size} bytes of pixels", "as many as its header says"))
    mosaic, more = _mosaic(picture, path)
    height, width = (int(edge) for edge in mosaic.boxes[:, 2:].max(axis=0))
    lengths = [axes[letter].length if letter in axes else 1 for letter in "tz"]
    layout = resolve_layout(options, "tzcyx", (*lengths, len(channels), height, width), path, channel_names=[c.name for c in channels])
    chosen = [channels[number] for number in layout.channels]
    bits = max(channel.bits for channel in chosen)
    steps = {"z": "micrometer", "t": "second"}
    dtype = np.result_type(*(channel.dtype for channel in chosen)).newbyteorder("=")
    pixel_size = (y.step, x.step) if is_plausible(y.step) and is_plausible(x.step) and not picture.notes else None
    header = make_header(
        options,
        layout,
        dtype,
        pixel_size=pixel_size,
        unit="micrometer" if pixel_size else "",
        pixel_size_from="LIF" if pixel_size else "",
        plane_steps={letter: PlaneStep(axes[letter].step or 0.0, steps[letter]) for letter in layout.stack if axes[letter].step},
        has_mask=mosaic.has_gaps((height, width)),
        bits=bits if dtype.kind == "u" and bits < 8 * dtype.itemsize else 0,
        is_color=[channel.tag for channel in chosen] == COLOR_TAGS,
        series=series,
        channel_names=[channel.name for channel in channels],
        notes=(*notes, *picture.notes, *more),
    )
    return _LifRaster(path, header, layout, picture, file, mosaic, chosen, block.offset + picture.skipped)


def _channels(element: ET.Element) -> list[_Channel]:
    """List the channels of an image; colours as red, green, blue, whatever their stored order."""
    channels = []
    for described in element.iterfind("./Data/Image/ImageDescription/Channels/ChannelDescription"):
        bits = int(described.attrib["Resolution"])
        itemsize = next(size for size in (1, 2, 4, 8) if bits <= 8 * size)
        properties = {item.findtext("./Key"): item.findtext("./Value") for item in described.iterfind("./ChannelProperty")}
        name = (properties.get("DyeName") or "").rpartition("/")[2] or described.get("LUTName", "")  # `Leica/ALEXA 488`
        dtype = np.dtype(f"<{'f' if described.attrib['DataType'] == '1' else 'u'}{itemsize}")
        channels.append(_Channel(name, int(described.get("ChannelTag", "0")), dtype, bits, int(described.attrib["BytesInc"])))
    if sorted(channel.tag for channel in channels) == COLOR_TAGS:
        channels.sort(key=lambda channel: channel.tag)
    return channels


def _mosaic(picture: _Picture, path: str) -> tuple[Mosaic, tuple[str, ...]]:
    """Place the tiles of an image by stage positions, else by their grid; an image without tiles is one tile.

    ``TileScanInfo`` says how the stage's axes are flipped and swapped; LAS X merges tiles by the same rule.
    """
    y, x = picture.axes["y"], picture.axes["x"]
    number = picture.axes["m"].length if "m" in picture.axes else 1
    scan = picture.image.xml_element.find("./Data/Image/Attachment[@Name='TileScanInfo']")
    tiles = [] if scan is None else scan.findall("./Tile")
    if number == 1:
        return Mosaic(np.array([[0, 0, y.length, x.length]], np.int64), np.array([[y.length, x.length]], np.int64)), ()
    if scan is None or len(tiles) != number:
        fix = "Merge its tiles in LAS X."
        raise InputError(Problem(path, f"{picture.name}: {number} tiles, and positions of {len(tiles)}", "a position for each", fix))
    stored = np.full((number, 2), (y.length, x.length), np.int64)
    signs = [-1 if scan.get(flip) == "1" else 1 for flip in ("FlipY", "FlipX")]

    def placed(names: tuple[str, str], steps: tuple[float, float]) -> NDArray[np.float64]:
        """Positions (y, x) in pixels, from 0."""
        found = np.array([[float(tile.get(name, "nan")) for name in names] for tile in tiles]) * signs
        found = (found[:, ::-1] if scan.get("SwapXY") == "1" else found) / steps
        return np.asarray(np.floor(found - found.min(axis=0) + 0.5))

    notes: tuple[str, ...] = ()
    positions = placed(("PosY", "PosX"), ((y.step or math.nan) / 1e6, (x.step or math.nan) / 1e6))
    canvas = np.prod(positions.max(axis=0) + stored[0])
    if not canvas <= MOST_SPREAD * number * np.prod(stored[0]) or (positions == 0).all():
        positions = placed(("FieldY", "FieldX"), (1.0, 1.0)) * stored[0]
        notes = ("tiles without usable stage positions are placed side by side in their grid, without overlap",)
    if not np.prod(positions.max(axis=0) + stored[0]) <= MOST_SPREAD * number * np.prod(stored[0]):
        raise InputError(Problem(path, f"{picture.name}: tiles with wrong or missing stage positions", "", "Merge its tiles in LAS X."))
    starts = positions.astype(np.int64)
    return Mosaic(np.concatenate([starts, starts + stored], axis=1), stored), notes


class _LifRaster(Raster):
    """One image of an open Leica file."""

    def __init__(
        self,
        path: str,
        header: Any,
        layout: Layout,
        picture: _Picture,
        file: FileBytes,
        mosaic: Mosaic,
        channels: Sequence[_Channel],
        start: int,
    ) -> None:
        self.header = header
        self._path, self._layout, self._axes, self._file, self._mosaic = path, layout, picture.axes, file, mosaic
        self._channels, self._start = channels, start

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Read the parts of rows in the box; pixels without a tile are 0."""
        return self.read_masked(box, plane)[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """As :meth:`read`; pixels without a tile hold no data."""
        position = self._layout.position(plane)
        start = self._start + sum(self._axes[letter].num_bytes * position[letter] for letter in "tz" if letter in self._axes)
        read = lambda tile, stored: self._read_tile(start, tile, stored)
        shape, dtype = (len(self._channels), *box.shape), np.dtype(self.header.dtype)
        with reading(self._path, box):
            if parts := self._mosaic.find_tiling(box, 1):
                out_CYX = np.empty(shape, dtype)
                for part in parts:
                    part.paint(out_CYX, read)
                return out_CYX, None
            out_CYX = np.zeros(shape, dtype)
            free_YX = np.ones(box.shape, bool)
            for part in self._mosaic.find(free_YX, box, 1):
                part.paint(out_CYX, read)
        return out_CYX, ~free_YX if free_YX.any() else None

    def _read_tile(self, start: int, tile: int, box: Box) -> list[NDArray[Any]]:
        """Return the pixels (Y, X) of a box of a tile for each channel; interleaved samples are read once."""
        start += self._axes["m"].num_bytes * tile if "m" in self._axes else 0
        steps = self._axes["y"].num_bytes, self._axes["x"].num_bytes
        held: dict[tuple[int, np.dtype[Any]], NDArray[Any]] = {}
        pixels = []
        for channel in self._channels:
            first, sample = divmod(channel.num_bytes, steps[1])
            key = (first, channel.dtype)
            if key not in held:
                held[key] = self._file.pixels(start + first * steps[1], steps, box, channel.dtype, steps[1] // channel.dtype.itemsize)
            pixels.append(held[key][..., sample // channel.dtype.itemsize])
        return pixels
