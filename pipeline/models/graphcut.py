"""Graph cuts: colours say what a pixel is likely to be, neighbours of like colour want the same class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.fits import Fit, Fitter, Summary
from pipeline.models import Predict
from pipeline.models._expansion import Energy, minimise
from pipeline.models._parts import PartsModel
from pipeline.models._sample import Features, SampleFitter, cluster
from pipeline.recipe import Recipe

__all__ = ["GraphCut"]

_STEPS = 256  # of energy a nat: costs are whole numbers, and their sums over a tile stay below 2**31
_MOST = 64.0  # nats between classes: a pixel further off than that is as sure as it can be


class GraphCut(PartsModel):
    """Classes of least energy: improbable colours cost, and so do borders where the image has no edge; dark classes come first.

    Boykov and Jolly 2001, doi:10.1109/ICCV.2001.937505, exactly for two classes; alpha-expansion for more (Boykov, Veksler and
    Zabih 2001, doi:10.1109/34.969114). A pixel costs the negative logarithm of its colour's density, of a Gaussian for each class, fitted
    to k-means clusters of a sample of the whole image (as ``kmeans``). Two of its four neighbours' pairs cost
    ``smoothness * exp(-d**2 / 2)`` where their classes differ, d being their colours' distance in units of ``contrast`` standard
    deviations within a class. With ``smoothness: 0`` what remains is the likeliest class of each colour.

    Energy is passed on from pixel to pixel, so no halo is exact; one of 64 pixels changed no pixel of five natural images.

    Example::

        model: {name: graphcut, classes: 2}
    """

    most_parts: ClassVar[int] = 16

    smoothness: float = Field(default=2.0, ge=0, le=100, description="cost of a border between two pixels of one colour, nats")
    contrast: float = Field(default=2.0, gt=0, description="standard deviations within a class that make an edge")
    sweeps: int = Field(default=4, ge=1, description="with more than two classes: how often every class may expand at most")
    samples: int = Field(default=8192, ge=256, description="pixels that the colours of the classes are fitted to")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="of the sample and of the first centres")

    @property
    def tile(self) -> Mapping[str, int]:
        """Measured: see the class."""
        return {"core": 512, "halo": 64}

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Measured where no pixel is decided without the flow."""
        height, width = tile
        return height * width * (channels * 12 + self.parts * 16 + 600)

    def fitter(self) -> Fitter:
        """A sample of the image."""
        return _ColourFitter(Features(), self.samples, self.seed, self.parts)

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predict]:
        """Nothing is loaded: the colours of the classes come with each tile's fit."""
        del recipe, normalize
        yield self._predict

    def _predict(self, pixels_BCYX: NDArray[Any], fits: Sequence[Fit]) -> NDArray[np.uint8]:
        energies = (self._energy(pixels_CYX, fit["model"]) for pixels_CYX, fit in zip(pixels_BCYX, fits, strict=True))
        return self.classes_of(np.stack([minimise(energy, self.sweeps) for energy in energies]))

    def _energy(self, pixels_CYX: NDArray[Any], fit: Mapping[str, Any]) -> Energy:
        values_CYX = pixels_CYX.astype(np.float64)
        nats_KYX = np.stack(
            [_nats(values_CYX, *one) for one in zip(fit["means"], fit["roots"], strict=True)],
        )
        nats_KYX -= nats_KYX.min(axis=0)
        scaled_CYX = values_CYX / (np.array(fit["within"]) * self.contrast * len(values_CYX) ** 0.5)[:, None, None]
        weights = [self.smoothness * np.exp(-0.5 * (np.diff(scaled_CYX, axis=axis) ** 2).sum(axis=0)) for axis in (2, 1)]
        in_row, in_column = (np.rint(one * _STEPS).astype(np.int64) for one in weights)
        return Energy(np.rint(np.minimum(nats_KYX, _MOST) * _STEPS).astype(np.int64), (in_row, in_column))


def _nats(values_CYX: NDArray[np.float64], mean_C: Sequence[float], root_CC: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return minus the logarithm of a Gaussian's density (Y, X), up to a constant.

    Args:
        values_CYX: colours.
        mean_C: the mean.
        root_CC: a lower triangle L, where L.T @ L is the inverse of the covariance.
    """
    nats_YX = np.zeros(values_CYX.shape[1:])
    for row, weights in enumerate(root_CC):
        along_YX = np.zeros_like(nats_YX)
        for channel in range(row + 1):  # in this order pixel by pixel, so that no cut changes the rounding
            along_YX += weights[channel] * (values_CYX[channel] - mean_C[channel])
        nats_YX += 0.5 * along_YX**2 - np.log(weights[row])
    return nats_YX


@dataclass(frozen=True)
class _ColourFitter(SampleFitter):
    parts: int

    def fit(self, summary: Summary) -> dict[str, Any]:
        """Return ``{"means": (K, C), "roots": (K, C, C), "within": (C,)}``: Gaussians of the classes, standard deviation within them."""
        values_NC = summary["features"].astype(np.float64)
        channels = values_NC.shape[1]
        centers_KC, scale_C = cluster(summary["features"], self.parts, self.seed, channels)
        distances_KN = np.stack([(((values_NC - center_C) * scale_C) ** 2).sum(axis=1) for center_C in centers_KC])
        off_NC = values_NC - centers_KC[nearest_N := distances_KN.argmin(axis=0)]
        # A class of one colour has no width: a hundredth of the image's is taken, or one where the image has none either.
        floor_C = np.where(scale_C > 0, (0.01 / np.where(scale_C > 0, scale_C, 1)) ** 2, 1.0)
        pooled_CC = np.einsum("ni,nj->ij", off_NC, off_NC) / max(len(off_NC), 1) + np.diag(floor_C)
        roots = []
        for k in range(self.parts):
            members_NC = off_NC[nearest_N == k]
            # As many imagined pixels as there are channels keep the covariance of a small class near that of all.
            covariance_CC = (np.einsum("ni,nj->ij", members_NC, members_NC) + channels * pooled_CC) / (
                len(members_NC) + channels
            ) + np.diag(floor_C)
            roots.append(np.linalg.inv(np.linalg.cholesky(covariance_CC)).tolist())
        return {"means": centers_KC.tolist(), "roots": roots, "within": np.sqrt(np.diag(pooled_CC)).tolist()}
