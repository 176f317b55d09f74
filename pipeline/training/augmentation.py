"""Augmentation: draws the random change of a crop before any pixel is read.

The change says how large a region it needs, so that the reader reads no more than that.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator

from pipeline.training.crop_change import CropChange, draw_factor
from pipeline.validation import Expected

__all__ = ["Augment"]

_SCALES = "two numbers from 0.25 to 4, the smaller first"
_NODES = 3  # Ronneberger et al., 2015: displacements are drawn on a grid of 3 by 3


class Augment(BaseModel):
    """What may be done to a crop, and how far it may go; everything is drawn anew for each crop."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    flips: bool | Literal["horizontal"] = Field(
        default=True, description="mirror each axis at random; horizontal: left and right only, for images with an up and a down"
    )
    turns: bool = Field(default=True, description="turn by 0, 90, 180 or 270 degrees")
    scale: Annotated[tuple[float, float], Strict(strict=False), Expected(_SCALES)] = Field(
        default=(0.8, 1.25), description="smallest and largest zoom, log-uniform; 2 shows objects twice as large"
    )
    rotate: float = Field(default=0.0, ge=0, description="largest rotation either way, degrees, uniform")
    elastic: float = Field(
        default=0.0,
        ge=0,
        description="elastic deformation: standard deviation of the displacements, pixels of the image; 10 in the U-Net paper",
    )
    brightness: float = Field(default=0.2, ge=0, description="largest shift either way, in standard deviations, uniform")
    contrast: float = Field(default=0.2, ge=0, description="0.2: values times 1/1.2 to 1.2, log-uniform")
    color: float = Field(default=0.1, ge=0, description="brightness and contrast again, for each channel on its own")
    gamma: float = Field(default=0.0, ge=0, description="0.5: absolute values to the power of 1/1.5 to 1.5, log-uniform; signs stay")
    noise: float = Field(
        default=0.05, ge=0, description="largest standard deviation of Gaussian noise, in standard deviations of the image, uniform"
    )
    blur: float = Field(default=0.0, ge=0, description="largest standard deviation of a Gaussian blur, pixels of the image, uniform")

    @field_validator("scale")
    @classmethod
    def _in_order(cls, scale: tuple[float, float]) -> tuple[float, float]:
        # Sampling is bilinear: far below 0.25 it would skip pixels, and the region to read would have no bound.
        if not 0.25 <= scale[0] <= scale[1] <= 4:
            raise ValueError(_SCALES)
        return scale

    @classmethod
    def none(cls) -> Self:
        """Return the augmentation that changes nothing.

        Example:
            >>> Augment.none().draw(64, np.random.default_rng(0)).side
            64
        """
        return cls(flips=False, turns=False, scale=(1, 1), brightness=0, contrast=0, color=0, noise=0)

    def draw(self, crop: int, rng: np.random.Generator) -> CropChange:
        """Draw what is done to one crop.

        Args:
            crop: side of the crop that comes out, pixels.
            rng: the only source of chance; equal generators give equal changes.
        """
        offsets_YXD = self._draw_offsets(crop, rng)
        reach = (crop - 1) / 2 if offsets_YXD is None else float(max(offsets_YXD.max(), -offsets_YXD.min()))
        blur = self.blur * rng.random()
        margin = math.ceil(reach - (crop - 1) / 2) + math.ceil(3 * blur)
        return CropChange(
            crop=crop,
            side=crop + 2 * margin,
            offsets_YXD=offsets_YXD,
            mirrored=(self.flips is True and rng.random() < 0.5, bool(self.flips) and rng.random() < 0.5),
            turns=int(rng.integers(4)) if self.turns else 0,
            blur=blur,
            gain=float(draw_factor(self.contrast, rng)),
            shift=rng.uniform(-self.brightness, self.brightness),
            color=self.color,
            noise=self.noise * rng.random(),
            seed=int(rng.integers(2**32)),
            gamma=float(draw_factor(self.gamma, rng)),
        )

    def _draw_offsets(self, crop: int, rng: np.random.Generator) -> NDArray[np.float32] | None:
        """Draw where each pixel of the crop comes from; None: from its own position."""
        zoom = math.exp(rng.uniform(*np.log(self.scale)))
        angle = math.radians(rng.uniform(-self.rotate, self.rotate))
        if zoom == 1 and angle == 0 and self.elastic == 0:
            return None
        along_Y = (np.arange(crop, dtype=np.float32) - (crop - 1) / 2)[:, None]
        down, right = math.cos(angle) / zoom, math.sin(angle) / zoom
        offsets_YXD = np.stack([down * along_Y.T - right * along_Y, right * along_Y.T + down * along_Y], axis=-1)
        if self.elastic:
            weights_YN = _bicubic_weights(crop)
            nodes_DNN = self.elastic * rng.standard_normal((2, _NODES, _NODES), dtype=np.float32)
            offsets_YXD += np.moveaxis(weights_YN @ nodes_DNN @ weights_YN.T, 0, -1)
        return offsets_YXD


@lru_cache
def _bicubic_weights(crop: int) -> NDArray[np.float32]:
    """Return the weight of each node at each pixel along one axis, (crop, nodes); the outer nodes lie on the outer pixels."""
    import torch
    from torch.nn.functional import interpolate

    nodes_NN = torch.eye(_NODES)[:, None, :, None]
    return interpolate(nodes_NN, size=(crop, 1), mode="bicubic", align_corners=True)[:, 0, :, 0].T.numpy()
