"""Colours that a file stores otherwise than as red, green and blue: converted to RGB as its format defines them.

Samples lie on the last axis, (..., S). Integers of a type are full range: 0..255 or 0..65535 unless ``full`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["cmyk_to_rgb", "color_table", "holds_ycc", "lab_to_rgb", "palette_to_rgb", "unpremultiply", "ycbcr_to_rgb"]

BT601 = (0.299, 0.587, 0.114)
WHITES = {"D50": (0.96422, 1.0, 0.82521), "D65": (0.95047, 1.0, 1.08883)}
# XYZ of white D50, which print and TIFF use, to that of D65, which sRGB uses (Bradford).
D50_TO_D65 = np.array(
    [[0.9555766, -0.0230393, 0.0631636], [-0.0282895, 1.0099416, 0.0210077], [0.0122982, -0.0204830, 1.3299098]], dtype=np.float64
)


def cmyk_to_rgb(cmyk: NDArray[Any]) -> NDArray[Any]:
    """Convert cyan, magenta, yellow and black (..., 4), 0 = no ink, to RGB (..., 3) without a profile, rounded; any unsigned type.

    Example:
        >>> cmyk_to_rgb(np.array([[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 128]], np.uint8)).tolist()
        [[255, 255, 255], [0, 255, 255], [127, 127, 127]]
    """
    full = np.iinfo(cmyk.dtype).max
    light = full - cmyk.astype(np.uint64)
    rgb = (light[..., :3] * light[..., 3:4] + full // 2) // full
    return np.asarray(rgb, cmyk.dtype)


def ycbcr_to_rgb(ycbcr: NDArray[Any], luma: Sequence[float] = BT601, reference: Sequence[float] = ()) -> NDArray[Any]:
    """Convert YCbCr (..., 3) to RGB (..., 3) of the same unsigned type, rounded.

    Args:
        ycbcr: luma, blue and red differences.
        luma: shares of red, green and blue in luma (TIFF's YCbCrCoefficients).
        reference: black and white codes of each sample (TIFF's ReferenceBlackWhite), six numbers; by default full range.

    Example:
        >>> ycbcr_to_rgb(np.array([[76, 85, 255], [255, 128, 128]], np.uint8)).tolist()
        [[254, 0, 0], [255, 255, 255]]
    """
    full = np.iinfo(ycbcr.dtype).max
    half = (full + 1) // 2
    codes = tuple(reference) or (0, full, half, full, half, full)
    samples: NDArray[Any] = ycbcr.astype(np.float32 if full < 65535 else np.float64)  # float32 is exact enough for 8 bits, and faster
    spans = full, half - 1, half - 1
    channels: list[NDArray[Any]] = [
        (samples[..., i] - codes[2 * i]) * (spans[i] / float(codes[2 * i + 1] - codes[2 * i])) for i in range(3)
    ]
    y, blue, red = channels
    samples[..., 0] = y + (2 - 2 * luma[0]) * red
    samples[..., 2] = y + (2 - 2 * luma[2]) * blue
    samples[..., 1] = (y - luma[2] * samples[..., 2] - luma[0] * samples[..., 0]) / luma[1]
    return np.asarray(np.clip(np.rint(samples), 0, full), ycbcr.dtype)


def lab_to_rgb(lab: NDArray[Any], encoding: Literal["cie", "icc"] = "cie", white: Literal["D50", "D65"] = "D50") -> NDArray[Any]:
    """Convert L*a*b* (..., 3) of 8 or 16 bits to sRGB (..., 3) of the same unsigned type, rounded; other colours are clipped.

    L* 0..100 spans the type. a* and b* are whole numbers of 8 bits, 1/256 of one with 16 bits: two's complement (``cie``,
    TIFF's photometric 8), or above an offset of 128 (``icc``, photometric 9).

    Example:
        >>> lab_to_rgb(np.array([[255, 0, 0], [138, 81, 70], [0, 0, 0]], np.uint8)).tolist()
        [[255, 255, 255], [255, 0, 0], [0, 0, 0]]
    """
    from skimage.color import xyz2rgb

    full = np.iinfo(lab.dtype).max
    step = (full + 1) // 256
    signed = lab[..., 1:].view(f"i{lab.dtype.itemsize}") if encoding == "cie" else lab[..., 1:].astype(np.float64) - 128 * step
    a, b = np.moveaxis(np.asarray(signed, np.float64) / step, -1, 0)
    y = (lab[..., 0] * (100 / full) + 16) / 116
    curve = np.stack([y + a / 500, y, y - b / 200], axis=-1)
    # scikit-image's lab2xyz warns of colours that do not exist, which noise and lossy files hold everywhere.
    share = np.where(curve > 6 / 29, curve**3, (curve - 16 / 116) / 7.787).clip(min=0)
    xyz = share * np.array(WHITES[white])
    rgb = xyz2rgb(xyz @ D50_TO_D65.T if white == "D50" else xyz)
    return np.asarray(np.rint(np.clip(rgb, 0, 1) * full), lab.dtype)


def color_table(colormap: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the colours (N, 3), 8 bits, of a TIFF's ColorMap (3, N); as libtiff does, codes below 256 throughout are 8-bit codes.

    Example:
        >>> color_table(np.array([[0, 65535], [0, 32896], [0, 0]], np.uint16)).tolist()
        [[0, 0, 0], [255, 128, 0]]
    """
    codes = colormap >> 8 if colormap.dtype.itemsize > 1 and colormap.max(initial=0) > 255 else colormap
    return np.ascontiguousarray(codes.T, dtype=np.uint8)


def palette_to_rgb(indices: NDArray[Any], table_NC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the colours (..., C) of indices (...).

    Raises:
        IndexError: an index lies beyond the table.

    Example:
        >>> palette_to_rgb(np.array([[1, 0]]), np.array([[0, 0, 0], [255, 128, 0]], np.uint8)).tolist()
        [[[255, 128, 0], [0, 0, 0]]]
    """
    return table_NC.take(indices, axis=0)


def holds_ycc(codestream: bytes) -> bool:
    """Whether a JPEG 2000 codestream has no colour transform of its own: the COD marker's component transform is 0."""
    marker = codestream.find(b"\xff\x52")
    return marker >= 0 and codestream[marker + 8 : marker + 9] == b"\x00"


def unpremultiply(colors: NDArray[Any], alpha: NDArray[Any], full: float | None = None) -> NDArray[Any]:
    """Divide colours (..., C) by their opacity (...), rounded and at most ``full``; 0 where the opacity is 0.

    Args:
        colors: premultiplied by opacity; integers, or floats.
        alpha: 0..``full``, of the same type.
        full: what is opaque: by default the largest of an integer type, 1 for floats.

    Example:
        >>> unpremultiply(np.array([[64, 32, 0], [9, 9, 9]], np.uint8), np.array([128, 0], np.uint8)).tolist()
        [[128, 64, 0], [0, 0, 0]]
    """
    is_float = colors.dtype.kind == "f"
    full = full or (1.0 if is_float else float(np.iinfo(colors.dtype).max))
    opacity = alpha[..., np.newaxis].astype(np.float64)
    straight = np.divide(colors * full, opacity, out=np.zeros(colors.shape), where=opacity > 0)
    return (straight if is_float else np.rint(np.clip(straight, 0, full))).astype(colors.dtype)
