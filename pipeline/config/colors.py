"""Colours of classes, ``#rrggbb``."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from typing import Any

__all__ = ["COLOR", "checked_colors", "default_colors"]

COLOR = "#[0-9a-fA-F]{6}"
# Black for the background, then colours that stay apart for most colour-blind readers (after S. Trubetskoy's list of distinct colours).
FIRST = ("#000000", "#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#fabed4", "#469990")
GOLDEN_RATIO = 0.618033988749895


def default_colors(count: int) -> list[str]:
    """Return ``count`` different colours, ``#rrggbb``.

    Example:
        >>> default_colors(2)
        ['#000000', '#e6194b']
        >>> len(set(default_colors(300)))
        300
    """
    colors = dict.fromkeys(FIRST[:count])
    step = 0
    while len(colors) < count:
        red, green, blue = colorsys.hsv_to_rgb(step * GOLDEN_RATIO % 1.0, 0.45 + 0.5 * (step % 3) / 2, 0.95 - 0.4 * (step // 3 % 3) / 2)
        colors[f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"] = None
        step += 1
    return list(colors)


def checked_colors(given: Sequence[Any]) -> list[str]:
    """Return the colours of classes as a file of somebody else holds them; what is no ``#rrggbb`` becomes one of the usual colours.

    Example:
        >>> checked_colors(["#123456", "red; position: fixed"])
        ['#123456', '#e6194b']
    """
    usual = default_colors(len(given))
    return [one if isinstance(one, str) and re.fullmatch(COLOR, one) else other for one, other in zip(given, usual, strict=True)]
