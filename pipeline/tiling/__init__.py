"""How an image is cut and put together again: grid, stitching, blending, overlap agreement, array operations.

Owns: integers that cut an image, and pure functions of arrays (numpy's or a torch device's) that join tiles.
May import: statistics and base modules. Never touches: files, models, Ray. ``torch_ops`` alone imports torch, and is imported by name.
"""

from __future__ import annotations

from pipeline.tiling.agreement import Agreement
from pipeline.tiling.array_ops import ArrayOps, Fetched, NumpyOps
from pipeline.tiling.blending import Blend, OverlapCell, added, cells, seam_shares, spans, weight_of
from pipeline.tiling.grid import Grid, Tile
from pipeline.tiling.stitching import argmax, softmax_bytes, weights

__all__ = [
    "Agreement",
    "ArrayOps",
    "Blend",
    "Fetched",
    "Grid",
    "NumpyOps",
    "OverlapCell",
    "Tile",
    "added",
    "argmax",
    "cells",
    "seam_shares",
    "softmax_bytes",
    "spans",
    "weight_of",
    "weights",
]
