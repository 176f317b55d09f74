"""One random change of a crop, applied: pixels and labels move by the same map, and only pixels change their brightness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CropChange", "draw_factor"]


@dataclass(frozen=True, eq=False)
class CropChange:
    """What is done to one crop. Threads may share it, and it may be applied many times with one result.

    The order: blur, resample, mirror, turn, gamma, gain and shift, noise.

    Attributes:
        crop: side of what comes out, pixels.
        side: side of the square region to read; its middle is that of the crop, pixels.
        offsets_YXD: (crop, crop, 2), where each pixel comes from: (x, y) from the middle of the region, pixels; None: no resampling.
        mirrored: whether y and x are mirrored.
        turns: number of quarter turns.
        blur: standard deviation of the Gaussian blur, pixels.
        gain: factor of the values.
        shift: what is added to the values after ``gain``.
        color: how far gain and shift of each channel may differ, as in :class:`pipeline.training.augmentation.Augment`.
        noise: standard deviation of the noise.
        seed: of the noise and of the differences between channels, because the number of channels is not known when a change is drawn.
        gamma: power of the absolute values; signs stay.
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
        """Return the changed crop of a region and of its labels.

        Args:
            pixels_CYX: (C, side, side), normalised to about mean 0 and standard deviation 1.
            labels: arrays (side, side) of class or instance ids.

        Returns:
            The pixels (C, crop, crop), and each of the labels (crop, crop) in its own dtype with no value that it did not hold before.
            Inputs are never written to; an array that does not change may be returned as it is.

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
        """Resample bilinearly."""
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
        gain_C11 = (self.gain * draw_factor(self.color, rng, shape)).astype(np.float32)
        shift_C11 = (self.shift + rng.uniform(-self.color, self.color, shape)).astype(np.float32)
        if (gain_C11 != 1).any() or (shift_C11 != 0).any():
            pixels_CYX = pixels_CYX * gain_C11 + shift_C11
        if self.noise:
            # A generator of its own: threads share torch's global one.
            noise_CYX = self.noise * torch.randn(pixels_CYX.shape, generator=torch.Generator().manual_seed(self.seed))
            pixels_CYX = np.add(pixels_CYX, noise_CYX.numpy(), dtype=np.float32)
        return pixels_CYX


def draw_factor(largest: float, rng: np.random.Generator, shape: tuple[int, ...] | None = None) -> Any:
    """Draw factors that shrink as often as they enlarge: log-uniform from 1 / (1 + largest) to 1 + largest."""
    bound = math.log1p(largest)
    return np.exp(rng.uniform(-bound, bound, shape))
