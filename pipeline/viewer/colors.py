"""Colours of what is laid over an image, and pictures as files that browsers show."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.report import palette_png

__all__ = [
    "DIFFERENT",
    "class_colors",
    "encode_colors",
    "encode_ids",
    "encode_picture",
    "heat_colors",
    "transparent",
]

DIFFERENT = (204, 0, 153)  # where two masks differ
HEAT = (230, 159, 0)  # where tiles disagree
FULL_HEAT = 0.1  # share of pixels on which tiles disagree from which a block has the full colour
QUALITY = 90  # of JPEG
FASTEST = 1  # level of compression of PNG


def class_colors(classes: Sequence[Mapping[str, Any]], shown: Collection[int] | None, size: int) -> NDArray[np.uint8]:
    """Return red, green, blue and opacity (size, 4) of each class id; ids that are not shown, and those of no class, are transparent.

    Example:
        >>> class_colors([{"id": 0, "color": "#000000"}, {"id": 1, "color": "#ff0080"}], [1], 3).tolist()
        [[0, 0, 0, 0], [255, 0, 128, 255], [0, 0, 0, 0]]
    """
    colors_N4 = np.zeros((size, 4), np.uint8)
    for spec in classes:
        if shown is None or spec["id"] in shown:
            colors_N4[spec["id"]] = [*bytes.fromhex(spec["color"].lstrip("#")), 255]
    return colors_N4


def heat_colors(shares_N: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return red, green, blue and opacity (N, 4) of blocks, given the share of pixels on which tiles disagree; NaN is transparent."""
    known_N = np.nan_to_num(shares_N)
    opacity_N = np.where(known_N > 0, 32 + 208 * np.minimum(1.0, known_N / FULL_HEAT) ** 0.5, 0)
    colors_N4 = np.empty((len(shares_N), 4), np.uint8)
    colors_N4[:, :3], colors_N4[:, 3] = HEAT, opacity_N
    return colors_N4


def encode_ids(ids_YX: NDArray[Any], colors_N4: NDArray[np.uint8]) -> bytes | None:
    """Return a PNG of ids in their colours, which every id has; None where every pixel is transparent."""
    from PIL import Image

    present = np.unique(ids_YX)
    if not colors_N4[present, 3].any():
        return None
    if len(colors_N4) > 256:
        return _saved(Image.fromarray(colors_N4[ids_YX]), "PNG", compress_level=FASTEST)
    return palette_png(ids_YX.astype(np.uint8), colors_N4, compress_level=FASTEST)


def encode_picture(pixels_YXS: NDArray[np.uint8], valid_YX: NDArray[np.bool_]) -> bytes | None:
    """Return a JPEG of colours, or a PNG in which pixels without data are transparent; None where none has data."""
    from PIL import Image

    if valid_YX.all():
        return _saved(Image.fromarray(pixels_YXS), "JPEG", quality=QUALITY, subsampling=0)
    if not valid_YX.any():
        return None
    opacity_YX = valid_YX.astype(np.uint8) * np.uint8(255)
    return _saved(Image.fromarray(np.dstack([pixels_YXS, opacity_YX])), "PNG", compress_level=FASTEST)


@cache
def transparent(height: int, width: int) -> bytes:
    """Return a PNG of nothing."""
    from PIL import Image

    return _saved(Image.new("LA", (width, height)), "PNG")


def encode_colors(colors_YX4: NDArray[np.uint8]) -> bytes | None:
    """Return a PNG of colours with opacity; None where every pixel is transparent."""
    from PIL import Image

    return _saved(Image.fromarray(colors_YX4), "PNG", compress_level=FASTEST) if colors_YX4[..., 3].any() else None


def _saved(picture: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
