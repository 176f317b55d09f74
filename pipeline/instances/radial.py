"""Star-convex polygons from the distances to an object's border along rays, as StarDist networks predict them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.errors import Problem
from pipeline.instances import Instances, Labels, Region
from pipeline.validation import problems_error

__all__ = ["Radial"]

OBJECT_PROBABILITY, DISTANCES = "object_probability", "distances"
_LEAST = 1e-3  # shortest distance along a ray, pixels
_SAMPLES = 64  # least number of points by which the overlap of two polygons is measured


class Radial(Instances):
    """Decodes a network that predicts, in each pixel, whether it lies in an object and how far the border is along rays.

    Schmidt et al. 2018, Cell Detection with Star-convex Polygons (arXiv:1806.03535). The model gives ``object_probability`` (1, Y, X) in
    [0, 1] and ``distances`` (R, Y, X) in pixels, of at most ``halo``, along at least 3 rays; ray k of R points to row
    ``sin(2 pi k / R)`` and column ``cos(2 pi k / R)``. Each pixel above ``threshold`` proposes a polygon. The most probable one is kept,
    and those that overlap it too much are left out; then the most probable one of the rest, and so on (non-maximum suppression). Of equally
    probable ones, the first in row-major order is kept. Polygons are drawn whole, also outside the mask; where they overlap, the more
    probable one is drawn. An object has the wanted class of most of its pixels, and is left out if no pixel has a wanted class.

    Overlap is the share of the smaller polygon that lies in the larger one, measured by at least 64 points spread over the smaller one.

    For a network that predicts every second row and column, ``grid: 2`` uses only those pixels, which is faster. Regions begin at
    multiples of ``grid`` if ``halo`` and the side of a block are multiples.

    Example::

        instances: {name: radial, of: [nucleus]}
    """

    maps: ClassVar[tuple[str, ...]] = (OBJECT_PROBABILITY, DISTANCES)

    threshold: float = Field(default=0.5, ge=0, lt=1, description="object probability above which a pixel proposes a polygon")
    overlap: float = Field(
        default=0.4, ge=0, lt=1, description="share of the smaller polygon in the larger one above which both are one object"
    )
    grid: int = Field(default=1, ge=1, le=16, description="only every n-th row and column proposes a polygon")

    @model_validator(mode="after")
    def _keeps_the_grid(self) -> Self:
        if self.halo % self.grid:
            raise problems_error([Problem("halo", str(self.halo), f"a multiple of grid, which is {self.grid}")])
        return self

    def label(self, region: Region) -> Labels:
        """Label the polygons that are kept, the most probable one first."""
        found_YX = region.maps[OBJECT_PROBABILITY][0, :: self.grid, :: self.grid]
        rows, cols = (found_YX > self.threshold).nonzero()
        order = np.argsort(-found_YX[rows, cols], kind="stable")
        centers_N2 = np.stack([rows, cols], axis=1)[order] * self.grid
        distances_NR = region.maps[DISTANCES][:, centers_N2[:, 0], centers_N2[:, 1]].T.astype(np.float32)
        distances_NR = np.clip(np.nan_to_num(distances_NR, posinf=self.halo), _LEAST, self.halo)
        return Labels.by_majority(_keep_best(_Polygons(centers_N2, distances_NR), region.mask_YX.shape, self.overlap), region)


@dataclass(frozen=True)
class _Polygons:
    """Star-convex polygons, the best one first.

    Attributes:
        centers_N2: row and column of each centre.
        distances_NR: pixels along each ray, above 0.
    """

    centers_N2: NDArray[np.intp]
    distances_NR: NDArray[np.float32]

    @cached_property
    def reach(self) -> NDArray[np.intp]:
        """The farthest row or column of each polygon from its centre, pixels (N,)."""
        return np.asarray(np.ceil(self.distances_NR.max(axis=1)), np.intp)

    @cached_property
    def areas(self) -> NDArray[np.float32]:
        """Area of each polygon (N,), in a common unit."""
        return np.asarray((self.distances_NR * np.roll(self.distances_NR, 1, axis=1)).sum(axis=1))

    def samples(self, which: NDArray[np.intp]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return points spread over polygons, relative to the centre (N, P, 2), and the share of the area that each stands for (N, P)."""
        chosen_NR = self.distances_NR[which]
        num_rays = chosen_NR.shape[1]
        per_ray = -(-_SAMPLES // num_rays)
        # Rings of equal area.
        shares_P = np.repeat(np.sqrt((np.arange(per_ray) + 0.5) / per_ray), num_rays).astype(np.float32)
        points_NP2 = (np.tile(chosen_NR, per_ray) * shares_P)[..., None] * np.tile(_directions(num_rays), (per_ray, 1))
        areasP = np.tile(chosen_NR**2, per_ray)
        return points_NP2, areasP / areasP.sum(axis=1, keepdims=True)

    def contain(self, which: NDArray[np.intp], points_NP2: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Return whether points, relative to the centre, lie in polygons or on their border (N, P).

        A point between two rays is a sum of a step along each. It is inside if the steps, as shares of the rays' lengths, add up to at
        most 1.
        """
        num_rays = self.distances_NR.shape[1]
        angle = 2 * np.pi / num_rays
        directions_R2 = _directions(num_rays)
        rows_NP, cols_NP = points_NP2[..., 0], points_NP2[..., 1]
        ray_NP = np.floor(np.arctan2(rows_NP, cols_NP) / np.float32(angle)).astype(np.intp) % num_rays
        next_NP = (ray_NP + 1) % num_rays
        along_NP = rows_NP * -directions_R2[next_NP, 1] + cols_NP * directions_R2[next_NP, 0]
        beside_NP = rows_NP * directions_R2[ray_NP, 1] - cols_NP * directions_R2[ray_NP, 0]
        polygon_N1 = which[:, None]
        shares_NP = along_NP / self.distances_NR[polygon_N1, ray_NP] + beside_NP / self.distances_NR[polygon_N1, next_NP]
        return np.asarray(shares_NP <= np.float32(np.sin(angle)))

    def overlaps(self, best: int, others: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the share of the smaller polygon that lies in the larger one, for one polygon and each of some others."""
        shares_N = np.zeros(len(others), np.float32)
        offsets_N2 = (self.centers_N2[others] - self.centers_N2[best]).astype(np.float32)
        is_smaller = self.areas[others] <= self.areas[best]
        for sign, asked in ((1, is_smaller), (-1, ~is_smaller)):
            one, some = np.full(int(asked.sum()), best), others[asked]
            inner, outer = (some, one) if sign > 0 else (one, some)
            points_NP2, areasP = self.samples(inner)
            shares_N[asked] = (areasP * self.contain(outer, points_NP2 + sign * offsets_N2[asked, None])).sum(axis=1)
        return shares_N


def _directions(num_rays: int) -> NDArray[np.float32]:
    """Return row and column of a step along each ray (R, 2)."""
    angles = np.arange(num_rays) * (2 * np.pi / num_rays)
    return np.stack([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _keep_best(polygons: _Polygons, shape: tuple[int, ...], overlap: float) -> NDArray[np.int32]:
    """Return the number of the polygon that each pixel (Y, X) belongs to, from 1, the best one first; 0: none."""
    height, width = shape
    labels_YX = np.zeros((height, width), np.int32)
    open_YX = np.full((height, width), -1, np.int32)  # at its centre, the index of each polygon that is neither kept nor left out
    open_YX[tuple(polygons.centers_N2.T)] = np.arange(len(polygons.centers_N2))
    farthest = int(polygons.reach.max(initial=0))
    for best, (row, col) in enumerate(polygons.centers_N2.tolist()):
        if open_YX[row, col] < 0:
            continue
        open_YX[row, col] = -1
        reach = int(polygons.reach[best])
        near = _around(row, col, reach + farthest)
        rivals = open_YX[near][open_YX[near] >= 0]
        rivals = rivals[np.abs(polygons.centers_N2[rivals] - (row, col)).max(axis=1) <= reach + polygons.reach[rivals]]
        same = rivals[polygons.overlaps(best, rivals) > overlap]
        open_YX[tuple(polygons.centers_N2[same].T)] = -1
        free_YX = labels_YX[_around(row, col, reach)]
        pixels_P2 = np.argwhere(free_YX == 0)
        inside_P = polygons.contain(np.array([best]), (pixels_P2 - (min(row, reach), min(col, reach)))[None].astype(np.float32))[0]
        free_YX[tuple(pixels_P2[inside_P].T)] = best + 1
    return labels_YX


def _around(row: int, col: int, reach: int) -> tuple[slice, slice]:
    """Return the pixels of a square around a pixel, clipped at the first row and column."""
    return slice(max(row - reach, 0), row + reach + 1), slice(max(col - reach, 0), col + reach + 1)
