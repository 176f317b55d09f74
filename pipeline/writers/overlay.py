"""Overlay: a JPEG of the image with the outlines of its classes, to look at."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from pipeline.raster import Raster
from pipeline.storage import Storage
from pipeline.writers import MaskMeta, Writer, draw_image, fitted, pick_pixels

__all__ = ["Overlay"]

SHADE = 0.5  # brightness of pixels without a prediction


class Overlay(Writer):
    """A JPEG of the image with class outlines in their colours, except class 0; pixels without a prediction are darker.

    If the run tells objects apart, a line of one pixel separates touching ones.
    8-bit colours are drawn unchanged, other channels as their mean, stretched from the 1st to the 99.8th percentile. For a stack the
    middle plane is drawn. The JPEG's comment holds classes, colours and the size of its pixels, (y, x), as JSON.

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

        shape = fitted(meta.shape, self.size)
        with storage.local_file(key, durable=False) as path:
            comment = json.dumps({"classes": list(meta.classes), **_size(meta, shape)})
            picture_YXS = self._drawn(mask, meta, shape)
            Image.fromarray(picture_YXS).save(path, "JPEG", quality=self.quality, subsampling=0, comment=comment)

    def _drawn(self, mask: Raster, meta: MaskMeta, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the middle plane of the image with its outlines."""
        plane = mask.header.num_planes // 2
        picture_YXS = np.zeros((*shape, 3), np.uint8) if meta.open_image is None else draw_image(meta.open_image, shape, plane)
        mask_YX = pick_pixels(mask, shape, plane)[0][0]
        picture_YXS[mask_YX == meta.fill] = picture_YXS[mask_YX == meta.fill] * SHADE
        outlines_YX = _outlines(mask_YX, meta.fill, self.width)
        if meta.objects is not None:
            outlines_YX |= _touching(pick_pixels(meta.objects.labels, shape, plane)[0][0])
        for spec in meta.classes[1:]:
            picture_YXS[outlines_YX & (mask_YX == spec["id"])] = list(bytes.fromhex(spec["color"].lstrip("#")))
        return picture_YXS


def _touching(ids_YX: NDArray[Any]) -> NDArray[np.bool_]:
    """Find the pixels of objects that have another object to the right or below.

    Example:
        >>> _touching(np.array([[1, 1, 2, 2, 0, 3]])).tolist()
        [[False, True, False, False, False, False]]
    """
    touching_YX = np.zeros(ids_YX.shape, np.bool_)
    for here, there in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        touching_YX[here] |= (ids_YX[here] != ids_YX[there]) & (ids_YX[here] != 0) & (ids_YX[there] != 0)
    return touching_YX


def _size(meta: MaskMeta, shape: tuple[int, int]) -> dict[str, Any]:
    """Return the size of a pixel of the picture and its unit; empty where the mask's is not known."""
    if meta.pixel_size is None:
        return {}
    size = [size * (old / new) for size, old, new in zip(meta.pixel_size, meta.shape, shape, strict=True)]
    return {"pixel_size": size, "unit": meta.unit}


def _outlines(mask_YX: NDArray[Any], fill: int, width: int) -> NDArray[np.bool_]:
    """Find the pixels within ``width`` of another class; *no prediction* gets no outline."""
    from scipy.ndimage import maximum_filter, minimum_filter

    known_YX = np.where(mask_YX == fill, 0, mask_YX)
    side = 2 * width + 1
    outlines_YX: NDArray[np.bool_] = maximum_filter(known_YX, side) != minimum_filter(known_YX, side)
    return outlines_YX
