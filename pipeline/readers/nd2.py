"""ND2: one stage position of a Nikon file, read by region; frames that were not recorded hold no data."""

from __future__ import annotations

import itertools
import math
import re
import struct
import zlib
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
from pipeline.readers._file_bytes import DecodedParts, FileBytes, open_bytes
from pipeline.readers._files import is_remote, local_path, opening, reading
from pipeline.readers._layout import Layout, check_level, decoded_bytes, make_header, resolve_layout
from pipeline.readers._remote_file import RemoteFile
from pipeline.readers._series import choose_series, series_members
from pipeline.readers._units import is_plausible, micrometers, seconds

if TYPE_CHECKING:
    import nd2

__all__ = ["Nd2"]

MAGIC = 0x0ABECEDA  # start of every chunk
MAP_END = b"ND2 CHUNK MAP SIGNATURE 0000001!"
CHUNK, TIME_BYTES = struct.Struct("<IIQ"), 8  # magic, bytes of the name, bytes of the data; the data of a frame begin with its time
MOST_FRAMES = 10_000_000  # a larger number is damage
COLORS = ("red", "green", "blue")


class Nd2(Reader):
    """ND2 files: stage positions, channels by name, z and t; plain or compressed without loss.

    Each stage position is an image. Colours, stored as blue, green, red, are read as red, green, blue. A plane whose frame is
    missing, as after an interrupted acquisition, holds no data. Files of NIS-Elements before version 3 hold JPEG 2000 and
    are refused.

    Example::

        reader: {name: nd2, channels: [DAPI]}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".nd2",)
    packages: ClassVar[tuple[str, ...]] = ("nd2",)
    extra: ClassVar[str] = "bio"

    def members(self, path: str) -> Sequence[Member]:
        """Every stage position with ``series: all``."""
        if self.series != "all":
            return ()
        with opening(path):
            return series_members(self, [position.name for position in _facts(path).positions], path)

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Read the metadata and the list of frames; no pixel is read yet."""
        with ExitStack() as stack:
            with opening(path):
                check_level(self, 1, path)
                facts = _facts(path)
                names = [position.name for position in facts.positions]
                index, notes = choose_series(self, names, [1] * len(names), path)
                file = stack.enter_context(closing(open_bytes(path)))
                raster = _raster(self, facts, index, file, path, notes)
            yield raster


@dataclass(frozen=True)
class _Position:
    """One image of the file: one position on each axis other than t and z."""

    name: str
    indices: Mapping[str, int]


@dataclass(frozen=True)
class _Facts:
    """What the metadata say."""

    attributes: nd2.structures.Attributes
    loops: Mapping[str, int]  # length of each axis over frames, from the slowest to the fastest, such as {"T": 3, "P": 2, "Z": 5}
    positions: Sequence[_Position]
    channels: Sequence[tuple[str, int]]  # name, and index of the stored sample
    pixel_size: tuple[float, float] | None
    steps: Mapping[str, PlaneStep]
    notes: tuple[str, ...]


def _facts(path: str) -> _Facts:
    """Read the metadata.

    Raises:
        InputError: the pixels are stored in a way that is not read.
    """
    import nd2

    with nd2.ND2File(RemoteFile(path) if is_remote(path) else local_path(path)) as file:
        attributes = None if file.is_legacy else file.attributes
        if attributes is None or attributes.compressionType == "lossy":
            found = "pixels in lossy compression, or as JPEG 2000 as before NIS-Elements 3"
            raise InputError(Problem(path, found, "plain or lossless pixels", "Save it again in NIS-Elements, or use bioformats2raw."))
        loops = {letter: length for letter, length in file.sizes.items() if letter not in "CYXS"}
        notes: tuple[str, ...] = ()
        if not loops and attributes.sequenceCount > 1:
            loops, notes = {"T": attributes.sequenceCount}, ("frames without a named axis are read as t",)
        if math.prod(loops.values()) > MOST_FRAMES:
            raise InputError(Problem(path, f"{math.prod(loops.values())} frames", f"at most {MOST_FRAMES}"))
        described: Sequence[nd2.structures.Channel] = ()
        try:
            described = file.metadata.channels or ()
        except Exception:  # noqa: BLE001 - nd2 raises anything at all on metadata of other programs; pixels do not need them
            notes += ("the description of the channels cannot be read: names and pixel size are unknown",)
        channels, pixel_size = _channels(attributes, described), _pixel_size(described)
        return _Facts(attributes, loops, _positions(file, loops), channels, pixel_size, _steps(file), notes)


def _positions(file: nd2.ND2File, loops: Mapping[str, int]) -> list[_Position]:
    """List the stage positions, and the positions on unknown axes, with their names."""
    names = [point.name or "" for loop in file.experiment if loop.type == "XYPosLoop" for point in loop.parameters.points]
    others = [letter for letter in loops if letter not in "TZ"]
    positions = []
    for indices in itertools.product(*(range(loops[letter]) for letter in others)):
        labels = [
            (names[index] if letter == "P" and index < len(names) else "") or f"{'position' if letter == 'P' else letter} {index}"
            for letter, index in zip(others, indices, strict=True)
        ]
        positions.append(_Position(" ".join(labels), dict(zip(others, indices, strict=True))))
    return positions


def _channels(attributes: nd2.structures.Attributes, described: Sequence[nd2.structures.Channel]) -> list[tuple[str, int]]:
    """Return the name of each channel and the index of its stored sample."""
    names, count = [channel.channel.name for channel in described], attributes.componentCount
    if count != 3 * (attributes.channelCount or 1):
        return [(names[place] if len(names) == count else f"C{place}", place) for place in range(count)]
    names = names if 3 * len(names) == count else [f"C{index}" for index in range(count // 3)]
    labels = COLORS if len(names) == 1 else [f"{name} {color}" for name in names for color in COLORS]
    return [(label, place - place % 3 + 2 - place % 3) for place, label in enumerate(labels)]


def _pixel_size(described: Sequence[nd2.structures.Channel]) -> tuple[float, float] | None:
    """Return the size of a pixel (y, x) in micrometres; None without a calibration, which nd2 returns as 1."""
    volume = described[0].volume if described else None
    if volume is None or not all(volume.axesCalibrated[:2]):
        return None
    x, y = (micrometers(size, "um") for size in volume.axesCalibration[:2])
    return (y, x) if y and x and is_plausible(y) and is_plausible(x) else None


def _steps(file: nd2.ND2File) -> dict[str, PlaneStep]:
    """Return the planned steps along z and t."""
    steps = {}
    for loop in file.experiment:
        if loop.type == "ZStackLoop" and is_plausible(size := micrometers(abs(loop.parameters.stepUm), "um")):
            steps["z"] = PlaneStep(size or 0.0, "micrometer")
        if loop.type == "TimeLoop" and (planned := seconds(loop.parameters.periodMs, "ms")):
            steps["t"] = PlaneStep(planned, "second")
    return steps


def _raster(options: Nd2, facts: _Facts, index: int, file: FileBytes, path: str, notes: tuple[str, ...]) -> _Nd2Raster:
    """Make the header and the raster."""
    attributes = facts.attributes
    height, width = attributes.heightPx, attributes.widthPx or 0
    lengths = [facts.loops.get(letter, 1) for letter in "TZ"]
    names = [name for name, _ in facts.channels]
    layout = resolve_layout(options, "tzcyx", (*lengths, len(names), height, width), path, channel_names=names)
    itemsize = attributes.bitsPerComponentInMemory // 8
    dtype = np.dtype(f"<{'f' if attributes.pixelDataType == 'float' else 'u'}{itemsize}")
    frame_bytes = height * (attributes.widthBytes or 0)
    if attributes.componentCount * itemsize * width > (attributes.widthBytes or 0):
        raise InputError(Problem(path, f"rows of {attributes.widthBytes} bytes for {width} pixels", "longer rows"))
    places = [facts.channels[channel][1] for channel in layout.channels]
    whole_bytes = decoded_bytes(frame_bytes, frame_bytes) if attributes.compressionType == "lossless" else 0
    raster = _Nd2Raster(path, layout, facts, facts.positions[index], file, dtype, places, DecodedParts(whole_bytes))
    bits = attributes.bitsPerComponentSignificant
    raster.header = make_header(
        options,
        layout,
        dtype.newbyteorder("="),
        pixel_size=facts.pixel_size,
        unit="micrometer" if facts.pixel_size else "",
        pixel_size_from="ND2" if facts.pixel_size else "",
        plane_steps={letter: step for letter, step in raster.steps().items() if letter in layout.stack},
        has_mask=raster.lacks_frames(),
        bits=bits if dtype.kind == "u" and 0 < bits < 8 * itemsize else 0,
        is_color=len(facts.channels) == 3 and places == [2, 1, 0],
        series=facts.positions[index].name if len(facts.positions) > 1 else "",
        whole_bytes=whole_bytes,
        work_bytes=whole_bytes,
        channel_names=names,
        notes=(*notes, *facts.notes),
    )
    return raster


class _Nd2Raster(Raster):
    """One stage position of an open ND2 file."""

    def __init__(
        self,
        path: str,
        layout: Layout,
        facts: _Facts,
        position: _Position,
        file: FileBytes,
        dtype: np.dtype[Any],
        places: Sequence[int],
        decoded: DecodedParts,
    ) -> None:
        self._path, self._layout, self._facts, self._position, self._file = path, layout, facts, position, file
        self._dtype, self._places, self._decoded = dtype, places, decoded
        self._frames, self._times = _chunks(file)

    def lacks_frames(self) -> bool:
        """Whether a frame of the image was never recorded."""
        loops = self._facts.loops
        numbers = np.arange(math.prod(loops.values())).reshape([*loops.values()])
        of_image = numbers[tuple(self._position.indices.get(letter, slice(None)) for letter in loops)]
        return not np.isin(of_image, np.fromiter(self._frames, np.int64, len(self._frames))).all()

    def steps(self) -> dict[str, PlaneStep]:
        """Return the steps along z and t; t from the times of the first and last frame, else as planned."""
        loops, letters = self._facts.loops, [*self._facts.loops]
        if "T" not in loops or not self._times:
            return dict(self._facts.steps)
        last = (loops["T"] - 1) * math.prod(loops[letter] for letter in letters[letters.index("T") + 1 :])
        start, name_bytes, data_bytes = _chunk(self._file, self._times)
        times = np.frombuffer(self._file.read(start + name_bytes, data_bytes // 8 * 8), "<f8")  # milliseconds of each frame
        step = float(times[last] - times[0]) / (loops["T"] - 1) / 1000 if last < len(times) else 0.0
        return {**self._facts.steps, **({"t": PlaneStep(step, "second")} if 0 < step < math.inf else {})}

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Read the parts of rows in the box; a missing frame is 0."""
        return self.read_masked(box, plane)[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """As :meth:`read`; a missing frame holds no data."""
        with reading(self._path, box):
            frame = self._frame(plane)
            if frame not in self._frames:
                return np.zeros((len(self._places), *box.shape), self._dtype.newbyteorder("=")), np.zeros(box.shape, bool)
            pixels_YXS = self._read_frame(frame, box)
            is_as_stored = list(self._places) == list(range(pixels_YXS.shape[2]))
            copy_YXS = np.array(pixels_YXS) if is_as_stored else pixels_YXS[..., self._places]  # stay interleaved
            return np.moveaxis(copy_YXS, -1, 0).astype(self.header.dtype, copy=False), None

    def _frame(self, plane: int) -> int:
        """Return the index of the frame that holds a plane."""
        at = {letter.upper(): index for letter, index in self._layout.position(plane).items()} | dict(self._position.indices)
        loops = self._facts.loops
        return int(np.ravel_multi_index([at[letter] for letter in loops], tuple(loops.values()))) if loops else 0

    def _read_frame(self, frame: int, box: Box) -> NDArray[Any]:
        """Return the pixels (Y, X, S) of a box with all samples."""
        attributes, start = self._facts.attributes, self._frames[frame]
        start, name_bytes, data_bytes = _chunk(self._file, start)
        name = f"ImageDataSeq|{frame}!".encode()
        if self._file.read(start, min(name_bytes, len(name))) != name:
            raise ValueError(f"no frame {frame} at byte {start}")
        start += name_bytes + TIME_BYTES
        samples, row_bytes = attributes.componentCount, int(attributes.widthBytes or 0)
        pixel_bytes, frame_bytes = samples * self._dtype.itemsize, attributes.heightPx * row_bytes
        if not attributes.compressionType:
            if frame_bytes > data_bytes - TIME_BYTES:
                raise ValueError(f"frame {frame} of {data_bytes} bytes, too few")
            return self._file.pixels(start, (row_bytes, pixel_bytes), box, self._dtype, samples)

        def decode() -> NDArray[Any]:
            data = zlib.decompressobj().decompress(self._file.read(start, data_bytes - TIME_BYTES), frame_bytes)
            steps = (row_bytes, pixel_bytes, self._dtype.itemsize)
            return np.ndarray((attributes.heightPx, attributes.widthPx or 0, samples), self._dtype, data, 0, steps)

        return self._decoded.get(frame, decode)[box.slices]


def _chunks(file: FileBytes) -> tuple[dict[int, int], int]:
    """Return the chunk positions from the map at the end of the file: {frame: byte}, and that of the frame times (0: none).

    Raises:
        ValueError: there is no map, as in a truncated file.
    """
    end, position = struct.unpack("<32sQ", file.read(file.size - 40, 40))
    if end != MAP_END:
        raise ValueError("no map of chunks at the end: the file is cut off")
    start, name_bytes, data_bytes = _chunk(file, position)
    content = file.read(start + name_bytes, data_bytes)
    frames = re.finditer(rb"ImageDataSeq\|(\d{1,9})!(.{8})", content, re.DOTALL)
    times = re.search(rb"CustomData\|AcqTimesCache!(.{8})", content, re.DOTALL)
    return {int(frame[1]): int.from_bytes(frame[2], "little") for frame in frames}, int.from_bytes(times[1], "little") if times else 0


def _chunk(file: FileBytes, position: int) -> tuple[int, int, int]:
    """Return the first byte of a chunk's name, and the sizes of its name and data."""
    magic, name_bytes, data_bytes = CHUNK.unpack(file.read(position, CHUNK.size))
    if magic != MAGIC:
        raise ValueError(f"no chunk at byte {position}")
    return position + CHUNK.size, name_bytes, data_bytes
