"""Overlay: a JPEG of the image with the outlines of its classes, to look at."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from pipeline.geometry import Box
from pipeline.raster import NearestRaster, Raster, ResampledRaster, resampled_header
from pipeline.storage import Storage
from pipeline.writers import MaskMeta, Writer

__all__ = ["Overlay"]

STRIP_BYTES = 1 << 26  # of the image, read at once
LOW, HIGH = 1.0, 99.8  # percentiles that are drawn black and white where the image is no 8-bit colour
SHADE = 0.5  # of pixels without a prediction


class Overlay(Writer):
    """A JPEG of the image, with the outline of each class but class 0 in its colour; pixels without a prediction are darker.

    Colours are drawn as they are, other channels as their mean, stretched from the 1st to the 99.8th percentile. Of a stack the
    middle plane is drawn.

    Example::

        writers: [{name: ome_zarr}, {name: overlay, size: 4000}]
    """

    suffix: ClassVar[str] = ".jpg"
    folder: ClassVar[str] = "overlays"
    holds_mask: ClassVar[bool] = False

    size: int = Field(default=2048, ge=16, le=65000, description="longer side of the picture, pixels; images are never enlarged")
    width: int = Field(default=2, ge=1, le=50, description="of the outlines, pixels")
    quality: int = Field(default=90, ge=1, le=100, description="of the JPEG")

    @override
    def export(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        from PIL import Image

        shape = _fitted(meta.shape, self.size)
        plane = mask.header.num_planes // 2
        picture_YXS = self._picture(meta, shape, plane)
        whole = Box(0, 0, *shape)
        step = (meta.shape[0] / shape[0], meta.shape[1] / shape[1])
        mask_YX = NearestRaster(mask, resampled_header(mask.header, step, shape=shape), step).read(whole, plane)[0]
        picture_YXS[mask_YX == meta.fill] = picture_YXS[mask_YX == meta.fill] * SHADE
        outlines_YX = _outlines(mask_YX, meta.fill, self.width)
        for spec in meta.classes[1:]:
            picture_YXS[outlines_YX & (mask_YX == spec["id"])] = list(bytes.fromhex(spec["color"].lstrip("#")))
        with storage.local_file(key, durable=False) as path:
            Image.fromarray(picture_YXS).save(path, "JPEG", quality=self.quality, subsampling=0)

    def _picture(self, meta: MaskMeta, shape: tuple[int, int], plane: int) -> NDArray[np.uint8]:
        """Return the image (Y, X, 3) in the picture's size; black where there is no image."""
        if meta.open_image is None:
            return np.zeros((*shape, 3), np.uint8)
        with meta.open_image(max(shape)) as image:
            header = image.header
            step = (header.shape[0] / shape[0], header.shape[1] / shape[1])
            small = ResampledRaster(image, resampled_header(header, step, shape=shape), step)
            strip_bytes = step[0] * header.shape[1] * header.channels * np.dtype(header.dtype).itemsize
            rows = max(1, int(STRIP_BYTES / strip_bytes))
            strips = [small.read_valid(Box(y, 0, y + rows, shape[1]).clip(shape), plane) for y in range(0, shape[0], rows)]
        pixels_CYX = np.concatenate([pixels for pixels, _ in strips], axis=1)
        valid_YX = np.concatenate([np.ones(pixels.shape[1:], bool) if valid is None else valid for pixels, valid in strips])
        if header.is_color and header.dtype == "uint8":
            return np.ascontiguousarray(pixels_CYX[:3].transpose(1, 2, 0))
        return _stretched(pixels_CYX, valid_YX, is_color=header.is_color)


def _fitted(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Return the shape of the picture.

    Example:
        >>> _fitted((4000, 1000), 2000), _fitted((30, 20), 2000)
        ((2000, 500), (30, 20))
    """
    factor = max(1.0, max(shape) / size)
    return max(1, round(shape[0] / factor)), max(1, round(shape[1] / factor))


def _stretched(pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_], *, is_color: bool) -> NDArray[np.uint8]:
    values = pixels_CYX[:3].astype(np.float32) if is_color else pixels_CYX.astype(np.float32).mean(0, keepdims=True)
    kept = values[:, valid_YX]
    low, high = np.percentile(kept, [LOW, HIGH]) if kept.size else (0.0, 1.0)
    scaled = np.clip((values - low) / max(float(high - low), 1e-12), 0, 1) * valid_YX
    return np.ascontiguousarray(np.broadcast_to((scaled * 255).astype(np.uint8).transpose(1, 2, 0), (*values.shape[1:], 3)))


def _outlines(mask_YX: NDArray[Any], fill: int, width: int) -> NDArray[np.bool_]:
    """Find the pixels of a class that lie within ``width`` of another class; *no prediction* draws no outline."""
    from scipy.ndimage import maximum_filter, minimum_filter

    known_YX = np.where(mask_YX == fill, 0, mask_YX)
    side = 2 * width + 1
    outlines_YX: NDArray[np.bool_] = maximum_filter(known_YX, side) != minimum_filter(known_YX, side)
    return outlines_YX
