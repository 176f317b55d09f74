"""Augmentation: what is changed at random in a crop before the network sees it.

A change is drawn before any pixel is read, so that the reader knows how large a region it needs. Pixels and labels
are then moved by one and the same map, in one resampling; what changes brightness touches pixels alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator

from pipeline.validation import Expected

__all__ = ["Augment", "Change"]

_SCALES = "two numbers from 0.25 to 4, the smaller first"
_NODES = 3  # Ronneberger et al., 2015: displacements are drawn on a grid of 3 by 3


class Augment(BaseModel):
    """What may be done to a crop, and how far it may go; everything is drawn anew for each crop."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    flips: bool | Literal["horizontal"] = Field(
        default=True, description="mirror each axis, or not, at random; horizontal: left and right alone, where up is up"
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
    gamma: float = Field(default=0.0, ge=0, description="0.5: values to the power of 1/1.5 to 1.5, log-uniform; signs stay")
    noise: float = Field(default=0.05, ge=0, description="largest standard deviation of Gaussian noise, in those of the image, uniform")
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

    def draw(self, crop: int, rng: np.random.Generator) -> Change:
        """Return what is done to one crop; it depends on ``rng`` alone.

        Args:
            crop: side of the crop that comes out, pixels.
            rng: the only source of chance; equal generators give equal changes.
        """
        offsets_YXD = self._offsets(crop, rng)
        reach = (crop - 1) / 2 if offsets_YXD is None else float(max(offsets_YXD.max(), -offsets_YXD.min()))
        blur = self.blur * rng.random()
        margin = math.ceil(reach - (crop - 1) / 2) + math.ceil(3 * blur)
        return Change(
            crop=crop,
            side=crop + 2 * margin,
            offsets_YXD=offsets_YXD,
            mirrored=(self.flips is True and rng.random() < 0.5, bool(self.flips) and rng.random() < 0.5),
            turns=int(rng.integers(4)) if self.turns else 0,
            blur=blur,
            gain=float(_factor(self.contrast, rng)),
            shift=rng.uniform(-self.brightness, self.brightness),
            color=self.color,
            noise=self.noise * rng.random(),
            seed=int(rng.integers(2**32)),
            gamma=float(_factor(self.gamma, rng)),
        )

    def _offsets(self, crop: int, rng: np.random.Generator) -> NDArray[np.float32] | None:
        """Return where each pixel of the crop comes from; None: from its own place."""
        zoom = math.exp(rng.uniform(*np.log(self.scale)))
        angle = math.radians(rng.uniform(-self.rotate, self.rotate))
        if zoom == 1 and angle == 0 and self.elastic == 0:
            return None
        along_Y = (np.arange(crop, dtype=np.float32) - (crop - 1) / 2)[:, None]
        down, right = math.cos(angle) / zoom, math.sin(angle) / zoom
        offsets_YXD = np.stack([down * along_Y.T - right * along_Y, right * along_Y.T + down * along_Y], axis=-1)
        if self.elastic:
            weights_YN = _bicubic(crop)
            nodes_DNN = self.elastic * rng.standard_normal((2, _NODES, _NODES), dtype=np.float32)
            offsets_YXD += np.moveaxis(weights_YN @ nodes_DNN @ weights_YN.T, 0, -1)
        return offsets_YXD


@dataclass(frozen=True, eq=False)
class Change:
    """What is done to one crop. May be applied from any thread, any number of times, with one result.

    Attributes:
        crop: side of what comes out, pixels.
        side: side of the square region to read; its middle is that of the crop, pixels.
        offsets_YXD: (crop, crop, 2), where each pixel comes from: (x, y) from the middle of the region, pixels; None: no resampling.
        mirrored: whether y and x are mirrored, after that.
        turns: quarter turns, after that.
        blur: standard deviation of the Gaussian blur before resampling, pixels.
        gain: what values are multiplied by.
        shift: what is added to them then.
        color: how far gain and shift of each channel may differ, as in :class:`Augment`.
        noise: standard deviation of the noise.
        seed: of the noise and of what differs between channels, whose number is not known yet.
        gamma: the power that values are raised to, before anything else is done to them.
    """

    crop: int
    side: int
    offsets_YXD: NDArray[np.float32] | None
    mirrored: tuple[bool, bool]
    turns: int
    blur: float
    gain: float
    shift: float
    color: float
    noise: float
    seed: int
    gamma: float

    def apply(self, pixels_CYX: NDArray[np.float32], labels: Sequence[NDArray[Any]] = ()) -> tuple[NDArray[np.float32], list[NDArray[Any]]]:
        """Return the changed crop of a region and of all that lies on it.

        Args:
            pixels_CYX: (C, side, side), normalised: mean 0 and deviation 1, about.
            labels: arrays (side, side) of class or instance ids.

        Returns:
            The pixels (C, crop, crop), and each of the labels (crop, crop) in its own dtype, holding only values that it held.
            Inputs are never written to; what does not change may be returned as it came.

        Raises:
            ValueError: something is not of size (side, side).
        """
        found = {array.shape[-2:] for array in (pixels_CYX, *labels)}
        if found != {(self.side, self.side)}:
            raise ValueError(f"a change of {self.side} x {self.side} pixels was given {sorted(found)}")
        moved_CYX = self._colored(self._placed(self._sampled(self._blurred(pixels_CYX))))
        return moved_CYX, [self._placed(self._picked(labels_YX)) for labels_YX in labels]

    def _blurred(self, pixels_CYX: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.blur:
            return pixels_CYX
        from scipy.ndimage import gaussian_filter

        blurred_CYX: NDArray[np.float32] = gaussian_filter(pixels_CYX, (0, self.blur, self.blur), radius=math.ceil(3 * self.blur))
        return blurred_CYX

    def _sampled(self, pixels_CYX: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resample, bilinear."""
        if self.offsets_YXD is None:
            return self._middle(pixels_CYX)
        import torch
        from torch.nn.functional import grid_sample

        # Torch counts from -1 to 1, from edge to edge of the region.
        grid_YXD = torch.from_numpy(self.offsets_YXD * np.float32(2 / self.side))
        region_CYX = torch.from_numpy(np.require(pixels_CYX, np.float32, ["C", "W"]))
        sampled_CYX: NDArray[np.float32] = grid_sample(region_CYX[None], grid_YXD[None], padding_mode="border", align_corners=False)[
            0
        ].numpy()
        return sampled_CYX

    def _picked(self, labels_YX: NDArray[Any]) -> NDArray[Any]:
        """Resample, nearest: by index, so that ids of any size stay whole."""
        if self.offsets_YXD is None:
            return self._middle(labels_YX)
        nearest_YXD = np.rint(self.offsets_YXD + np.float32((self.side - 1) / 2)).astype(np.intp)
        picked_YX: NDArray[Any] = labels_YX.take(nearest_YXD[..., 1] * self.side + nearest_YXD[..., 0])
        return picked_YX

    def _middle(self, region: NDArray[Any]) -> NDArray[Any]:
        margin = (self.side - self.crop) // 2
        return region[..., margin : margin + self.crop, margin : margin + self.crop]

    def _placed(self, array: NDArray[Any]) -> NDArray[Any]:
        """Mirror and turn."""
        steps = tuple(slice(None, None, -1 if mirrored else None) for mirrored in self.mirrored)
        return np.ascontiguousarray(np.rot90(array[(..., *steps)], self.turns, axes=(-2, -1)))

    def _colored(self, pixels_CYX: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        rng, shape = np.random.default_rng(self.seed), (len(pixels_CYX), 1, 1)
        if self.gamma != 1:
            pixels_CYX = np.copysign(np.abs(pixels_CYX) ** np.float32(self.gamma), pixels_CYX)
        gain_C11 = (self.gain * _factor(self.color, rng, shape)).astype(np.float32)
        shift_C11 = (self.shift + rng.uniform(-self.color, self.color, shape)).astype(np.float32)
        if (gain_C11 != 1).any() or (shift_C11 != 0).any():
            pixels_CYX = pixels_CYX * gain_C11 + shift_C11
        if self.noise:
            # A generator of its own: threads share torch's global one.
            noise_CYX = self.noise * torch.randn(pixels_CYX.shape, generator=torch.Generator().manual_seed(self.seed))
            pixels_CYX = np.add(pixels_CYX, noise_CYX.numpy(), dtype=np.float32)
        return pixels_CYX


def _factor(largest: float, rng: np.random.Generator, shape: tuple[int, ...] | None = None) -> Any:
    """Return factors that are as likely to shrink as to grow: log-uniform from 1 / (1 + largest) to 1 + largest."""
    bound = math.log1p(largest)
    return np.exp(rng.uniform(-bound, bound, shape))


@lru_cache
def _bicubic(crop: int) -> NDArray[np.float32]:
    """Return what each node weighs at each pixel along one axis, (crop, nodes); the outer nodes lie on the outer pixels."""
    import torch
    from torch.nn.functional import interpolate

    nodes_NN = torch.eye(_NODES)[:, None, :, None]
    return interpolate(nodes_NN, size=(crop, 1), mode="bicubic", align_corners=True)[:, 0, :, 0].T.numpy()
