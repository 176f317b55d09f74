"""Changes of an image that should change little of its mask, as files that a user may have: padding, JPEG, sample types, gain, size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["CONTROL", "Change", "MapPlace", "Picture", "changes_of", "nearest", "write_picture"]

SHARES = (0.5, 0.9, 0.95)
QUALITIES = (95, 80, 60)


@dataclass(frozen=True)
class MapPlace:
    """Where a map lies: its coordinate system, and the transform from pixels, as rasterio knows them."""

    crs: Any
    transform: Any


@dataclass(frozen=True)
class Picture:
    """A piece of an image.

    Attributes:
        name: of its file, without a suffix.
        pixels: uint8, (Y, X) grey or (Y, X, 3) colour.
        size: of a pixel, micrometres; None: not known, or a map's.
        place: of a map; None: it is none.
    """

    name: str
    pixels: NDArray[Any]
    size: float | None = None
    place: MapPlace | None = None


@dataclass(frozen=True)
class Change:
    """A changed image, and how its mask comes back to the unchanged one's grid.

    Attributes:
        name: row of the table.
        of: returns the changed pixels; takes the picture and its mask, (Y, X), as predicted from the unchanged pixels.
        quality: of JPEG; None: nothing is lost.
        value_range: least and greatest value of a sample, for a run that asks for it.
        scale: new pixels per old one, along a side.
        sized: whether pixel sizes are stated; None: where the data state them.
    """

    name: str
    of: Callable[[Picture, NDArray[Any]], NDArray[Any]] = lambda picture, mask_YX: picture.pixels
    quality: int | None = None
    value_range: tuple[float, float] | None = None
    scale: float = 1.0
    sized: bool | None = None

    def back(self, mask_YX: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
        """Return the part of a mask where the unchanged image lies, on its grid: in the middle, or everywhere if the size changed."""
        if self.scale != 1.0:
            return nearest(mask_YX, shape)
        top, left = ((whole - part) // 2 for whole, part in zip(mask_YX.shape, shape, strict=True))
        return mask_YX[top : top + shape[0], left : left + shape[1]]


CONTROL = Change("saved again")


def changes_of(padding: Mapping[str, int | None], *, is_grey: bool) -> list[Change]:
    """Return the changes for one kind of images. ``padding`` is the grey level of each kind of padding; None: that of the background."""
    rows = [CONTROL]
    rows += [
        Change(f"{kind} padding, {share:.0%} of the area", partial(_pad, level, share))
        for kind, level in padding.items()
        for share in SHARES
    ]
    rows += [Change(f"JPEG, quality {quality}", quality=quality) for quality in QUALITIES]
    rows += [Change("uint16, times 257", lambda one, _: one.pixels.astype(np.uint16) * 257, value_range=(0, 65535))]
    rows += [Change("float32, 0 to 1", lambda one, _: one.pixels.astype(np.float32) / 255, value_range=(0, 1))]
    rows += [Change(f"gain {gain}", partial(_gain, gain)) for gain in (0.7, 1.4)]
    rows += [Change("Gaussian blur, sigma 1", _blur)]
    rows += [Change("grey as RGB", lambda one, _: _color(one.pixels))] if is_grey else []
    rows += [Change("RGBA, opaque", _opaque)]
    for scale in (0.5, 2.0):
        row = Change(f"size times {scale:g}, no pixel size", partial(_resize, scale), scale=scale, sized=False)
        rows += [row, replace(row, name=f"size times {scale:g}, pixel size stated", sized=True)]
    return rows


def nearest(mask_YX: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Bring a mask to another shape: each pixel gets the class at its centre."""
    rows, cols = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(shape, mask_YX.shape, strict=True))
    return mask_YX[np.ix_(rows, cols)]


def write_picture(folder: Path, picture: Picture, change: Change, pixels: NDArray[Any], *, sized: bool) -> Path:
    """Write changed pixels: as GeoTIFF where a map's place is stated, else as JPEG or PNG, or TIFF for samples of more than 8 bits."""
    path = folder / picture.name
    if sized and picture.place is not None:
        return _write_map(path.with_suffix(".tif"), picture.place, change, pixels)
    if change.quality is not None:
        path = path.with_suffix(".jpg")
        Image.fromarray(pixels).save(path, quality=change.quality)
    elif pixels.dtype == np.uint8:
        path = path.with_suffix(".png")
        Image.fromarray(pixels).save(path)
    else:
        import tifffile

        path = path.with_suffix(".tif")
        tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    return path


def _write_map(path: Path, place: MapPlace, change: Change, pixels: NDArray[Any]) -> Path:
    import rasterio

    pixels_CYX = np.atleast_3d(pixels).transpose(2, 0, 1)
    count, height, width = pixels_CYX.shape
    shape = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    place_of_it = {"crs": place.crs, "transform": place.transform * rasterio.Affine.scale(1 / change.scale)}
    how = {"photometric": "rgb" if count >= 3 else "minisblack"} | ({"alpha": "yes"} if count in (2, 4) else {})
    if change.quality is not None:
        how = {"compress": "jpeg", "jpeg_quality": change.quality} | ({"photometric": "ycbcr"} if count == 3 else {})
    with rasterio.open(path, "w", **shape, **place_of_it, **how) as file:
        file.write(pixels_CYX)
    return path


def _pad(level: int | None, share: float, picture: Picture, mask_YX: NDArray[Any]) -> NDArray[Any]:
    """Put the pixels in the middle of a larger picture of one level, so that this has ``share`` of the whole area."""
    pixels = picture.pixels
    factor = (1 / (1 - share)) ** 0.5
    height, width = (round(side * factor) for side in pixels.shape[:2])
    own = pixels[mask_YX == 0] if (mask_YX == 0).any() else pixels.reshape(-1, *pixels.shape[2:])
    fill = np.median(own, axis=0) if level is None else level
    padded = np.broadcast_to(np.asarray(fill, pixels.dtype), (height, width, *pixels.shape[2:])).copy()
    top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    padded[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return padded


def _gain(gain: float, picture: Picture, mask_YX: NDArray[Any]) -> NDArray[Any]:
    return np.clip(np.rint(picture.pixels * gain), 0, 255).astype(np.uint8)


def _blur(picture: Picture, mask_YX: NDArray[Any]) -> NDArray[Any]:
    from scipy.ndimage import gaussian_filter

    sigma = (1.0, 1.0, 0.0)[: picture.pixels.ndim]
    return np.rint(gaussian_filter(picture.pixels.astype(np.float32), sigma)).astype(np.uint8)


def _resize(scale: float, picture: Picture, mask_YX: NDArray[Any]) -> NDArray[Any]:
    height, width = (round(side * scale) for side in picture.pixels.shape[:2])
    return np.asarray(Image.fromarray(picture.pixels).resize((width, height), Image.Resampling.LANCZOS))


def _color(pixels: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


def _opaque(picture: Picture, mask_YX: NDArray[Any]) -> NDArray[Any]:
    color = _color(picture.pixels)
    return np.concatenate([color, np.full_like(color[:, :, :1], 255)], axis=2)
