"""Channels of an image as one picture: each has a colour, and the values that are drawn black and in full colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.raster import Header

__all__ = ["Channel", "composite", "is_drawn_as_is", "parse_channels", "windows"]

LOW, HIGH = 1.0, 99.8  # percentiles that are drawn black and in full colour unless the user says otherwise
RGB = ("red", "green", "blue")
PRIMARY = ("ff0000", "00ff00", "0000ff")
COLORS = (*PRIMARY, "ffff00", "00ffff", "ff00ff", "ff8000", "8080ff")  # as masks and copies name them in their metadata
MOST_CHANNELS = 64  # in one picture
MOST = 1e30  # of a value, which is compared as float32


@dataclass(frozen=True)
class Channel:
    """How one channel is drawn.

    Attributes:
        index: of the channel.
        color: red, green and blue of the value ``high``, 0 to 255.
        low: the value that is drawn black.
    """

    index: int
    color: tuple[int, int, int]
    low: float
    high: float


def is_drawn_as_is(header: Header) -> bool:
    """Whether the pixels are colours as screens show them."""
    return header.is_color and header.dtype == "uint8"


def windows(header: Header, samples_CN: NDArray[np.generic]) -> list[dict[str, object]]:
    """Return name, colour and window of each channel, from samples of its valid pixels.

    Returns:
        ``{"name", "color", "low", "high", "least", "most"}`` each; ``least`` and ``most`` are the values that occurred.
    """
    colors = ["ffffff"] if header.channels == 1 else PRIMARY if header.is_color else COLORS
    names = header.channel_names or (RGB if header.is_color else ())
    found = []
    for index in range(header.channels):
        values_N = samples_CN[index].astype(np.float64)
        low, high = np.percentile(values_N, [LOW, HIGH]).tolist() if values_N.size else (0.0, 1.0)
        least, most = (float(values_N.min()), float(values_N.max())) if values_N.size else (0.0, 1.0)
        if is_drawn_as_is(header):
            low, high, least, most = 0.0, 255.0, 0.0, 255.0
        name = names[index] if index < len(names) and names[index] else f"channel {index}"
        window = {"low": low, "high": high if high > low else low + 1, "least": least, "most": most if most > least else least + 1}
        found.append({"name": name, "color": f"#{colors[index % len(colors)]}", **window})
    return found


def parse_channels(text: str, num_channels: int) -> tuple[Channel, ...]:
    """Return the channels of ``INDEX:RRGGBB:LOW:HIGH``, several with a semicolon between them.

    Raises:
        InputError: the text says something else.

    Example:
        >>> parse_channels("1:ff0080:12:4000", 2)
        (Channel(index=1, color=(255, 0, 128), low=12.0, high=4000.0),)
    """
    problem = Problem("channels", repr(text[:80]), "INDEX:RRGGBB:LOW:HIGH;...")
    found = []
    for part in text.split(";")[: MOST_CHANNELS + 1]:
        try:
            index, color, low, high = part.split(":")
            red, green, blue = bytes.fromhex(color)
            channel = Channel(int(index), (red, green, blue), float(low), float(high))
        except ValueError as error:
            raise InputError(problem) from error
        if not 0 <= channel.index < num_channels or not all(abs(value) <= MOST for value in (channel.low, channel.high)):
            raise InputError(problem)
        found.append(channel)
    if len(found) > MOST_CHANNELS:
        raise InputError(problem)
    return tuple(found)


def composite(pixels_CYX: NDArray[np.generic], channels: Sequence[Channel]) -> NDArray[np.uint8]:
    """Return the sum of the channels in their colours (Y, X, 3).

    Example:
        >>> two = [Channel(0, (255, 0, 0), 0, 10), Channel(1, (0, 0, 255), 0, 4)]
        >>> composite(np.array([[[5, 20]], [[1, 0]]]), two).tolist()
        [[[128, 0, 64], [255, 0, 0]]]
    """
    sum_YXS = np.zeros((*pixels_CYX.shape[1:], 3), np.float32)
    for channel in channels:
        span = channel.high - channel.low
        share_YX = np.nan_to_num((pixels_CYX[channel.index].astype(np.float32) - channel.low) / (span if span > 0 else 1.0))
        np.clip(share_YX, 0, 1, out=share_YX)
        for primary, value in enumerate(channel.color):
            if value:
                sum_YXS[..., primary] += share_YX * value
    return np.clip(np.rint(sum_YXS), 0, 255).astype(np.uint8)
