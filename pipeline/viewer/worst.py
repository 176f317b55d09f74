"""The blocks where a run is most wrong, or where its tiles disagree most, from the ledger alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.tiling import Grid
from pipeline.viewer.progress import BlockRows

__all__ = ["RANKS", "worst_blocks"]

MOST_WAITING = 1 << 16  # candidates, before all but the worst are dropped
RANKS = {"error": ("wrong", "counted"), "overlap": ("unequal", "overlap")}
"""By what blocks are ranked: the pixels that count against a block, and those that they are a share of."""


def worst_blocks(images: Mapping[str, tuple[BlockRows, tuple[int, int], int]], by: str, count: int) -> list[dict[str, Any]]:
    """Return the worst blocks, the worst first: those with most pixels against them, as a block at the edge may be a few pixels.

    Args:
        images: blocks, shape and side of a block, by name.
        by: a key of :data:`RANKS`.
        count: how many blocks at most.

    Returns:
        ``{"image", "block", "plane", "box", "share", "pixels"}`` each; blocks without a single such pixel are left out.
    """
    against, total = RANKS[by]
    found: list[tuple[int, str, int]] = []
    for name, (blocks, _, _) in images.items():
        pixels = getattr(blocks, against)
        most = np.argpartition(-pixels, count)[:count] if count < len(pixels) else np.arange(len(pixels))
        found += [(-int(pixels[index]), name, int(index)) for index in most if pixels[index]]
        if len(found) > MOST_WAITING:
            found = sorted(found)[:count]
    found = sorted(found)[:count]
    return [_described(name, *images[name], index, -number, int(getattr(images[name][0], total)[index])) for number, name, index in found]


def _described(name: str, blocks: BlockRows, shape: tuple[int, int], side: int, index: int, pixels: int, total: int) -> dict[str, Any]:
    _, rows, cols = blocks.grid
    plane, row, col = index // (rows * cols), index // cols % rows, index % cols
    box = Grid(shape, side, 0, side).block_box(row, col)
    return {
        "image": name,
        "block": f"{plane}.{row}.{col}",
        "plane": plane,
        "box": [box.y0, box.x0, box.y1, box.x1],
        "share": pixels / total,
        "pixels": pixels,
    }
