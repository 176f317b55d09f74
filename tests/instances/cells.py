"""Cells whose labels are known, and the maps that a perfect model gives for them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline.geometry import Box
from pipeline.instances import Region
from pipeline.instances.border import Border
from pipeline.instances.components import Components
from pipeline.instances.flows import Flows
from pipeline.instances.hover import Hover
from pipeline.instances.radial import Radial
from pipeline.instances.watershed import Watershed

METHODS = {
    "components": Components(),
    "border": Border(),
    "watershed": Watershed(),
    "radial": Radial(),
    "flows": Flows(),
    "hover": Hover(kernel=11),
}
SPLITTERS = [name for name in METHODS if name != "components"]
RAYS = 32


def dense_cells(side=170, seed=0, step=26):
    """Round cells on a jittered grid, many of which touch; a pixel belongs to the nearest centre."""
    random = np.random.default_rng(seed)
    places = np.arange(step // 2, side, step)
    centers_N2 = np.array([(y, x) for y in places for x in places]) + random.uniform(-3, 3, (len(places) ** 2, 2))
    radii = random.uniform(0.36, 0.56, len(centers_N2)) * step
    rows_YX, cols_YX = np.mgrid[:side, :side]
    distances_NYX = np.hypot(rows_YX - centers_N2[:, 0, None, None], cols_YX - centers_N2[:, 1, None, None])
    nearest_YX = distances_NYX.argmin(axis=0)
    inside_YX = np.take_along_axis(distances_NYX, nearest_YX[None], axis=0)[0] <= radii[nearest_YX]
    return np.unique(np.where(inside_YX, nearest_YX + 1, 0), return_inverse=True)[1].reshape(side, side)


def disks(shape, *cells):
    """Disks, given as row, column and radius; a pixel of two disks belongs to the one whose border is farther away."""
    rows_YX, cols_YX = np.mgrid[: shape[0], : shape[1]]
    depths_NYX = np.stack([radius - np.hypot(rows_YX - row, cols_YX - col) for row, col, radius in cells])
    return np.where(depths_NYX.max(axis=0) >= 0, depths_NYX.argmax(axis=0) + 1, 0)


def region_of(truth_YX, classes_N=None):
    """The region that a perfect model gives for cells; each has class 1 or the one that is given."""
    num = int(truth_YX.max())
    classes_N = np.ones(num, int) if classes_N is None else np.asarray(classes_N)
    mask_YX = np.concatenate([[0], classes_N])[truth_YX].astype(np.uint8)
    probs_KYX = (np.stack([mask_YX == one for one in range(int(classes_N.max(initial=1)) + 1)]) * 255).astype(np.uint8)
    return Region(mask_YX, tuple(sorted(set(classes_N.tolist()) | {1})), probs_KYX, maps_of(truth_YX))


def maps_of(truth_YX):
    """The outputs of perfect models of every kind, float32."""
    shape = truth_YX.shape
    depth_YX, flows_2YX, distances_RYX = np.zeros(shape), np.zeros((2, *shape)), np.zeros((RAYS, *shape))
    places_2YX = np.zeros((2, *shape))
    for number in range(1, truth_YX.max() + 1):
        cell_YX = truth_YX == number
        inside_YX = ndimage.distance_transform_edt(np.pad(cell_YX, 1))[1:-1, 1:-1]
        depth_YX[cell_YX] = inside_YX[cell_YX]
        pixels_N2 = np.argwhere(cell_YX)
        to_middle_N2 = pixels_N2.mean(axis=0) - pixels_N2
        flows_2YX[:, cell_YX] = (to_middle_N2 / np.maximum(np.hypot(*to_middle_N2.T), 1)[:, None]).T
        places_2YX[:, cell_YX] = [_place_along(-to_middle_N2[:, axis]) for axis in (1, 0)]
    highest_YX = ndimage.maximum(depth_YX, truth_YX, np.arange(truth_YX.max() + 1))[truth_YX]
    for ray, angle in enumerate(np.arange(RAYS) * 2 * np.pi / RAYS):
        distances_RYX[ray] = _distance_along(truth_YX, np.sin(angle), np.cos(angle))
    maps = {
        "interior": [depth_YX > 1.5],
        "border": [(truth_YX > 0) & (depth_YX <= 1.5)],
        "object_probability": [np.where(truth_YX > 0, depth_YX / np.maximum(highest_YX, 1), 0)],
        "distances": distances_RYX,
        "flows": flows_2YX,
        "cell_probability": [truth_YX > 0],
        "nuclear_pixels": [truth_YX > 0],
        "horizontal_vertical": places_2YX,
    }
    return {name: np.asarray(values, np.float32) for name, values in maps.items()}


def _place_along(offsets_N):
    """Offsets from the middle as shares of the largest one on the same side, from -1 to 1, as HoVer-Net's."""
    ends = np.where(offsets_N < 0, -offsets_N.min(), offsets_N.max())
    return offsets_N / np.maximum(ends, 1e-6)


def _distance_along(truth_YX, down, right):
    """How far one can go from each pixel in a direction without leaving the cell, in steps of half a pixel."""
    far_YX = np.zeros(truth_YX.shape)
    padded_YX, (rows, cols) = np.pad(truth_YX, 1), np.nonzero(truth_YX)
    for step in np.arange(0.5, 80, 0.5):
        row, col = np.rint(rows + step * down).astype(int), np.rint(cols + step * right).astype(int)
        row, col = np.clip(row, -1, truth_YX.shape[0]), np.clip(col, -1, truth_YX.shape[1])
        is_in = padded_YX[row + 1, col + 1] == truth_YX[rows, cols]
        rows, cols = rows[is_in], cols[is_in]
        far_YX[rows, cols] = step
    return far_YX


def cut(region, box: Box):
    """The part of a region that a box sees."""
    maps = {name: values[:, *box.slices] for name, values in region.maps.items()}
    return Region(region.mask_YX[box.slices], region.classes, region.probs_KYX[:, *box.slices], maps)


def overlaps(labels_YX, truth_YX):
    """The IoU of each truth object with the label that covers most of it."""
    ious = []
    for number in np.unique(truth_YX[truth_YX > 0]):
        cell_YX = truth_YX == number
        label = np.bincount(labels_YX[cell_YX]).argmax()
        found_YX = labels_YX == label
        ious.append((cell_YX & found_YX).sum() / (cell_YX | found_YX).sum() if label else 0.0)
    return np.array(ious)
