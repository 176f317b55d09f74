"""Augmentation: draws the random change of a crop before any pixel is read, then applies it.

The change says how large a region it needs, so that the reader reads no more than that. Pixels and labels move by the same map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict, field_validator

from pipeline.config import StrictModel
from pipeline.training.raw_augmentation import RawChange, draw_raw_change
from pipeline.validation import Expected

__all__ = ["Augment", "CropChange"]

_SCALES = "two numbers from 0.25 to 4, the smaller first"
_NODES = 3  # Ronneberger et al., 2015: displacements are drawn on a grid of 3 by 3


class Augment(StrictModel):
    """What may be done to a crop, and how far it may go; everything is drawn anew for each crop."""

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
    stain: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="8-bit RGB of stained tissue; 0.05: densities of haematoxylin, eosin and DAB times 0.95 to 1.05, "
        "plus -0.05 to 0.05, uniform",
    )
    haze: float = Field(default=0.0, ge=0, lt=1, description="largest share of a light colour that is mixed into the crop, uniform")
    jpeg: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None,
        description="50: half of the crops are compressed as JPEG of a quality from 50 to 100; "
        "other types than 8 bits pass through 8 bits, scaled by the range of the crop; null: none is",
    )

    padding: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the crops that get padding, 0 or white, up to half of the crop on any side; "
        "its truth is the class background, if that is the first, else ignored; for images that are seen with such padding, as "
        "fluorescence, electron micrographs and maps are; dark objects, as nuclei in stained tissue, may be taken for it",
    )

    @field_validator("scale")
    @classmethod
    def _in_order(cls, scale: tuple[float, float]) -> tuple[float, float]:
        # Sampling is bilinear: far below 0.25 it would skip pixels, and the region to read would have no bound.
        if not 0.25 <= scale[0] <= scale[1] <= 4:
            raise ValueError(_SCALES)
        return scale

    def draw(self, crop: int, rng: np.random.Generator) -> CropChange:
        """Draw what is done to one crop of ``crop`` pixels a side; equal generators give equal changes."""
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
            gain=float(_draw_factor(self.contrast, rng)),
            shift=rng.uniform(-self.brightness, self.brightness),
            color=self.color,
            noise=self.noise * rng.random(),
            seed=int(rng.integers(2**32)),
            gamma=float(_draw_factor(self.gamma, rng)),
            # Last, so that without it all else is drawn as before.
            raw=draw_raw_change(rng, stain=self.stain, haze=self.haze, jpeg=self.jpeg, padding=self.padding),
        )

    def largest_side(self, crop: int) -> int:
        """Return the side of the largest region that is read for a crop; elastic deformation counts with four standard deviations."""
        angle = math.radians(min(self.rotate, 45))
        reach = (crop - 1) / 2 / self.scale[0] * (math.cos(angle) + math.sin(angle)) + 4 * self.elastic
        return crop + 2 * (max(0, math.ceil(reach - (crop - 1) / 2)) + math.ceil(3 * self.blur))

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


@dataclass(frozen=True, eq=False)
class CropChange:
    """What is done to one crop. Threads may share it, and it may be applied many times with one result.

    The order: blur, resample, mirror, turn, gamma, gain and shift, noise. Changes of raw pixels come before, and before normalisation.

    Attributes:
        crop, side: sides of what comes out and of the square region to read, pixels; their middles are one.
        offsets_YXD: (crop, crop, 2), where each pixel comes from: (x, y) from the middle of the region, pixels; None: no resampling.
        mirrored, turns: whether y and x are mirrored; number of quarter turns.
        blur, noise: standard deviations, pixels and values.
        gain, shift: factor of the values, and what is added afterwards.
        color: how far gain and shift of each channel may differ, as in :class:`Augment`.
        seed: of the noise and of the differences between channels, because the number of channels is not known when a change is drawn.
        gamma: power of the absolute values; signs stay.
        raw: what the caller does to raw pixels before it normalises them; None: nothing.
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
    raw: RawChange | None = None

    def apply(self, pixels_CYX: NDArray[np.float32], labels: Sequence[NDArray[Any]] = ()) -> tuple[NDArray[np.float32], list[NDArray[Any]]]:
        """Return the changed crop of a region and of its labels, class or instance ids.

        Pixels (C, side, side), of about mean 0 and standard deviation 1, become (C, crop, crop). Each of the labels (side, side) becomes
        (crop, crop) in its own dtype, with no value that it did not hold before. Inputs are never written to; an array that does not
        change may be returned as it is.

        Raises:
            ValueError: an array is not of size (side, side).
        """
        sizes = {array.shape[-2:] for array in (pixels_CYX, *labels)}
        if sizes != {(self.side, self.side)}:
            raise ValueError(f"a change of {self.side} x {self.side} pixels was given {sorted(sizes)}")
        moved_CYX = self._flip_and_turn(self._resample(self._blur(pixels_CYX)))
        return self._recolor(moved_CYX), [self._flip_and_turn(self._resample_labels(labels_YX)) for labels_YX in labels]

    def _blur(self, pixels_CYX: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.blur:
            return pixels_CYX
        from scipy.ndimage import gaussian_filter

        blurred_CYX: NDArray[np.float32] = gaussian_filter(pixels_CYX, (0, self.blur, self.blur), radius=math.ceil(3 * self.blur))
        return blurred_CYX

    def _resample(self, pixels_CYX: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.offsets_YXD is None:
            return self._middle(pixels_CYX)
        import torch
        from torch.nn.functional import grid_sample

        # Torch counts from -1 to 1, from edge to edge of the region.
        grid_1YXD = torch.from_numpy(self.offsets_YXD * np.float32(2 / self.side))[None]
        region_1CYX = torch.from_numpy(np.require(pixels_CYX, np.float32, ["C", "W"]))[None]
        sampled_1CYX = grid_sample(region_1CYX, grid_1YXD, padding_mode="border", align_corners=False)
        sampled_CYX: NDArray[np.float32] = sampled_1CYX[0].numpy()
        return sampled_CYX

    def _resample_labels(self, labels_YX: NDArray[Any]) -> NDArray[Any]:
        """Take the nearest label by index, so that ids of any size stay exact."""
        if self.offsets_YXD is None:
            return self._middle(labels_YX)
        nearest_YXD = np.rint(self.offsets_YXD + np.float32((self.side - 1) / 2)).astype(np.intp)
        nearest_YX: NDArray[Any] = labels_YX.take(nearest_YXD[..., 1] * self.side + nearest_YXD[..., 0])
        return nearest_YX

    def _middle(self, region: NDArray[Any]) -> NDArray[Any]:
        margin = (self.side - self.crop) // 2
        return region[..., margin : margin + self.crop, margin : margin + self.crop]

    def _flip_and_turn(self, array: NDArray[Any]) -> NDArray[Any]:
        steps = tuple(slice(None, None, -1 if mirrored else None) for mirrored in self.mirrored)
        return np.ascontiguousarray(np.rot90(array[(..., *steps)], self.turns, axes=(-2, -1)))

    def _recolor(self, pixels_CYX: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        rng, shape = np.random.default_rng(self.seed), (len(pixels_CYX), 1, 1)
        if self.gamma != 1:
            pixels_CYX = np.copysign(np.abs(pixels_CYX) ** np.float32(self.gamma), pixels_CYX)
        gain_C11 = (self.gain * _draw_factor(self.color, rng, shape)).astype(np.float32)
        shift_C11 = (self.shift + rng.uniform(-self.color, self.color, shape)).astype(np.float32)
        if (gain_C11 != 1).any() or (shift_C11 != 0).any():
            pixels_CYX = pixels_CYX * gain_C11 + shift_C11
        if self.noise:
            # A generator of its own: threads share torch's global one.
            noise_CYX = self.noise * torch.randn(pixels_CYX.shape, generator=torch.Generator().manual_seed(self.seed))
            pixels_CYX = np.add(pixels_CYX, noise_CYX.numpy(), dtype=np.float32)
        return pixels_CYX


def _draw_factor(largest: float, rng: np.random.Generator, shape: tuple[int, ...] | None = None) -> Any:
    """Draw factors that shrink as often as they enlarge: log-uniform from 1 / (1 + largest) to 1 + largest."""
    bound = math.log1p(largest)
    return np.exp(rng.uniform(-bound, bound, shape))
