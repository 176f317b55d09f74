"""What every reader shares: the axes rule, the selection of planes and channels, the types, and how failures are named.

An image is a 2-D raster of channels; everything else a file holds is a stack of such planes. One letter
says what an axis is::

    y x   rows and columns, both required
    c s   channels; a file with both has C x S channels, counted over s first
    t z   planes, always in the order t, z, whatever the file's order
    i q   pages that a file numbers and does not name: read as z where there is no z
    .     an axis of length 1 that means nothing here; any other letter of length 1 becomes this

Axes that a file does not name: two are ``yx``; three with a last axis of at most 4 are ``yxc``; any
other needs ``reader.axes``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EACCES, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import BlockError, GigasegError, InputError, Problem, one_of
from pipeline.raster import Header
from pipeline.readers import Reader

if TYPE_CHECKING:
    from pipeline.geometry import Box

__all__ = ["Layout", "color_notes", "decoded_bytes", "layout", "local_path", "make_header", "native", "opening", "reading", "resolution"]

STACK, CHANNEL = "tz", "cs"
DTYPES = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
LASTING = (ENOENT, ENOTDIR, EISDIR, EACCES, EPERM, ELOOP, ENAMETOOLONG, EINVAL)  # the last is what a damaged offset gives
REGION_BYTES = 1 << 26  # a strip, tile or chunk above this is no region: every read must be charged for it


@dataclass(frozen=True)
class Layout:
    """Which stored axis is what, and which planes and channels are kept.

    Attributes:
        axes: one letter a stored axis, see the module.
        shape: length of each stored axis.
        kept: stored positions that are kept on each stack axis, t before z.
        channels: stored channels that are kept, in this order.
    """

    axes: str
    shape: tuple[int, ...]
    kept: Mapping[str, tuple[int, ...]]
    channels: tuple[int, ...]

    def length(self, letter: str) -> int:
        """Length of an axis; 1 where the array has none of this name."""
        return self.shape[self.axes.index(letter)] if letter in self.axes else 1

    @property
    def stack(self) -> dict[str, int]:
        """Length of each kept stack axis above 1, t before z: ``Header.planes``."""
        return {letter: len(kept) for letter, kept in self.kept.items() if len(kept) > 1}

    def position(self, plane: int) -> dict[str, int]:
        """Where a plane lies on the stored stack axes.

        Example:
            >>> Layout("zyx", (9, 5, 5), {"z": (2, 7)}, (0,)).position(1)
            {'z': 7}
        """
        where = np.unravel_index(plane, [len(kept) for kept in self.kept.values()])
        return {letter: kept[int(at)] for (letter, kept), at in zip(self.kept.items(), where, strict=True)}


def layout(options: Reader, names: str | None, shape: tuple[int, ...], path: str) -> Layout:
    """Decide what each axis of an array is, and what the options keep of it.

    Args:
        options: ``axes``, ``planes`` and ``channels`` of the reader.
        names: one letter an axis as the file says; None when it does not.
        shape: length of each axis.
        path: the file, for messages.

    Raises:
        InputError: the axes are unnamed or unknown, or the options choose what is not there.
    """
    if 0 in shape:
        raise InputError(Problem(path, f"an array of {' x '.join(map(str, shape))} without pixels"))
    axes = _meanings(options.axes.lower() if options.axes else names, shape, path)
    sizes = dict(zip(axes, shape, strict=True))
    stacks = {letter: sizes[letter] for letter in STACK if letter in sizes}
    num_channels = math.prod(sizes.get(letter, 1) for letter in CHANNEL)
    chosen = options.channels if options.channels is not None else tuple(range(num_channels))
    _check(chosen, num_channels, path, "reader.channels")
    return Layout(axes, tuple(shape), _kept(options.planes or {}, stacks, path), chosen)


def _meanings(names: str | None, shape: tuple[int, ...], path: str) -> str:
    """One letter of ``tzcsyx.`` an axis."""
    listed = " x ".join(map(str, shape))
    way_out = f"Set reader.axes: one letter an axis of {listed}, such as {'tzcyx'[-len(shape) :]}."
    if names is None:
        if len(shape) == 2:
            return "yx"
        if len(shape) == 3 and shape[-1] <= 4:
            return "yxc"
        raise InputError(Problem(path, f"an array of {listed} whose axes have no names", "y, x or y, x and at most 4 channels", way_out))
    if len(names) != len(shape):
        raise InputError(Problem(path, f"{len(names)} axes {names!r} for an array of {listed}", f"{len(shape)} letters", way_out))
    known = STACK + CHANNEL + "yx"
    kept = [letter if letter in known or size > 1 else "." for letter, size in zip(names, shape, strict=True)]
    strange = [letter for letter in kept if letter not in known + "."]
    if len(strange) == 1 and strange[0] in "iq" and "z" not in kept:
        kept[kept.index(strange[0])] = "z"
        strange = []
    named = [letter for letter in kept if letter != "."]
    if strange or len(set(named)) < len(named) or "y" not in named or "x" not in named:
        raise InputError(Problem(path, f"axes {names!r} for an array of {listed}", "y and x, and of t, z, c, s each at most once", way_out))
    return "".join(kept)


def _kept(planes: Mapping[str, int | tuple[int, ...]], stacks: Mapping[str, int], path: str) -> dict[str, tuple[int, ...]]:
    """The positions that ``reader.planes`` keeps of each stack axis; all where it does not say."""
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


def native(dtype: Any, path: str) -> np.dtype[Any]:
    """The type that pixels are handed out in: as stored, in the machine's byte order, bool as uint8.

    Raises:
        InputError: complex numbers and anything else that is no pixel.

    Example:
        >>> native(np.dtype(">u2"), "a.tif"), native(np.dtype(bool), "a.tif")
        (dtype('uint16'), dtype('uint8'))
    """
    name = getattr(dtype, "name", str(dtype))
    if name not in DTYPES:
        raise InputError(Problem(path, f"pixels of type {name}", one_of(DTYPES), "Convert the file first."))
    return np.dtype(np.uint8 if name == "bool" else name)


def decoded_bytes(segment_bytes: int, plane_bytes: int) -> int:
    """What every read must decode: the segment's bytes where it holds the whole plane or is huge, else 0.

    Example:
        >>> decoded_bytes(512 * 512, 4096 * 4096), decoded_bytes(4096 * 4096, 4096 * 4096)
        (0, 16777216)
    """
    return segment_bytes if segment_bytes >= plane_bytes or segment_bytes > REGION_BYTES else 0


def make_header(options: Reader, found: Layout, dtype: np.dtype[Any], **facts: Any) -> Header:
    """The header of what a layout keeps; ``reader.pixel_size`` wins over the file's.

    Args:
        options: the reader's.
        found: its shape, channels and planes.
        dtype: native type of the pixels.
        facts: the other fields of the header, as the file says.
    """
    if options.pixel_size is not None:
        facts["pixel_size"] = (options.pixel_size, options.pixel_size)
        facts["unit"] = "meter" if facts.get("unit") in ("meter", "degree") else "micrometer"
    names = facts.pop("channel_names", ())
    return Header(
        shape=(found.length("y"), found.length("x")),
        channels=len(found.channels),
        dtype=dtype.name,
        planes=found.stack,
        channel_names=tuple(names[at] for at in found.channels) if len(names) > max(found.channels) else (),
        **facts,
    )


def color_notes(found: Layout, *, palette: bool = False, cmyk: bool = False, alpha: Collection[int] = ()) -> tuple[str, ...]:
    """What a user may not expect of the samples: they are read as stored, as brightness.

    Args:
        found: which of them are read.
        palette: they are indices of a colour table.
        cmyk: they are amounts of ink.
        alpha: those that say how opaque a pixel is.
    """
    notes = ["indices of a palette are read as grey values"] if palette else []
    notes += ["cyan, magenta, yellow and black are read as they are, so that dark is large"] if cmyk else []
    opaque = [at for at in alpha if at in found.channels]
    color = [at for at in found.channels if at not in alpha]
    notes += [f"channel {at} is opacity and is read like a colour; `reader.channels: {color}` leaves it out" for at in opaque]
    return tuple(notes)


def resolution(options: Reader, count: int, path: str) -> int:
    """The pyramid level to read.

    Raises:
        InputError: the file has fewer levels.
    """
    if options.level >= count:
        raise InputError(Problem(path, f"reader.level {options.level}", f"0..{count - 1}"))
    return options.level


def local_path(path: str) -> str:
    """The path on this machine; ``file://`` is taken off.

    Raises:
        InputError: another kind of URL.

    Example:
        >>> local_path("file:///data/a.tif")
        '/data/a.tif'
    """
    scheme, separator, rest = path.partition("://")
    if not separator:
        return path
    if scheme != "file":
        raise InputError(Problem(path, f"a {scheme}:// URL", "a path or a file:// URL", "Copy the file to a disk first."))
    return rest


@contextmanager
def opening(path: str) -> Iterator[None]:
    """Whatever a library raises while it looks at a header becomes an :class:`InputError` that names the file.

    Raises:
        OSError: what may pass by itself, see :func:`hiccup`.
    """
    try:
        yield
    except GigasegError:
        raise
    except FileNotFoundError as error:
        raise InputError(Problem(path, "no file at this path")) from error
    except Exception as error:  # decoders raise anything at all on a damaged header
        wrong = InputError(Problem(path, f"a file that cannot be opened ({type(error).__name__}: {error})"))
        raise (hiccup(error, path) or wrong) from error


@contextmanager
def reading(path: str, box: Box) -> Iterator[None]:
    """Whatever a library raises while it decodes becomes a :class:`BlockError` that names the file and the region.

    Raises:
        OSError: what may pass by itself, see :func:`hiccup`.
    """
    try:
        yield
    except (GigasegError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything at all on damaged pixels
        where = f"{path}: rows {box.y0}..{box.y1}, columns {box.x0}..{box.x1}"
        wrong = BlockError(f"{where}: cannot be decoded ({type(error).__name__}: {error})")
        raise (hiccup(error, where) or wrong) from error


def hiccup(error: Exception, where: str) -> OSError | None:
    """Name the place of a failure of the system (a lost mount, no free handle), which may pass; None for any other, such as damage.

    Example:
        >>> hiccup(OSError(5, "Input/output error"), "a.tif"), hiccup(OSError("image file is truncated"), "a.tif")
        (OSError(5, 'a.tif: Input/output error'), None)
    """
    told = re.search(r"\(os error (\d+)\)", str(error))  # zarrs says no more
    number = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
    return None if number is None or number in LASTING else OSError(number, f"{where}: {os.strerror(number)}")
