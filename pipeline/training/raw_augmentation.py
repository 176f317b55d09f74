"""Changes of raw pixels, before normalisation: what staining, haze and lossy files do to an image.

Drawn before any pixel is read, as every other change of a crop is; see :mod:`pipeline.training.augmentation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Problem
from pipeline.inputs import Image

__all__ = ["RawChange", "draw_raw_change", "stain_problems"]

_JPEG_SHARE = 0.5  # of the crops that are compressed
_BLACK_SHARE = 2 / 3  # of the paddings that are 0; the others are white
_WIDEST = 0.5  # padding of one side, share of the region
_LIGHT = (0.7, 1.0)  # haze: share of white, drawn for each channel


@dataclass(frozen=True, eq=False)
class RawChange:
    """What is done to the raw pixels of one crop, in this order: stain, haze, padding, JPEG.

    Attributes:
        densities: (2, 3), factor and summand of the optical density of haematoxylin, eosin and DAB; None: stains stay.
        haze: share of the light colour in the result.
        jpeg: quality, 1 to 100; None: no compression.
        padding: width above, below, left and right, shares of the height and the width; None: none.
        is_white: whether the padding is white; else it is 0.
        seed: of the light colour, because the number of channels is not known when a change is drawn.
    """

    densities: NDArray[np.float32] | None = None
    haze: float = 0.0
    jpeg: int | None = None
    seed: int = 0
    padding: tuple[float, float, float, float] | None = None
    is_white: bool = False

    def apply(self, pixels_CYX: NDArray[Any], *, is_color: bool) -> NDArray[Any]:
        """Return the changed pixels, raw values of the same type and shape; the input is never written to.

        Args:
            pixels_CYX: raw values; 8-bit red, green and blue where stains change.
            is_color: whether the channels are red, green and blue: then they are one JPEG, else each channel is one of its own.
        """
        if self.densities is not None:
            pixels_CYX = _change_stains(pixels_CYX, *self.densities)
        if self.haze:
            light_C11 = np.random.default_rng(self.seed).uniform(*_LIGHT, (len(pixels_CYX), 1, 1)) * _white(pixels_CYX)
            pixels_CYX = _as_type((1 - self.haze) * pixels_CYX + self.haze * light_C11, pixels_CYX.dtype)
        if (padded_YX := self.padded(pixels_CYX.shape[1:])) is not None:
            pixels_CYX = np.where(padded_YX, pixels_CYX.dtype.type(_white(pixels_CYX) if self.is_white else 0), pixels_CYX)
        return pixels_CYX if self.jpeg is None else _compress(pixels_CYX, self.jpeg, is_color=is_color)

    def padded(self, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """Return which pixels of a region are padding, bool (Y, X); None: none is."""
        if self.padding is None:
            return None
        height, width = shape
        above, below, left, right = self.padding
        padded_YX = np.ones((height, width), np.bool_)
        padded_YX[round(above * height) : height - round(below * height), round(left * width) : width - round(right * width)] = False
        return padded_YX


def draw_raw_change(rng: np.random.Generator, *, stain: float, haze: float, jpeg: int | None, padding: float) -> RawChange | None:
    """Draw a change of raw pixels; nothing is drawn for what is off, and None is returned where all is."""
    if not stain and not haze and jpeg is None and not padding:
        return None
    densities = None
    if stain:
        densities = np.stack([rng.uniform(1 - stain, 1 + stain, 3), rng.uniform(-stain, stain, 3)]).astype(np.float32)
    share, seed = (haze * rng.random(), int(rng.integers(2**32))) if haze else (0.0, 0)
    quality = int(rng.integers(jpeg, 101)) if jpeg is not None and rng.random() < _JPEG_SHARE else None
    change = RawChange(densities, share, quality, seed)
    if not padding or rng.random() >= padding:
        return change
    above, below, left, right = (_WIDEST * rng.random(4) * (rng.random(4) < 0.5)).tolist()
    return replace(change, padding=(above, below, left, right), is_white=bool(rng.random() >= _BLACK_SHARE))


def stain_problems(images: Sequence[Image], where: str) -> list[Problem]:
    """Refuse changes of stain for images that are not 8-bit RGB: what white is, and so a density, is not known of others."""
    for image in images:
        header = image.header
        if not header.is_color or header.channels != len("RGB") or header.dtype != "uint8":
            found = f"{image.name}: {header.channels} channel{'s' * (header.channels > 1)} of {header.dtype}"
            found += "" if header.is_color or header.channels != len("RGB") else " that are not red, green and blue"
            way_out = "Leave augment.stain out; brightness, contrast and color change any image."
            return [Problem(where, found, "RGB images of 8 bits", way_out)]
    return []


def _change_stains(pixels_CYX: NDArray[np.uint8], factors: NDArray[np.float32], summands: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Multiply the density of each stain and add to it (Tellez et al. 2018, doi 10.1109/TMI.2018.2820199).

    Densities are decadic: white glass has 0, and a density of 1 lets a tenth of the light through. They are not clipped at 0
    in between, so that a change by nothing is exact.
    """
    colors_SC = _stain_colors()
    matrix_CC = (np.linalg.inv(colors_SC) * factors @ colors_SC).T
    density_CN = matrix_CC @ _density_table()[pixels_CYX].reshape(3, -1) + (summands @ colors_SC)[:, None]
    light_CN = np.exp(density_CN * np.float32(-np.log(10)))
    changed_CYX: NDArray[np.uint8] = _as_type((256 * light_CN - 1).reshape(pixels_CYX.shape), pixels_CYX.dtype)
    return changed_CYX


@lru_cache
def _stain_colors() -> NDArray[np.float32]:
    """Return the densities of red, green and blue of haematoxylin, eosin and DAB (Ruifrok and Johnston 2001), (3, 3)."""
    from skimage.color import rgb_from_hed

    return np.asarray(rgb_from_hed, np.float32)


@lru_cache
def _density_table() -> NDArray[np.float32]:
    """Return the optical density of each 8-bit value: 255 has 0, and 0 is finite."""
    return -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)


def _compress(pixels_CYX: NDArray[Any], quality: int, *, is_color: bool) -> NDArray[Any]:
    """Encode as JPEG and decode. Other types than 8 bits go through 8 bits, scaled by their own range here, as exports do."""
    if pixels_CYX.dtype == np.uint8:
        return _compress_8_bits(pixels_CYX, quality, is_color=is_color)
    low, high = float(pixels_CYX.min()), float(pixels_CYX.max())
    if not high > low:
        return pixels_CYX
    scaled_CYX = _as_type((pixels_CYX - low) * (255 / (high - low)), np.dtype(np.uint8))
    decoded_CYX = _compress_8_bits(scaled_CYX, quality, is_color=is_color)
    return _as_type(decoded_CYX * ((high - low) / 255) + low, pixels_CYX.dtype)


def _compress_8_bits(pixels_CYX: NDArray[np.uint8], quality: int, *, is_color: bool) -> NDArray[np.uint8]:
    if is_color and len(pixels_CYX) == len("RGB"):
        return np.ascontiguousarray(np.moveaxis(_through_jpeg(np.moveaxis(pixels_CYX, 0, -1), quality), -1, 0))
    return np.stack([_through_jpeg(pixels_YX, quality) for pixels_YX in pixels_CYX])


def _through_jpeg(pixels_YXC: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    from PIL import Image as Picture

    file = BytesIO()
    Picture.fromarray(np.ascontiguousarray(pixels_YXC)).save(file, "jpeg", quality=quality)
    with Picture.open(file) as picture:
        return np.asarray(picture)


def _white(pixels_CYX: NDArray[Any]) -> float:
    """Return the value of white: 255 for 8 bits; of other types, which rarely fill their range, the greatest value here."""
    return 255.0 if pixels_CYX.dtype == np.uint8 else float(pixels_CYX.max())


def _as_type(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return values in a type; integers are rounded, and clipped to its range."""
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    integers: NDArray[Any] = np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return integers
