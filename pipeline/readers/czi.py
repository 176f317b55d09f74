"""CZI: one scene of a ZEISS microscope or slide scanner, its overlapping tiles read by region as one plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem, one_of
from pipeline.geometry import Box
from pipeline.raster import PlaneStep, Raster
from pipeline.readers import Member, Reader
from pipeline.readers._czi_file import COMPRESSIONS, LOSSY, PIXELS, RAW, CziFile, SubBlocks
from pipeline.readers._file_bytes import DecodedParts
from pipeline.readers._files import opening, reading
from pipeline.readers._layout import Layout, check_level, decoded_bytes, make_header, resolve_layout
from pipeline.readers._mosaic import Mosaic
from pipeline.readers._series import choose_series, series_members
from pipeline.readers._units import is_plausible, micrometers

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET

__all__ = ["Czi"]

OTHER_AXES = {"R": "rotation", "I": "illumination", "H": "phase", "V": "view", "B": "block"}
MOST_SEARCHED = 2000  # tiles of which the masks are searched when a file is opened
COLORS = ("red", "green", "blue", "alpha")


class Czi(Reader):
    """CZI files: scenes, mosaics, channels, z, t and pyramids.

    The tiles of a scene are one image: where they overlap, the tile with the higher mosaic index covers the other, as in ZEN. Pixels that
    no tile covers, or that a tile's mask excludes, hold no data. A file of several scenes, views, phases or illuminations holds
    several images. Tiles lie at the positions in the file; they are not registered or blended.

    Example::

        reader: {name: czi, series: largest, channels: [DAPI]}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".czi",)

    def members(self, path: str) -> Sequence[Member]:
        """Every scene with ``series: all``."""
        if self.series != "all":
            return ()
        with opening(path):
            czi = CziFile(path)
            with closing(czi):
                return series_members(self, [scene.name for scene in _scenes(czi, path)], path)

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Read the directory and the metadata; no pixel is read yet."""
        with ExitStack() as stack:
            with opening(path):
                czi = stack.enter_context(closing(CziFile(path)))
                raster = _raster(self, czi, path)
            yield raster


@dataclass(frozen=True)
class _Scene:
    """One image of the file."""

    name: str
    sub_blocks: SubBlocks  # of all levels; a later one covers an earlier one
    factors: NDArray[np.int64]  # how many times smaller than full resolution each is stored
    origin: tuple[int, int]  # y and x of the scene's first pixel
    shape: tuple[int, int]
    notes: tuple[str, ...]


def _scenes(czi: CziFile, path: str) -> list[_Scene]:
    """Group the sub-blocks by scene and by position on axes other than t and z."""
    sub_blocks = czi.sub_blocks
    if not len(sub_blocks):
        raise InputError(Problem(path, "a CZI file without pixels"))
    several = [letter for letter in "TZC" if (sub_blocks.size[letter] > 1).any()]
    if several:
        raise InputError(Problem(path, f"sub-blocks that hold several positions along {', '.join(several)}", "planes apart"))
    names = {_number(scene.get("Index")): scene.get("Name") for scene in czi.metadata.iterfind("./Metadata//S/Scenes/Scene")}
    axes = ["S", *(letter for letter in OTHER_AXES if len(np.unique(sub_blocks.start[letter])) > 1)]
    keys = np.stack([sub_blocks.start[letter] for letter in axes], axis=1)
    scenes = []
    for key in np.unique(keys, axis=0):
        others = [f"{OTHER_AXES[letter]} {value}" for letter, value in zip(axes[1:], key[1:], strict=True)]
        name = " ".join([names.get(int(key[0])) or f"scene {key[0]}", *others])
        scenes.append(_scene(name, sub_blocks[(keys == key).all(axis=1)], path))
    return scenes


def _scene(name: str, sub_blocks: SubBlocks, path: str) -> _Scene:
    """Find the levels of a scene, and its extent: that of the tiles of full resolution."""
    sub_blocks = sub_blocks[np.argsort(sub_blocks.start["M"], kind="stable")]
    sizes = np.stack([sub_blocks.size[letter] for letter in "YX"], axis=1)
    stored = np.stack([sub_blocks.stored[letter] for letter in "YX"], axis=1)
    if min(sizes.min(), stored.min()) < 1:
        raise InputError(Problem(path, "sub-blocks without pixels"))
    is_full = (sizes == stored).all(axis=1)
    notes: tuple[str, ...] = ()
    if not is_full.any():  # such as the rows of a fast Airyscan
        is_full, notes = (
            ~sub_blocks.is_pyramid,
            ("tiles are stored in another size than they are shown in: pixels are repeated or left out",),
        )
    if not is_full.any():
        raise InputError(Problem(path, f"{name} without its full resolution, only with smaller copies"))
    factors = np.where(is_full, 1, np.maximum(2, np.rint((sizes / stored).max(axis=1)).astype(np.int64)))
    starts = np.stack([sub_blocks.start[letter] for letter in "YX"], axis=1)
    origin, end = starts[is_full].min(axis=0), (starts + sizes)[is_full].max(axis=0)
    return _Scene(name, sub_blocks, factors, (int(origin[0]), int(origin[1])), (int(end[0] - origin[0]), int(end[1] - origin[1])), notes)


def _raster(options: Czi, czi: CziFile, path: str) -> _CziRaster:
    """Choose scene and level, and make the header."""
    scenes = _scenes(czi, path)
    index, notes = choose_series(options, [scene.name for scene in scenes], [scene.shape[0] * scene.shape[1] for scene in scenes], path)
    scene = scenes[index]
    factors = [1, *(int(factor) for factor in np.unique(scene.factors[scene.factors > 1]))]
    levels = [(-(-scene.shape[0] // factor), -(-scene.shape[1] // factor)) for factor in factors]
    level = check_level(options, len(levels), path)
    channels = _channels(scene, czi.metadata, path)
    stacks = {letter: np.unique(scene.sub_blocks.start[letter.upper()]) for letter in "tz"}
    shape = (len(stacks["t"]), len(stacks["z"]), len(channels), *levels[level])
    alpha = [number for number, channel in enumerate(channels) if channel.sample == 3]
    layout = resolve_layout(options, "tzcyx", shape, path, channel_names=[channel.name for channel in channels], alpha=alpha)
    chosen = [channels[channel] for channel in layout.channels]
    raster = _CziRaster(path, czi, scene, factors[: level + 1], layout, channels, stacks)
    pixel_size, steps = _scale(czi, factors[level], len(stacks["t"]))
    stored = {int(number) for number in np.unique(scene.sub_blocks.compression)}
    raster.header = make_header(
        options,
        layout,
        np.result_type(*(channel.dtype for channel in chosen)),
        pixel_size=pixel_size,
        unit="micrometer" if pixel_size else "",
        pixel_size_from="CZI" if pixel_size else "",
        plane_steps={letter: step for letter, step in steps.items() if letter in layout.stack},
        has_mask=raster.has_mask(),
        bits=_bits(chosen),
        is_color=[channel.sample for channel in chosen] == [0, 1, 2] and len({channel.number for channel in chosen}) == 1,
        is_lossy=not stored.isdisjoint(LOSSY),
        levels=tuple(levels) if len(levels) > 1 else (),
        series=scene.name if len(scenes) > 1 else "",
        whole_bytes=raster.whole_bytes,
        work_bytes=raster.work_bytes,
        channel_names=[channel.name for channel in channels],
        notes=(*notes, *scene.notes),
    )
    return raster


@dataclass(frozen=True)
class _Channel:
    """One sample of one stored channel."""

    number: int  # position on the axis C
    sample: int  # 0, 1, 2: red, green, blue; 3: opacity; 0 for a grey channel
    name: str
    dtype: np.dtype[Any]
    bits: int  # used bits of a sample from the metadata; 0: unknown


def _channels(scene: _Scene, metadata: ET.Element, path: str) -> list[_Channel]:
    """List the channels of a scene in the file's order, each colour as three or four."""
    image = metadata.find("./Metadata/Information/Image")
    described = [] if image is None else image.findall("./Dimensions/Channels/Channel")
    shown = metadata.findall("./Metadata/DisplaySetting/Channels/Channel")
    blocks, numbers = scene.sub_blocks, np.unique(scene.sub_blocks.start["C"])
    channels = []
    for number in map(int, numbers):
        kinds = {int(kind) for kind in np.unique(blocks.pixel_type[blocks.start["C"] == number])}
        packed = {int(kind) for kind in np.unique(blocks.compression[blocks.start["C"] == number])}
        if len(kinds) > 1 or not kinds <= set(PIXELS) or not packed <= set(COMPRESSIONS):
            known = one_of([name for name, _, _ in PIXELS.values()])
            found = f"pixels of type {sorted(kinds)}, compression {sorted(packed)}"
            raise InputError(Problem(path, found, f"{known}, stored plain or as JPEG, LZW, JPEG XR or Zstd", "Save it so in ZEN."))
        _, dtype, samples = PIXELS[kinds.pop()]
        names = [described[number].get("Name") if number < len(described) else "", shown[number].get("Name") if number < len(shown) else ""]
        name = next(filter(None, names), f"C{number}")
        bits = 0 if image is None else _number(image.findtext("./ComponentBitCount"))
        bits = _number(described[number].findtext("./ComponentBitCount")) or bits if number < len(described) else bits
        for sample in range(samples):
            color = COLORS[sample] if len(numbers) == 1 else f"{name} {COLORS[sample]}"
            channels.append(_Channel(number, sample, color if samples > 1 else name, np.dtype(dtype).newbyteorder("="), bits))
    return channels


def _bits(channels: Sequence[_Channel]) -> int:
    """Return the number of used bits of a sample; 0: all."""
    most = max(channel.bits for channel in channels)
    is_whole = all(channel.bits and channel.dtype.kind == "u" for channel in channels)
    return most if is_whole and most < 8 * max(channel.dtype.itemsize for channel in channels) else 0


def _scale(czi: CziFile, factor: int, num_times: int) -> tuple[tuple[float, float] | None, dict[str, PlaneStep]]:
    """Return the size of a pixel in micrometres, and the steps along z and t."""
    items = {item.get("Id"): item.findtext("./Value") for item in czi.metadata.iterfind("./Metadata/Scaling/Items/Distance")}
    y, x, z = (micrometers(items.get(letter), "m") for letter in "YXZ")
    steps = {"z": PlaneStep(z, "micrometer")} if z is not None and is_plausible(z) else {}
    if num_times > 1:
        times = czi.timestamps()
        seconds = float(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
        steps |= {"t": PlaneStep(seconds, "second")} if 0 < seconds < np.inf else {}
    return (y * factor, x * factor) if y and x and is_plausible(y) and is_plausible(x) else None, steps


def _number(text: str | None) -> int:
    """Return an integer of the metadata; 0 if there is none."""
    return int(text) if text and text.isdigit() else 0


class _CziRaster(Raster):
    """One level of a scene of an open CZI file."""

    def __init__(
        self,
        path: str,
        czi: CziFile,
        scene: _Scene,
        factors: Sequence[int],
        layout: Layout,
        channels: Sequence[_Channel],
        stacks: Mapping[str, NDArray[np.int64]],
    ) -> None:
        self._path, self._czi, self._scene, self._factors, self._layout, self._channels = path, czi, scene, factors, layout, channels
        self._stacks = stacks
        self.whole_bytes, self.work_bytes = self._decoded_bytes()  # of compressed tiles
        self._decoded = DecodedParts(self.whole_bytes)
        self._planes = _by_plane(scene)
        self._mosaics: dict[tuple[int, ...], Mosaic] = {}
        self._masked = any(_has_mask(czi, scene.sub_blocks, number) for number in range(min(len(scene.sub_blocks), MOST_SEARCHED)))

    def has_mask(self) -> bool:
        """Whether tiles leave gaps in any plane, or carry masks."""
        planes = [key for key in self._planes if key[3] == 1]
        numbers = {channel.number for channel in self._channels}
        if self._masked or len(planes) < len(self._stacks["t"]) * len(self._stacks["z"]) * len(numbers):
            return True
        different = {self._mosaic(key).boxes.tobytes(): key for key in planes}
        return any(self._mosaic(key).has_gaps(self._scene.shape) for key in different.values())

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Read and decode the tiles that the box touches; pixels without a tile are 0."""
        return self.read_masked(box, plane)[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """As :meth:`read`; data are missing where a channel has no tile, a tile's mask says so, or opacity is 0."""
        position = self._layout.position(plane)
        t, z = (int(self._stacks[letter][position[letter]]) for letter in "tz")
        chosen = [self._channels[channel] for channel in self._layout.channels]
        dtype = np.dtype(self.header.dtype)
        if self.header.is_color:  # stays interleaved, as it is stored
            out_CYX = np.moveaxis(np.zeros((*box.shape, len(chosen)), dtype), -1, 0)
        else:
            out_CYX = np.zeros((len(chosen), *box.shape), dtype)
        hidden: list[NDArray[np.bool_]] = []
        with reading(self._path, box):
            for number in {channel.number: None for channel in chosen}:
                samples = [channel for channel in self._channels if channel.number == number]
                wanted = [index for index, channel in enumerate(chosen) if channel.number == number]
                first, last = wanted[0], wanted[-1] + 1
                is_as_stored = [channel.sample for channel in chosen[first:last]] == list(range(len(samples)))
                pixels_SYX = out_CYX[first:last] if is_as_stored else np.zeros((len(samples), *box.shape), samples[0].dtype)
                hidden += self._paint(pixels_SYX, (t, z, number), box)
                if not is_as_stored:
                    out_CYX[wanted] = pixels_SYX[[chosen[index].sample for index in wanted]]
                    if len(samples) == 4 and all(channel.sample < 3 for channel in chosen):
                        hidden.append(pixels_SYX[3] == 0)
        hidden_YX = np.logical_or.reduce(hidden) if hidden else None
        return out_CYX, ~hidden_YX if hidden_YX is not None and hidden_YX.any() else None

    def _paint(self, pixels_SYX: NDArray[Any], plane: tuple[int, int, int], box: Box) -> list[NDArray[np.bool_]]:
        """Copy the samples of one plane and channel, from finer levels where this level has no tile; return where no tile lies."""
        factor = self._factors[-1]
        reads = {stored: self._reader_of((*plane, stored)) for stored in self._factors}
        if factor == 1 and not self._masked and (parts := self._mosaic((*plane, 1)).find_tiling(box, 1)):
            for part in parts:
                part.paint(pixels_SYX, reads[1])
            return []
        # Pyramid tiles also hold black or white in areas that were not recorded.
        recorded_YX = self._mosaic((*plane, 1)).coverage(box, factor) if factor > 1 else None
        free_YX = np.ones(box.shape, bool) if recorded_YX is None else recorded_YX.copy()
        seen = []
        for stored in reversed(self._factors):
            rows = self._planes.get((*plane, stored), ())
            mask = lambda tile, part, rows=rows: self._czi.mask(self._scene.sub_blocks, int(rows[tile]), part)
            seen.append((self._mosaic((*plane, stored)).find(free_YX, box, factor, mask if self._masked else None), reads[stored]))
            if not free_YX.any():
                break
        for parts, read in reversed(seen):
            for part in parts:
                part.paint(pixels_SYX, read)
        return [free_YX if recorded_YX is None else free_YX | ~recorded_YX]

    def _reader_of(self, key: tuple[int, ...]) -> Callable[[int, Box], NDArray[Any]]:
        """Return the function that reads the tiles of one plane, channel and level."""
        rows = self._planes.get(key, ())
        return lambda tile, part: self._czi.read(self._scene.sub_blocks, int(rows[tile]), part, self._decoded)

    def _mosaic(self, key: tuple[int, ...]) -> Mosaic:
        """Return the tiles of one plane, channel and level: t, z, c and factor."""
        if key not in self._mosaics:
            blocks = self._scene.sub_blocks[self._planes.get(key, np.empty(0, int))]
            starts = np.stack([blocks.start[letter] - origin for letter, origin in zip("YX", self._scene.origin, strict=True)], axis=1)
            sizes = np.stack([blocks.size["Y"], blocks.size["X"]], axis=1)
            stored = np.stack([blocks.stored["Y"], blocks.stored["X"]], axis=1)
            self._mosaics[key] = Mosaic(np.concatenate([starts, starts + sizes], axis=1), stored)
        return self._mosaics[key]

    def _decoded_bytes(self) -> tuple[int, int]:
        """Return ``whole_bytes`` and ``work_bytes`` of the header for a scene of compressed tiles."""
        blocks = self._scene.sub_blocks[self._scene.sub_blocks.compression != RAW]
        if not len(blocks):
            return 0, 0
        chosen = {self._channels[channel].number for channel in self._layout.channels}
        pixels = int((blocks.stored["Y"] * blocks.stored["X"]).max())
        plane = self._layout.length("y") * self._layout.length("x")
        pixel_bytes = [sum(channel.dtype.itemsize for channel in self._channels if channel.number == number) for number in chosen]
        return sum(decoded_bytes(pixels * num_bytes, plane * num_bytes) for num_bytes in pixel_bytes), 2 * pixels * max(pixel_bytes)


def _by_plane(scene: _Scene) -> dict[tuple[int, ...], NDArray[np.int64]]:
    """Return the indices of the sub-blocks of each plane, channel and level, in order: {(t, z, c, factor): indices}."""
    start = scene.sub_blocks.start
    keys = np.stack([start["T"], start["Z"], start["C"], scene.factors], axis=1)
    order = np.lexsort(keys.T[::-1])
    found, firsts = np.unique(keys[order], axis=0, return_index=True)
    return {tuple(map(int, key)): rows for key, rows in zip(found, np.split(order, firsts[1:]), strict=True)}


def _has_mask(czi: CziFile, sub_blocks: SubBlocks, number: int) -> bool:
    """Whether a tile has a mask. A damaged tile counts as none here and fails when it is read."""
    try:
        return czi.has_mask(sub_blocks, number)
    except (ValueError, EOFError):
        return False
