"""Nuclei from the distances of their pixels to the middle, as HoVer-Net networks predict them."""

from __future__ import annotations

from math import comb
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.errors import Problem
from pipeline.instances import Instances, Labels, Region
from pipeline.instances._basins import climb, smoothed
from pipeline.instances._foreground import fill_holes, open_by_disk
from pipeline.validation import problems_error

__all__ = ["Hover"]

NUCLEAR_PIXELS, HORIZONTAL_VERTICAL = "nuclear_pixels", "horizontal_vertical"
_ON_MARKER = 10.0  # height of a marker's pixels above all others
_OPENING = 2  # radius of the disk that must fit into a marker, pixels
_BLUR = 0.8  # sigma of the Gaussian of 3 pixels that smooths heights, as OpenCV computes it


class Hover(Instances):
    """Decodes a network that predicts, in each pixel, whether it lies in a nucleus and where in the nucleus it lies.

    Graham et al. 2019, HoVer-Net, Medical Image Analysis 58 (arXiv:1812.06499). The model gives ``nuclear_pixels`` (1, Y, X), a
    probability, and ``horizontal_vertical`` (2, Y, X), the place of the pixel between the left (-1) and the right end (1) of its nucleus,
    and between the upper (-1) and the lower one (1). Where one nucleus ends and the next begins, these fall from 1 to -1. The Sobel
    operator finds these edges; the parts of a nucleus without edges are markers, and a watershed grows them over all pixels above
    ``threshold``. A nucleus has the wanted class of most of its pixels, and is left out if no pixel has a wanted class.

    The published method scales the derivatives of each picture to its own extremes, so that nuclei change with the picture's other
    content. Here an edge is compared with a full fall from 1 to -1 along a straight border, which is 1. Nuclei without a marker, which are
    small or narrow, are one object each; the published method drops them. It also leaves out what is below 10 pixels: set ``min_area``.

    Example::

        instances: {name: hover, of: [nucleus], min_area: 10}
    """

    maps: ClassVar[tuple[str, ...]] = (NUCLEAR_PIXELS, HORIZONTAL_VERTICAL)

    threshold: float = Field(default=0.5, ge=0, lt=1, description="probability above which a pixel belongs to a nucleus")
    edge: float = Field(
        default=0.2, gt=0, lt=1, description="fall of the maps above which a pixel is an edge, as a share of that from 1 to -1"
    )
    kernel: int = Field(default=21, ge=3, le=63, description="side of the Sobel operator, odd, pixels; 21 at 40x, 11 at 20x")

    @model_validator(mode="after")
    def _sees_enough(self) -> Self:
        problems = [] if self.kernel % 2 else [Problem("kernel", str(self.kernel), "an odd number")]
        if self.halo < (least := self.reach + 1):
            problems.append(
                Problem("halo", str(self.halo), f"at least {least}", f"Set halo to {least}: the operator needs that much context.")
            )
        if problems:
            raise problems_error(problems)
        return self

    @property
    def reach(self) -> int:
        """Pixels that edges and markers depend on, in each direction."""
        return self.kernel // 2 + 2 * _OPENING + self.kernel

    def label(self, region: Region) -> Labels:
        """Label the nuclei in row-major order of the pixels that are the deepest inside."""
        inside_YX = region.maps[NUCLEAR_PIXELS][0] > self.threshold
        edges_YX = np.where(inside_YX, self._edges(region.maps[HORIZONTAL_VERTICAL]), 0)
        heights_YX = smoothed(np.where(inside_YX, 1 - edges_YX, 0).astype(np.float32), _BLUR)
        markers_YX = fill_holes((inside_YX & (edges_YX < self.edge)).astype(np.int32), self.kernel) > 0
        markers_YX = open_by_disk(markers_YX, _OPENING)
        basins = climb(np.where(markers_YX, heights_YX + _ON_MARKER, heights_YX), inside_YX)
        return Labels.by_majority(basins.merged(_is_one), region)

    def _edges(self, maps_DYX: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return how steeply the maps fall (Y, X), from 0 to 1."""
        from scipy import ndimage

        smooth, derive = _sobel(self.kernel)
        falls = []
        for map_YX, axis in ((maps_DYX[0].astype(np.float32), 1), (maps_DYX[1].astype(np.float32), 0)):
            beside_YX = ndimage.correlate1d(map_YX, smooth, axis=1 - axis, mode="nearest")
            falls.append(-ndimage.correlate1d(beside_YX, derive, axis=axis, mode="nearest"))
        return np.asarray(np.clip(np.maximum(*falls), 0, 1))


def _sobel(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the two factors of the Sobel operator, those of OpenCV: a smoothing one, whose sum is 1, and a derivative.

    A fall from 1 to -1 between two pixels gives -1 beside it.

    Example:
        >>> [factor.tolist() for factor in _sobel(3)]
        [[0.25, 0.5, 0.25], [-0.5, 0.0, 0.5]]
    """
    smooth = np.array([comb(side - 1, at) for at in range(side)], np.float64)
    shorter = np.array([comb(side - 3, at) for at in range(side - 2)], np.float64)
    derive = np.convolve(shorter, [-1, 0, 1])
    return smooth / smooth.sum(), derive / (2 * derive[side // 2 + 1 :].sum())


def _is_one(peak: float, between: float, distance: float) -> bool:
    """Whether two basins are one nucleus: parts of one marker, or one of them has no marker."""
    del distance
    return between >= _ON_MARKER or peak < _ON_MARKER
