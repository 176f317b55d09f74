"""The axes of an array, and the selection of planes and channels.

An image is a 2-D raster of channels, and everything else a file holds is a stack of such planes. One letter says what an
axis means::

    y x   rows and columns, both required
    c s   channels; a file with both has C x S channels, numbered over s first
    t z   planes, always in the order t, z, whatever the order in the file
    i q   pages that a file numbers without a name: read as z where there is no z
    .     an axis of length 1 without meaning; any other letter of length 1 becomes this one

Axes that a file does not name: two are ``yx``; three are ``yxc`` where the last is at most 4; any other array needs
``reader.axes``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.geometry import Box
from pipeline.raster import Header
from pipeline.readers import Reader

__all__ = [
    "DTYPES",
    "Layout",
    "check_level",
    "color_notes",
    "decoded_bytes",
    "make_header",
    "pixel_dtype",
    "resolve_layout",
    "typed_nodata",
]

STACK_AXES, CHANNEL_AXES = "tz", "cs"
MAX_PLANES = 1 << 20  # a larger number is damage, and a list of so many would exhaust memory
MOST_PIXELS = 1 << 42  # of a plane: two million pixels a side; a larger size is damage


@dataclass(frozen=True)
class Layout:
    """What each stored axis means, and which planes and channels are kept."""

    axes: str  # one letter for each stored axis, see the module; `shape` holds their lengths
    shape: tuple[int, ...]
    kept: Mapping[str, tuple[int, ...]]  # stored positions that are kept on each stack axis, t before z
    channels: tuple[int, ...]  # stored channels that are kept, in this order

    def length(self, letter: str) -> int:
        """Return the length of an axis; 1 where the array has no axis of this name."""
        return self.shape[self.axes.index(letter)] if letter in self.axes else 1

    @property
    def stack(self) -> dict[str, int]:
        """Length of each kept stack axis above 1, t before z: ``Header.planes``."""
        return {letter: len(kept) for letter, kept in self.kept.items() if len(kept) > 1}

    def position(self, plane: int) -> dict[str, int]:
        """Return the index of a kept plane on each stored stack axis.

        Example:
            >>> Layout("zyx", (9, 5, 5), {"z": (2, 7)}, (0,)).position(1)
            {'z': 7}
        """
        indices = np.unravel_index(plane, [len(kept) for kept in self.kept.values()])
        return {letter: kept[int(index)] for (letter, kept), index in zip(self.kept.items(), indices, strict=True)}

    def read(self, array: Any, box: Box, plane: int) -> NDArray[Any]:
        """Return the pixels (C, Y, X) of a box and a kept plane, with C over s first.

        The array takes a slice or a list for each stored axis; a dask array is computed.
        """
        rows, columns = box.slices
        index: dict[str, slice | list[int]] = {letter: slice(at, at + 1) for letter, at in self.position(plane).items()}
        index |= {"y": rows, "x": columns}
        first, last = self.channels[0], self.channels[0] + len(self.channels)
        channels = slice(first, last) if self.channels == tuple(range(first, last)) else list(self.channels)
        axis = "c" if self.length("s") == 1 else "s"
        if axis in self.axes and self.length("c") * self.length("s") == self.length(axis):
            index[axis], channels = channels, slice(None)  # only the chunks of these channels are decoded
        part = array[tuple(index.get(letter, slice(None)) for letter in self.axes)]
        pixels = np.asarray(part.compute() if hasattr(part, "compute") else part)
        pixels = pixels.transpose(sorted(range(pixels.ndim), key=lambda axis: "csyx".find(self.axes[axis])))
        out_CYX: NDArray[Any] = pixels.reshape(-1, *pixels.shape[-2:])[channels]
        return out_CYX

    def whole_bytes(self, chunks: Sequence[int], itemsize: int) -> int:
        """Return the bytes that every read decodes: those of chunks that are huge or hold whole planes, else 0."""
        sizes = dict(zip(self.axes, chunks, strict=True))
        across = math.prod(sizes.get(letter, 1) for letter in CHANNEL_AXES)
        apart = -(-self.length("c") * self.length("s") // across)
        plane_bytes = self.length("y") * self.length("x") * across * itemsize
        return decoded_bytes(math.prod(chunks) * itemsize, plane_bytes) * apart


def resolve_layout(
    options: Reader,
    names: str | None,
    shape: tuple[int, ...],
    path: str,
    *,
    channel_names: Sequence[str] = (),
    alpha: Collection[int] = (),
) -> Layout:
    """Decide what each axis of an array means, and which planes and channels the reader's options keep.

    Args:
        options: of the reader.
        names: one letter for each axis, as the file says; None where it says nothing.
        shape: of the array.
        path: for messages.
        channel_names: of all stored channels, by which the options may choose; empty where they have none.
        alpha: stored channels that hold opacity: they are kept only where the options name them.

    Raises:
        InputError: the axes are unnamed or unknown, or the options choose planes or channels that do not exist.
    """
    if 0 in shape:
        raise InputError(Problem(path, f"an array of {' x '.join(map(str, shape))} without pixels"))
    axes = _resolve_axes(options.axes.lower() if options.axes else names, shape, path)
    sizes = dict(zip(axes, shape, strict=True))
    stacks = {letter: sizes[letter] for letter in STACK_AXES if letter in sizes}
    num_channels = math.prod(sizes.get(letter, 1) for letter in CHANNEL_AXES)
    found = f"an array of {' x '.join(map(str, shape))} with axes {axes!r}"
    if max(num_channels, math.prod(stacks.values())) > MAX_PLANES:
        raise InputError(Problem(path, found, f"at most {MAX_PLANES} channels, and planes along t and z"))
    if sizes["y"] * sizes["x"] > MOST_PIXELS:
        raise InputError(Problem(path, found, f"at most {MOST_PIXELS} pixels a plane"))
    if options.channels is None:
        chosen = tuple(channel for channel in range(num_channels) if channel not in alpha)
    else:
        chosen = tuple(_channel(channel, channel_names, path) for channel in options.channels)
    _check(chosen, num_channels, path, "reader.channels")
    return Layout(axes, tuple(shape), _kept(options.planes or {}, stacks, path), chosen)


def _channel(channel: int | str, names: Sequence[str], path: str) -> int:
    """Return the number of a channel that is given by number or by name, whose case matters only between equal names."""
    if isinstance(channel, int):
        return channel
    alike = [index for index, name in enumerate(names) if name.casefold() == channel.casefold()]
    exact = [index for index in alike if names[index] == channel]
    found = exact or alike
    if len(found) != 1:
        expected = one_of([repr(name) for name in names]) or "a number, as the file names no channels"
        fix = "Several channels have this name: choose by number." if found else nearest(channel, names)
        raise InputError(Problem(path, f"reader.channels {channel!r}", expected, fix))
    return found[0]


def _resolve_axes(names: str | None, shape: tuple[int, ...], path: str) -> str:
    """Return one letter of ``tzcsyx.`` for each axis."""
    listed = " x ".join(map(str, shape))
    fix = f"Set reader.axes: one letter for each axis of {listed}, such as {'tzcyx'[-len(shape) :]}."
    if names is None:
        if len(shape) == 2:
            return "yx"
        if len(shape) == 3 and shape[-1] <= 4:
            return "yxc"
        raise InputError(Problem(path, f"an array of {listed} whose axes have no names", "y, x; or y, x and at most 4 channels", fix))
    if len(names) != len(shape):
        raise InputError(Problem(path, f"{len(names)} axes {names!r} for an array of {listed}", f"{len(shape)} letters", fix))
    known = STACK_AXES + CHANNEL_AXES + "yx"
    kept = [letter if letter in known or size > 1 else "." for letter, size in zip(names, shape, strict=True)]
    unknown = [letter for letter in kept if letter not in known + "."]
    if len(unknown) == 1 and unknown[0] in "iq" and "z" not in kept:
        kept[kept.index(unknown[0])] = "z"
        unknown = []
    named = [letter for letter in kept if letter != "."]
    if unknown or len(set(named)) < len(named) or "y" not in named or "x" not in named:
        raise InputError(Problem(path, f"axes {names!r} for an array of {listed}", "y and x, and each of t, z, c, s at most once", fix))
    return "".join(kept)


def _kept(planes: Mapping[str, int | tuple[int, ...]], stacks: Mapping[str, int], path: str) -> dict[str, tuple[int, ...]]:
    """Return the positions of each stack axis that ``reader.planes`` keeps: all where it names none."""
    for letter in planes:
        if letter not in stacks:
            expected = one_of([f"{name}: 0..{size - 1}" for name, size in stacks.items()]) or "no planes, as the file holds a single one"
            raise InputError(Problem(path, f"reader.planes {letter!r}", expected))
    kept = {}
    for letter, size in stacks.items():
        chosen = planes.get(letter, tuple(range(size)))
        kept[letter] = (chosen,) if isinstance(chosen, int) else chosen
        _check(kept[letter], size, path, f"reader.planes.{letter}")
    return kept


def _check(chosen: tuple[int, ...], size: int, path: str, option: str) -> None:
    if not chosen or min(chosen) < 0 or max(chosen) >= size:
        raise InputError(Problem(path, f"{option} {list(chosen)}", f"0..{size - 1}"))


DTYPES = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
REGION_BYTES = 1 << 26  # a strip, tile or chunk above this is too large to be decoded for each region


def pixel_dtype(dtype: Any, path: str) -> np.dtype[Any]:
    """Return the type in which pixels are read: as stored, in the machine's byte order, bool as uint8; refuse complex numbers.

    Example:
        >>> pixel_dtype(np.dtype(">u2"), "a.tif"), pixel_dtype(np.dtype(bool), "a.tif")
        (dtype('uint16'), dtype('uint8'))
    """
    name = getattr(dtype, "name", str(dtype))
    if name not in DTYPES:
        raise InputError(Problem(path, f"pixels of type {name}", one_of(DTYPES), "Convert the file first."))
    return np.dtype(np.uint8 if name == "bool" else name)


def decoded_bytes(segment_bytes: int, plane_bytes: int) -> int:
    """Return the bytes that every read decodes: those of a segment that is huge or holds the whole plane, else 0.

    Example:
        >>> decoded_bytes(512 * 512, 4096 * 4096), decoded_bytes(4096 * 4096, 4096 * 4096)
        (0, 16777216)
    """
    return segment_bytes if segment_bytes >= plane_bytes or segment_bytes > REGION_BYTES else 0


def make_header(options: Reader, layout: Layout, dtype: np.dtype[Any], **facts: Any) -> Header:
    """Return the header of the planes and channels that a layout keeps; ``facts`` are its other fields, as the file says."""
    if options.pixel_size is not None:
        facts["pixel_size"] = (options.pixel_size, options.pixel_size)
        facts["pixel_size_from"] = "reader.pixel_size"
        is_map = facts.get("unit") in ("meter", "degree") or {"33550", "34264"} & facts.get("georeference", {}).keys()
        facts["unit"] = "meter" if is_map else "micrometer"
    declared = facts.pop("nodata", None) if options.nodata is None else options.nodata
    facts["nodata"] = typed_nodata(declared, dtype)
    names = facts.pop("channel_names", ())
    return Header(
        shape=(layout.length("y"), layout.length("x")),
        channels=len(layout.channels),
        dtype=dtype.name,
        planes=layout.stack,
        channel_names=tuple(names[channel] for channel in layout.channels) if len(names) > max(layout.channels) else (),
        **facts,
    )


def typed_nodata(declared: str | float | None, dtype: np.dtype[Any]) -> float | None:
    """Return the number of the stored type that stands for no data, as pixels hold it; None where no pixel can hold it.

    A text is rounded to the stored type, and to the type's largest or least number where it gives that with fewer digits.

    Example:
        >>> typed_nodata("-3.402823e+38", np.dtype("float32")) == np.finfo(np.float32).min
        np.True_
        >>> typed_nodata("9007199254740993", np.dtype("int64")), typed_nodata("-9999", np.dtype("uint8"))
        (9007199254740993, None)
    """
    if declared is None or declared == "none":
        return None
    try:
        if dtype.kind == "f":
            limit = float(np.finfo(dtype).max)
            number = float(declared)
            is_limit = abs(abs(number) - limit) <= 1e-6 * limit
            return math.copysign(limit, number) if is_limit else float(dtype.type(number))
        whole = _whole_number(declared)
    except (ValueError, OverflowError):
        return None
    limits = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    return whole if limits[0] <= whole <= limits[1] else None


def _whole_number(value: str | float) -> int:
    """Return a whole number exactly, also where its text is longer than a float's digits; a ValueError says that it is none."""
    try:
        return int(value.strip()) if isinstance(value, str) else int(value) if int(value) == value else int("fraction")
    except ValueError:
        number = float(value)
        if not number.is_integer():
            raise
        return int(number)


def color_notes(layout: Layout, *, palette: bool = False, cmyk: bool = False, alpha: Collection[int] = ()) -> tuple[str, ...]:
    """Return what a user may not expect of samples that are read as stored; ``alpha`` are the samples that hold opacity."""
    notes = ["indices of a palette are read as grey values"] if palette else []
    notes += ["cyan, magenta, yellow and black are read as they are, so that dark is large"] if cmyk else []
    opacity = [channel for channel in alpha if channel in layout.channels]
    color = [channel for channel in layout.channels if channel not in alpha]
    notes += [f"channel {channel} is opacity and is read like a colour; `reader.channels: {color}` leaves it out" for channel in opacity]
    return tuple(notes)


def check_level(options: Reader, num_levels: int, path: str) -> int:
    """Return the pyramid level to read; refuse one that the file does not have."""
    if options.level >= num_levels:
        raise InputError(Problem(path, f"reader.level {options.level}", f"0..{num_levels - 1}"))
    return options.level
