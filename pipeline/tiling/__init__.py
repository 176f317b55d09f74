"""Cutting an image into blocks and tiles, and joining the scores of tiles and the labels of blocks.

Owns: the grid (integers), stitching, blending, overlap agreement, and operations on arrays of numpy or of a device.
May import: statistics and base modules. Never touches: files, models, Ray. Only ``torch_ops`` imports torch: import it by name.
"""

from __future__ import annotations

from pipeline.tiling.agreement import Agreement
from pipeline.tiling.array_ops import ArrayOps, Fetched, NumpyOps
from pipeline.tiling.blending import Blender, OverlapRegion, num_seam_shares, overlap_regions, sum_shares, tile_weights
from pipeline.tiling.grid import Grid, Tile
from pipeline.tiling.joining import agreeing_labels, connected_sets, overlapping_labels, without_conflicts
from pipeline.tiling.stitching import argmax_into

__all__ = [
    "Agreement",
    "ArrayOps",
    "Blender",
    "Fetched",
    "Grid",
    "NumpyOps",
    "OverlapRegion",
    "Tile",
    "agreeing_labels",
    "argmax_into",
    "connected_sets",
    "num_seam_shares",
    "overlap_regions",
    "overlapping_labels",
    "sum_shares",
    "tile_weights",
    "without_conflicts",
]
