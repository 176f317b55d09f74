"""Sizes in bytes, as a person writes them."""

from __future__ import annotations

import re

__all__ = ["parse_bytes"]

_UNITS = {"": 1, "b": 1} | {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)}
_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}


def parse_bytes(text: str | int) -> int:
    """Return a size in bytes.

    Raises:
        ValueError: the text is no size, or the size is not above 0; the message says what is expected.

    Example:
        >>> parse_bytes("4GiB"), parse_bytes("500 MB"), parse_bytes(4096)
        (4294967296, 500000000, 4096)
    """
    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text).lower())
    unit = _UNITS.get(size[2]) if size else None
    if size is None or unit is None or float(size[1]) * unit < 1:
        raise ValueError("a size above 0 such as 4GiB, 500MB or a number of bytes")
    return int(float(size[1]) * unit) if "." in size[1] else int(size[1]) * unit
