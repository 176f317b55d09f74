"""Sizes that no run can hold: what a damaged header may claim, and more blocks than a driver keeps count of."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from pipeline.config import Config
from pipeline.errors import InputError, Problem
from pipeline.inputs.headers import Image, UnreadableImage
from pipeline.raster import Header

__all__ = ["check_num_blocks", "most_blocks", "num_blocks_of", "set_huge_apart"]

MOST_BLOCKS = 2_000_000  # of a run: 8 terapixels in blocks of 2048
BLOCK_BYTES = 500  # of the driver's memory that a block takes at most: 60 in one phase, and 40 more a phase on resume, were measured
USUAL_BLOCK = 2048  # side where the YAML says nothing, pixels


def num_blocks_of(header: Header, block: int) -> int:
    """Return how many blocks an image has, in all planes.

    Example:
        >>> num_blocks_of(Header((5000, 4096), 1, "uint8", {"z": 10}), 2048)
        60
    """
    return header.num_planes * math.prod(-(-side // block) for side in header.shape)


def most_blocks() -> int:
    """Return how many blocks a run can hold: what half of this machine's memory keeps count of, and no more than MOST_BLOCKS."""
    import psutil

    return min(MOST_BLOCKS, int(psutil.virtual_memory().total) // 2 // BLOCK_BYTES)


def set_huge_apart(
    images: Sequence[Image], direct: Collection[str], config: Config
) -> tuple[list[Image], list[UnreadableImage], list[Problem]]:
    """Return the images that a run can hold, and those that alone have too many blocks.

    One of these is a problem if the YAML names it (its NAME is in ``direct``), otherwise it is quarantined.
    """
    tiling, most = config.tiling, most_blocks()
    side = tiling.block if tiling.block != "auto" else max(USUAL_BLOCK, 0 if tiling.core == "auto" else tiling.core)
    kept: list[Image] = []
    huge: list[UnreadableImage] = []
    problems: list[Problem] = []
    for image in images:
        number = num_blocks_of(image.header, side)
        if number <= most:
            kept.append(replace(image, index=len(kept)) if huge else image)
            continue
        planes = f" in {image.header.num_planes} planes" if image.header.num_planes > 1 else ""
        found = f"{' x '.join(map(str, image.header.shape))} pixels{planes}, {number} blocks of {side}"
        problem = _too_many(image.path, found, most, [image.header], side)
        if image.name in direct:
            problems.append(problem)
        else:
            huge.append(UnreadableImage(image.name, image.path, str(problem)))
    return kept, huge, problems


def check_num_blocks(headers: Sequence[Header], block: int, where: str) -> None:
    """Raise InputError where a run has more blocks of this side than it can hold."""
    number, most = sum(num_blocks_of(header, block) for header in headers), most_blocks()
    if number > most:
        raise InputError(_too_many(where, f"{number} blocks of {block} in {len(headers)} images", most, headers, block))


def _too_many(where: str, found: str, most: int, headers: Sequence[Header], block: int) -> Problem:
    """Describe too many blocks, and the way out: the smallest doubled side of which there are few enough, if there is one."""
    while sum(num_blocks_of(header, block) for header in headers) > most and block < max(max(header.shape) for header in headers):
        block *= 2
    fits = sum(num_blocks_of(header, block) for header in headers) <= most
    ways = [*([f"tiling.block: {block}"] if fits else []), "a coarser `resolution`, or fewer images or planes (reader.planes) at a time"]
    return Problem(where, found, f"at most {most} blocks a run", f"Use {', '.join(ways)}.")
