"""Graph cuts: a pixel prefers the class that fits its colour, and the class of neighbours of similar colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, Strict

from pipeline.models.classical import ClassicalModel, Energy, PixelFeatures, SampleFitter, find_centers, minimise, neighbour_steps
from pipeline.statistics import Fitter, Summary

__all__ = ["GraphCut"]

_PER_NAT = 256  # units of energy per nat: costs are integers, and their sums over a tile stay below 2**31
_MAX_NATS = 64.0  # between classes: a larger difference is as certain as a cost can say


class GraphCut(ClassicalModel):
    """Classes of least energy: improbable colours cost energy, and so do borders where the image has no edge. Dark classes come first.

    Boykov and Jolly 2001, doi:10.1109/ICCV.2001.937505, exactly for two classes; alpha-expansion for more (Boykov, Veksler and
    Zabih 2001, doi:10.1109/34.969114). A pixel costs the negative logarithm of its class's share of the image times the class's
    density at its colour, and its ``texture`` if any. The density is the sum of a Gaussian for each part of the class, fitted to
    k-means clusters of a sample of the whole image (as ``kmeans``). A pair of neighbours (each pixel has eight) costs
    ``smoothness * exp(-d**2 / 2)``, divided by their distance, where its classes differ; d is the difference of its colours in units of
    ``contrast`` times the image's root mean square difference, as in GrabCut (Rother, Kolmogorov and Blake 2004,
    doi:10.1145/1015706.1015720). With ``smoothness: 0`` each pixel gets the likeliest class of its colour.

    Energy spreads from pixel to pixel, so no halo is exact; a halo of 64 pixels changed no pixel of five natural images.

    Example::

        model: {name: graphcut, classes: 2}
    """

    max_parts: ClassVar[int] = 16
    tile: ClassVar[Mapping[str, int]] = {"core": 512, "halo": 64}

    smoothness: float = Field(default=10.0, ge=0, le=100, description="cost of a border between two pixels of one colour, nats")
    contrast: float = Field(default=1.0, gt=0, description="how many times the usual difference of neighbours makes an edge")
    texture: Annotated[tuple[PositiveFloat, ...], Strict(strict=False)] = Field(
        default=(), description="sigmas, pixels: each adds the local mean and standard deviation of the grey value to the colour"
    )
    sweeps: int = Field(default=4, ge=1, description="with more than two classes: how often every class may expand at most")
    samples: int = Field(default=8192, ge=256, description="pixels that the colours of the classes are fitted to")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="of the sample and of the first centres")

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Use one and a half times the 670 bytes per pixel measured where most pixels are left to the flow."""
        height, width = tile
        return height * width * (channels * 48 + len(self.texture) * 24 + self.classes * 48 + 1000)

    @property
    def _features(self) -> PixelFeatures:
        return PixelFeatures(texture=self.texture, has_steps=True)

    def fitter(self) -> Fitter:
        """Gather a sample of the image's pixels."""
        return _ColourFitter(self._features, self.samples, self.seed, self.num_parts)

    def segment(self, pixels_CYX: NDArray[Any], fit: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Minimise the energy of the tile."""
        return minimise(self._energy(pixels_CYX, fit), self.sweeps)

    def _energy(self, pixels_CYX: NDArray[Any], fit: Mapping[str, Any]) -> Energy:
        features_FYX = replace(self._features, has_steps=False).of(pixels_CYX).astype(np.float64)
        values_CYX = features_FYX[: len(pixels_CYX)]
        nats_KYX = np.full((self.classes, *values_CYX.shape[1:]), np.inf)
        parts = zip(fit["means"], fit["roots"], fit["shares"], strict=True)
        for k, (mean_F, root_FF, share) in zip(self.outputs or range(self.classes), parts, strict=True):
            nats_KYX[k] = -np.logaddexp(-nats_KYX[k], np.log(share) - _nats(features_FYX, mean_F, root_FF))
        nats_KYX -= nats_KYX.min(axis=0)
        scaled_CYX = values_CYX / (np.array(fit["steps"]) * self.contrast * len(values_CYX) ** 0.5)[:, None, None]
        weights = [self.smoothness / apart * np.exp(-0.5 * (step_CYX**2).sum(axis=0)) for step_CYX, apart in neighbour_steps(scaled_CYX)]
        in_row, in_column, falling, rising = (np.rint(one * _PER_NAT).astype(np.int64) for one in weights)
        return Energy(np.rint(np.minimum(nats_KYX, _MAX_NATS) * _PER_NAT).astype(np.int64), (in_row, in_column, falling, rising))


def _nats(features_FYX: NDArray[np.float64], mean_F: Sequence[float], root_FF: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return the negative logarithm of a Gaussian's density (Y, X), up to a constant; L.T @ L of the root L inverts the covariance."""
    nats_YX = np.zeros(features_FYX.shape[1:])
    for row, weights in enumerate(root_FF):
        along_YX = np.zeros_like(nats_YX)
        for column in range(row + 1):  # in this order, so that every tiling rounds the same
            along_YX += weights[column] * (features_FYX[column] - mean_F[column])
        nats_YX += 0.5 * along_YX**2 - np.log(weights[row])
    return nats_YX


@dataclass(frozen=True)
class _ColourFitter(SampleFitter):
    num_parts: int

    def fit(self, summary: Summary) -> dict[str, Any]:
        """Return the parts' Gaussians and each channel's root mean square difference of neighbours.

        Returns:
            ``means`` (P, F), ``roots`` (P, F, F), ``shares`` (P,) and ``steps`` (C,).
        """
        textures = 2 * len(self.features.texture)
        channels = (summary["features"].shape[1] - textures) // 2
        few_NF, squares_NC = np.split(summary["features"], [channels + textures], axis=1)
        values_NF = few_NF.astype(np.float64)
        centers_PF, scale_F = find_centers(few_NF, self.num_parts, self.seed, channels)
        distances_PN = np.stack([(((values_NF - center_F) * scale_F) ** 2).sum(axis=1) for center_F in centers_PF])
        off_NF = values_NF - centers_PF[nearest_N := distances_PN.argmin(axis=0)]
        # The width of a part of one colour is a hundredth of the image's, or 1 where the image is constant.
        floor_F = np.where(scale_F > 0, (0.01 / np.where(scale_F > 0, scale_F, 1)) ** 2, 1.0)
        pooled_FF = np.einsum("ni,nj->ij", off_NF, off_NF) / max(len(off_NF), 1) + np.diag(floor_F)
        roots = []
        for part in range(self.num_parts):
            members_NF, num_imagined = off_NF[nearest_N == part], values_NF.shape[1]
            # As many imagined pixels as features keep the covariance of a small part near that of all pixels.
            covariance_FF = (np.einsum("ni,nj->ij", members_NF, members_NF) + num_imagined * pooled_FF) / (len(members_NF) + num_imagined)
            roots.append(np.linalg.inv(np.linalg.cholesky(covariance_FF + np.diag(floor_F))).tolist())
        # An empty part counts as one pixel; the steps of a constant image are 1.
        shares_P = np.maximum(np.bincount(nearest_N, minlength=self.num_parts), 1) / max(len(nearest_N), 1)
        squares_NC = squares_NC[np.isfinite(squares_NC).all(axis=1)]  # a pixel without data has no difference to its neighbours
        squares_C = squares_NC.mean(axis=0, dtype=np.float64) if len(squares_NC) else np.zeros(channels)
        steps_C = np.sqrt(np.where(squares_C > 0, squares_C, 1))
        return {"means": centers_PF.tolist(), "roots": roots, "shares": shares_P.tolist(), "steps": steps_C.tolist()}
