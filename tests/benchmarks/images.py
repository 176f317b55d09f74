"""Inputs for benchmarks: noisy, tissue-like pixels of any size, made without holding them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from pipeline.geometry import Box
from pipeline.raster import Header
from pipeline.storage.block_store import BlockStore

SIDE = 1024


def tile(channels: int, seed: int = 0) -> np.ndarray:
    """Blobs of several sizes with sensor noise, uint8 (C, 1024, 1024); the left half darker, so that thresholds differ."""
    random = np.random.default_rng(seed)
    smooth = sum(gaussian_filter(random.standard_normal((SIDE, SIDE)), sigma, mode="wrap") * sigma for sigma in (2, 6, 20))
    planes = [128 + 45 * smooth / smooth.std() + random.normal(0, 6, (SIDE, SIDE)) + 8 * channel for channel in range(channels)]
    return np.clip(np.stack(planes), 0, 255).astype(np.uint8)


def zarr_image(path: Path, side: int, channels: int = 1) -> Path:
    """A Zarr image of any multiple of 1024 on a side; every shard is one file with as many names, so that it takes no time."""
    store = BlockStore(path, Header((side, side), channels, "uint8", channel_names=("c",) * channels if channels > 1 else ()), SIDE)
    store.create()
    written = store.write(Box(0, 0, SIDE, SIDE), tile(channels))
    (first,) = written
    head = Path(first).parts[:-2]
    for row in range(side // SIDE):
        for col in range(side // SIDE):
            copy = path.joinpath(*head, str(row), str(col))
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                os.link(path / first, copy)
    return path
