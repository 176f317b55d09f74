"""How an image is cut and put together again: grid, stitching, blending, overlap agreement, array operations.

Owns: integers that cut an image, and pure functions of arrays (numpy's or a torch device's) that join tiles.
May import: statistics and base modules. Never touches: files, models, Ray. ``torch_ops`` alone imports torch, and is imported by name.
"""

from __future__ import annotations

from pipeline.tiling.agreement import Agreement
from pipeline.tiling.array_ops import ArrayOps, Fetched, NumpyOps
from pipeline.tiling.blending import Blender, OverlapRegion, num_seam_shares, overlap_regions, sum_shares, tile_weights
from pipeline.tiling.grid import Grid, GridBlock, Tile
from pipeline.tiling.stitching import argmax_into, axis_weights, softmax_bytes

__all__ = [
    "Agreement",
    "ArrayOps",
    "Blender",
    "Fetched",
    "Grid",
    "GridBlock",
    "NumpyOps",
    "OverlapRegion",
    "Tile",
    "argmax_into",
    "axis_weights",
    "num_seam_shares",
    "overlap_regions",
    "softmax_bytes",
    "sum_shares",
    "tile_weights",
]
