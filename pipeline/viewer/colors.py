"""Colours of what is laid over an image, and pictures as files that browsers show."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DIFFERENT",
    "ERRORS",
    "class_colors",
    "encode_colors",
    "encode_ids",
    "encode_picture",
    "error_kinds",
    "heat_colors",
    "transparent",
]

ERRORS = ((213, 94, 0), (86, 180, 233), (204, 121, 167))
"""False, missed, wrong class: of the palette of Okabe and Ito, for people who confuse red and green; the report has the same."""
DIFFERENT = (204, 0, 153)  # where two masks differ
HEAT = (230, 159, 0)  # where tiles disagree
FULL_HEAT = 0.1  # share of pixels on which tiles disagree from which a block has the full colour
QUALITY = 90  # of JPEG
FASTEST = 1  # level of compression of PNG


def hex_color(color: tuple[int, int, int]) -> str:
    """Return a colour as pages write it.

    Example:
        >>> hex_color((213, 94, 0))
        '#d55e00'
    """
    return f"#{bytes(color).hex()}"


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


def error_kinds(
    mask_YX: NDArray[Any], truth_YX: NDArray[Any], fill: int, num_classes: int, shown: Collection[int] | None
) -> NDArray[np.uint8]:
    """Compare a mask with its truth: 0 right or not counted, 1 false, 2 missed, 3 wrong class.

    Only pixels count whose class in the mask or in the truth is ``shown``; None: all. Class 0 is the background, unless it alone is shown:
    a pixel is false where only the mask has something, missed where only the truth does, of a wrong class where both do.

    Example:
        >>> mask, truth = np.array([[0, 1, 0, 1, 9]]), np.array([[0, 0, 1, 2, 1]])
        >>> error_kinds(mask, truth, 9, 3, None).tolist()
        [[0, 1, 2, 3, 0]]
    """
    chosen = np.zeros(max(fill, num_classes) + 1, np.bool_)
    chosen[: num_classes if shown is None else 0] = True
    chosen[[one for one in shown or () if one < num_classes]] = True
    objects = chosen.copy()
    if chosen[1:].any():
        objects[0] = False
    is_counted_YX = (mask_YX != truth_YX) & (mask_YX != fill) & (truth_YX != fill) & (chosen[mask_YX] | chosen[truth_YX])
    in_mask_YX, in_truth_YX = objects[mask_YX], objects[truth_YX]
    kinds_YX = np.where(in_mask_YX & in_truth_YX, 3, np.where(in_mask_YX, 1, np.where(in_truth_YX, 2, 3)))
    counted_YX: NDArray[np.uint8] = (kinds_YX * is_counted_YX).astype(np.uint8)
    return counted_YX


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
    picture = Image.frombytes("P", (ids_YX.shape[1], ids_YX.shape[0]), np.ascontiguousarray(ids_YX, np.uint8).tobytes())
    picture.putpalette(colors_N4[:, :3].tobytes())
    return _saved(picture, "PNG", compress_level=FASTEST, transparency=colors_N4[:, 3].tobytes())


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
