"""Pictures of cells, and what the networks of StarDist, Cellpose and HoVer-Net learn of them, by numpy and scipy alone.

Cells are ellipses that touch, grainy, dark ones and bright ones, on noise. Targets are those of the published methods: Schmidt et al. 2018
(distances along rays until the label changes), Stringer et al. 2021 (gradient of heat that flows out of the middle), Graham et al. 2019
(place between the ends of the object on both sides of its centre of mass).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["RAYS", "draw_cells", "flow_targets", "hover_targets", "star_targets"]

RAYS = 32


def draw_cells(seed: int, side: int = 128, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture (Y, X), uint8, and its labels (Y, X), int32: odd ones are dark cells, even ones bright cells.

    Args:
        seed: of the picture.
        side: of the picture, pixels.
        scale: 1: cells of about 18 pixels across.
    """
    random = np.random.default_rng(seed)
    rows_YX, cols_YX = np.mgrid[:side, :side]
    labels_YX, depth_YX, light_YX = np.zeros((side, side), np.int32), np.full((side, side), 1.0), np.full((side, side), 50.0)
    step = round(19 * scale)
    for place, (row, col) in enumerate((y, x) for y in range(step // 2, side, step) for x in range(step // 2, side, step)):
        if random.random() < 0.15:
            continue
        down_YX, right_YX = rows_YX - row - random.uniform(-4, 4) * scale, cols_YX - col - random.uniform(-4, 4) * scale
        long, short, turn = *random.uniform(7, 11, 2) * scale, random.uniform(0, np.pi)
        along_YX = down_YX * np.sin(turn) + right_YX * np.cos(turn)
        across_YX = down_YX * np.cos(turn) - right_YX * np.sin(turn)
        distance_YX = np.hypot(along_YX / long, across_YX / short)
        is_mine_YX = distance_YX < depth_YX
        kind = int(random.integers(1, 3))
        labels_YX[is_mine_YX], depth_YX[is_mine_YX] = 2 * place + kind, distance_YX[is_mine_YX]
        light_YX[is_mine_YX] = (90 if kind == 1 else 150) * (1.15 - 0.4 * distance_YX[is_mine_YX] ** 2)
    light_YX = ndimage.gaussian_filter(light_YX, 0.7) + random.normal(0, 8, light_YX.shape)
    return np.clip(light_YX, 0, 255).astype(np.uint8), labels_YX


def star_targets(labels_YX: np.ndarray) -> np.ndarray:
    """Return object probability and distances (1 + RAYS, Y, X): depth as a share of the object's, and steps until the label changes."""
    found = np.zeros((1 + RAYS, *labels_YX.shape), np.float32)
    for number, box in enumerate(ndimage.find_objects(labels_YX), 1):
        if box is not None:
            cell_YX = np.pad(labels_YX[box] == number, 1)
            inside_YX = ndimage.distance_transform_edt(cell_YX)[1:-1, 1:-1]
            found[0][box] += inside_YX / max(inside_YX.max(), 1)
    rows, cols = labels_YX.nonzero()
    padded_YX = np.pad(labels_YX, 1)
    for ray in range(RAYS):
        down, right = np.sin(2 * np.pi * ray / RAYS), np.cos(2 * np.pi * ray / RAYS)
        half = 0.5 / max(abs(down), abs(right))  # the border lies half a pixel before the first pixel of another label
        y, x, steps = rows, cols, 0
        while len(y):
            steps += 1
            there_Y = np.clip(np.rint(y + steps * down).astype(int), -1, labels_YX.shape[0])
            there_X = np.clip(np.rint(x + steps * right).astype(int), -1, labels_YX.shape[1])
            is_out = padded_YX[there_Y + 1, there_X + 1] != labels_YX[y, x]
            found[1 + ray, y[is_out], x[is_out]] = steps - 1 + half
            y, x = y[~is_out], x[~is_out]
    return found


def flow_targets(labels_YX: np.ndarray) -> np.ndarray:
    """Return flows and cell probability (3, Y, X): the unit gradient of the heat that a source in the middle of each object gives."""
    found = np.zeros((3, *labels_YX.shape), np.float32)
    found[2] = labels_YX > 0
    for number, box in enumerate(ndimage.find_objects(labels_YX), 1):
        if box is None:
            continue
        cell_YX = np.pad(labels_YX[box] == number, 1)
        places_N2 = np.argwhere(cell_YX)
        middle = tuple(places_N2[((places_N2 - np.median(places_N2, axis=0)) ** 2).sum(axis=1).argmin()])
        heat_YX = np.zeros(cell_YX.shape)
        for _ in range(2 * sum(cell_YX.shape)):
            heat_YX[middle] += 1
            heat_YX = ndimage.uniform_filter(heat_YX, 3, mode="constant") * cell_YX
        steps = np.gradient(np.log1p(heat_YX))
        length_YX = np.hypot(*steps) + 1e-20
        for axis, step_YX in enumerate(steps):
            found[axis][box] += (step_YX / length_YX * cell_YX)[1:-1, 1:-1]
    return found


def hover_targets(labels_YX: np.ndarray) -> np.ndarray:
    """Return class (0, 1 dark, 2 bright) and the places along columns and along rows (3, Y, X)."""
    found = np.zeros((3, *labels_YX.shape), np.float32)
    found[0] = np.where(labels_YX > 0, 2 - labels_YX % 2, 0)
    for number in np.unique(labels_YX[labels_YX > 0]):
        rows, cols = (labels_YX == number).nonzero()
        for channel, at in ((1, cols), (2, rows)):
            offsets = at - np.rint(at.mean())
            ends = np.where(offsets < 0, max(-offsets.min(), 1), max(offsets.max(), 1))
            found[channel, rows, cols] = offsets / ends
    return found
