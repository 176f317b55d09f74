"""Pictures of a page: a small image once, and what is laid over it as transparent pictures of few colours, which cost few bytes."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ERRORS",
    "FALSE",
    "MISSED",
    "UNKNOWN",
    "WRONG",
    "encode_jpeg",
    "error_kinds",
    "errors_png",
    "filled_png",
    "hex_color",
    "outlines_png",
    "palette_png",
    "shrink",
]

ERRORS = FALSE, MISSED, WRONG = (213, 94, 0), (86, 180, 233), (204, 121, 167)
"""Colours of errors, of the palette of Okabe and Ito: people who confuse red and green can tell them apart."""

UNKNOWN = ((235, 235, 235, 235), (70, 70, 70, 235))
"""The two colours of the stripes where there is no prediction."""

_DIMMED, _NOT_JUDGED = (0, 0, 0, 150), (128, 128, 128, 130)
_STRIPE = 4  # width of a stripe, pixels
_QUALITY = 80
_OUTLINE_ALPHA, _FILL_ALPHA = 255, 150
_OUTLINES_A_SIDE = 200  # so many outlines are as wide as the picture: they are seen when it is shown small
_MOST_IDS = 250  # different colours of a picture; above, some classes share one


def hex_color(color: Sequence[int]) -> str:
    """Return a colour as a page writes it.

    Example:
        >>> hex_color((213, 94, 0))
        '#d55e00'
    """
    return "#" + bytes(color[:3]).hex()


def shrink(ids_YX: NDArray[np.integer], shape: tuple[int, int]) -> NDArray[np.integer]:
    """Return class ids at ``shape``: those of the nearest pixels, since ids have no mean."""
    rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(shape, ids_YX.shape, strict=True))
    return ids_YX[np.ix_(rows, columns)]


def encode_jpeg(image_YXS: NDArray[np.uint8], shape: tuple[int, int]) -> bytes:
    """Return an image at ``shape`` as JPEG."""
    from PIL import Image

    picture = Image.fromarray(image_YXS)
    if picture.size != shape[::-1]:
        picture = picture.resize(shape[::-1], Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def outlines_png(mask_YX: NDArray[np.integer], colors: Sequence[str], fill: int, ids_YX: NDArray[np.integer] | None = None) -> bytes:
    """Return the outlines of all classes but class 0, the background, each inside of its regions; stripes where nothing is predicted.

    Args:
        mask_YX: class ids, or ``fill``.
        colors: ``#rrggbb`` of each class.
        fill: id where nothing is predicted.
        ids_YX: numbers of objects, so that touching ones have an outline each; None: they are not told apart.
    """
    width = max(1, round(max(mask_YX.shape) / _OUTLINES_A_SIDE))
    is_edge_YX = _edges(mask_YX, width)
    if ids_YX is not None:
        is_edge_YX |= _edges(ids_YX, width)
    return _class_png(np.where(is_edge_YX & (mask_YX != 0), mask_YX, 0), colors, fill, _OUTLINE_ALPHA, mask_YX == fill)


def _edges(values_YX: NDArray[np.integer], width: int) -> NDArray[np.bool_]:
    """Find the pixels that have another value within ``width`` above, below, left or right."""
    padded_YX, (height, breadth) = np.pad(values_YX, width, mode="edge"), values_YX.shape
    steps = [step for far in range(1, width + 1) for step in ((0, far), (far, 0), (0, -far), (-far, 0))]
    around = [padded_YX[width + dy : width + dy + height, width + dx : width + dx + breadth] for dy, dx in steps]
    edges_YX: NDArray[np.bool_] = np.logical_or.reduce([one != values_YX for one in around])
    return edges_YX


def filled_png(ids_YX: NDArray[np.integer], colors: Sequence[str], fill: int, *, is_opaque: bool) -> bytes:
    """Return the classes as areas; stripes where nothing is predicted.

    Args:
        ids_YX: class ids, or ``fill``.
        colors: ``#rrggbb`` of each class.
        fill: id where nothing is predicted.
        is_opaque: with class 0; else the image below is seen through, and class 0 is left out.
    """
    return _class_png(ids_YX, colors, fill, 255 if is_opaque else _FILL_ALPHA, ids_YX == fill, has_zero=is_opaque)


def error_kinds(
    mask_YX: NDArray[np.integer], truth_YX: NDArray[np.integer], fill: int, shown: Collection[int] | None = None
) -> NDArray[np.uint8]:
    """Compare a mask with its truth: 0 right or not counted, 1 false, 2 missed, 3 wrong class.

    Only pixels count whose class in the mask or in the truth is ``shown``; None: all. Class 0 is the background, unless it alone is shown:
    a pixel is false where only the mask has something, missed where only the truth does, of a wrong class where both do.

    Example:
        >>> mask, truth = np.array([[0, 1, 0, 1, 9]]), np.array([[0, 0, 1, 2, 1]])
        >>> error_kinds(mask, truth, 9).tolist()
        [[0, 1, 2, 3, 0]]
    """
    chosen = np.full(fill + 1, shown is None)
    chosen[[one for one in shown or () if one < fill]] = True
    objects = chosen.copy()
    if chosen[1:].any():
        objects[0] = False
    is_counted_YX = (mask_YX != truth_YX) & (mask_YX != fill) & (truth_YX != fill) & (chosen[mask_YX] | chosen[truth_YX])
    in_mask_YX, in_truth_YX = objects[mask_YX], objects[truth_YX]
    kinds_YX = np.where(in_mask_YX & in_truth_YX, 3, np.where(in_mask_YX, 1, np.where(in_truth_YX, 2, 3)))
    counted_YX: NDArray[np.uint8] = (kinds_YX * is_counted_YX).astype(np.uint8)
    return counted_YX


def errors_png(mask_YX: NDArray[np.integer], truth_YX: NDArray[np.integer], fill: int, *, is_dimmed: bool) -> bytes:
    """Return where mask and truth differ: false, missed, of a wrong class; stripes where nothing is predicted.

    Args:
        mask_YX: class ids, or ``fill``: no prediction.
        truth_YX: class ids, or ``fill``: ignored.
        fill: see above.
        is_dimmed: cover what is right with a veil, so that the errors stand out from an image.
    """
    kinds_YX = error_kinds(mask_YX, truth_YX, fill)
    kinds_YX[truth_YX == fill] = 4
    _draw_stripes(kinds_YX, mask_YX == fill, 5)
    right = _DIMMED if is_dimmed else (0, 0, 0, 0)
    return palette_png(kinds_YX, [right, *((*one, 255) for one in ERRORS), _NOT_JUDGED, *UNKNOWN])


def _class_png(
    ids_YX: NDArray[np.integer], colors: Sequence[str], fill: int, alpha: int, is_unknown_YX: NDArray[np.bool_], *, has_zero: bool = False
) -> bytes:
    """Return class ids in their colours; 0 is transparent unless ``has_zero``."""
    used = [one for one in np.unique(ids_YX).tolist() if one != fill and (one or has_zero)]
    places = np.zeros(max(int(ids_YX.max()), fill) + 1, np.uint8)
    places[used] = 1 + np.arange(len(used)) % _MOST_IDS
    drawn_YX = places[ids_YX]
    shown = used[:_MOST_IDS]
    _draw_stripes(drawn_YX, is_unknown_YX, 1 + len(shown))
    lut = [(*bytes.fromhex(colors[one].lstrip("#")), alpha) if one < len(colors) else (128, 128, 128, alpha) for one in shown]
    return palette_png(drawn_YX, [(0, 0, 0, 0), *lut, *UNKNOWN])


def _draw_stripes(indices_YX: NDArray[np.uint8], is_unknown_YX: NDArray[np.bool_], first: int) -> None:
    """Set ``first`` and the index behind it in turns, along diagonals."""
    y_Y1, x_X = np.ogrid[: indices_YX.shape[0], : indices_YX.shape[1]]
    stripes_YX = (first + (y_Y1 + x_X) // _STRIPE % 2).astype(np.uint8)
    indices_YX[is_unknown_YX] = stripes_YX[is_unknown_YX]


def palette_png(
    indices_YX: NDArray[np.uint8], colors: NDArray[np.uint8] | Sequence[tuple[int, int, int, int]], *, compress_level: int = 6
) -> bytes:
    """Return indices into at most 256 colours with opacities as PNG."""
    from PIL import Image

    colors_N4 = np.asarray(colors, np.uint8)
    picture = Image.fromarray(indices_YX)
    picture.putpalette(colors_N4[:, :3].tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=colors_N4[:, 3].tobytes(), compress_level=compress_level)
    return file.getvalue()
