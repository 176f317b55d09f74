"""What a reader puts into a header: the type of pixels, what every read decodes, notes on colours."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from pipeline.errors import InputError, Problem, one_of
from pipeline.raster import Header
from pipeline.readers import Reader
from pipeline.readers._layout import Layout

__all__ = ["DTYPES", "check_level", "color_notes", "decoded_bytes", "make_header", "pixel_dtype"]

DTYPES = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
REGION_BYTES = 1 << 26  # a strip, tile or chunk above this is too large to be decoded for each region


def pixel_dtype(dtype: Any, path: str) -> np.dtype[Any]:
    """Return the type in which pixels are read: as stored, in the machine's byte order, bool as uint8.

    Raises:
        InputError: the type is no pixel's, such as complex numbers.

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
    """Return the header of the planes and channels that a layout keeps; ``reader.pixel_size`` wins over the file's.

    Args:
        options: the reader.
        layout: shape, channels and planes.
        dtype: of the pixels as they are read.
        facts: the other fields of the header, as the file says.
    """
    if options.pixel_size is not None:
        facts["pixel_size"] = (options.pixel_size, options.pixel_size)
        facts["unit"] = "meter" if facts.get("unit") in ("meter", "degree") else "micrometer"
    names = facts.pop("channel_names", ())
    return Header(
        shape=(layout.length("y"), layout.length("x")),
        channels=len(layout.channels),
        dtype=dtype.name,
        planes=layout.stack,
        channel_names=tuple(names[channel] for channel in layout.channels) if len(names) > max(layout.channels) else (),
        **facts,
    )


def color_notes(layout: Layout, *, palette: bool = False, cmyk: bool = False, alpha: Collection[int] = ()) -> tuple[str, ...]:
    """Return what a user may not expect of samples that are read as stored.

    Args:
        layout: says which samples are read.
        palette: whether samples are indices of a colour table.
        cmyk: whether samples are amounts of ink.
        alpha: the samples that hold opacity.
    """
    notes = ["indices of a palette are read as grey values"] if palette else []
    notes += ["cyan, magenta, yellow and black are read as they are, so that dark is large"] if cmyk else []
    opacity = [channel for channel in alpha if channel in layout.channels]
    color = [channel for channel in layout.channels if channel not in alpha]
    notes += [f"channel {channel} is opacity and is read like a colour; `reader.channels: {color}` leaves it out" for channel in opacity]
    return tuple(notes)


def check_level(options: Reader, num_levels: int, path: str) -> int:
    """Return the pyramid level to read.

    Raises:
        InputError: the file has fewer levels.
    """
    if options.level >= num_levels:
        raise InputError(Problem(path, f"reader.level {options.level}", f"0..{num_levels - 1}"))
    return options.level
