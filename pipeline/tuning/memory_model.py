"""What an actor will need of memory, and a recipe that fits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pipeline.config import Recipe
from pipeline.errors import InputError, Problem
from pipeline.geometry import ceil_to
from pipeline.inputs import Catalogue, Image, truth_header
from pipeline.tiling import Grid, seam_shares

__all__ = ["fit_memory", "part_bytes", "print_bytes", "projected_bytes"]

SMALLEST = 64  # side below which a core is not shrunk to save memory


def projected_bytes(found: Catalogue, recipe: Recipe) -> int:
    """Bytes that one actor needs at its peak, above its loaded model.

    Blocks are held as they are read ahead, computed and written, each clipped to the largest image. What a network needs on
    a GPU is that GPU's, where a batch that does not fit is halved.
    """
    return max((_image_bytes(found, recipe, image) for image in found.images), default=0)


def _image_bytes(found: Catalogue, recipe: Recipe, image: Image) -> int:
    header, (readers, writers), classes = image.header, recipe.io_threads, len(found.classes)
    sides = [ceil_to(side, recipe.core if found.model.fixed_size else found.model.stride) for side in header.shape]
    height, width = (min(side, recipe.block) for side in sides)
    depth = header.channels * np.dtype(header.dtype).itemsize
    read = math.prod(min(side, recipe.block) + 2 * recipe.halo for side in sides) * depth
    truth = height * width * 6 if image.truth else 0
    mask = height * width * (1 if classes <= 255 else 2)
    probs = height * width * classes if _has_probs(found) else 0
    shared, given, taken = (scores * classes * 4 for scores in _shared_scores(recipe, header.shape, (height, width)))
    # Where blocks blend with each other, what is read last is what they left: mask, probabilities and the sums of their seams.
    loaded = max(read + truth, mask + probs + taken + truth if given else 0)
    tile = min(height, recipe.core) + 2 * recipe.halo, min(width, recipe.core) + 2 * recipe.halo
    on_gpu = recipe.device == "cuda" and found.model.gives_scores
    network = 0 if on_gpu else found.model.projected_bytes(tile, header.channels) * recipe.batch
    # Each writer has one, and so has whoever waits for a writer; where there is nothing for others, a store makes copies of it.
    results = (writers + 1) * (mask + probs + max(mask + probs, given))
    decoded = header.whole_bytes + (truth_header(image.truth, image.truth_identity).whole_bytes if image.truth else 0)
    return (readers + 1) * loaded + read + shared + network + results + readers * decoded


def _shared_scores(recipe: Recipe, shape: tuple[int, int], sides: tuple[int, int]) -> tuple[int, int, int]:
    """How many scores of a class blending holds, of a block of these sides, pixels.

    Returns:
        What its tiles share while it is computed, what it gives to seams, and what its own seams take in the end.
    """
    if recipe.stitch == "crop":
        return 0, 0, 0
    height, width = sides
    # Along a row of tiles, tiles of another size (at the image's edge) that came before, the tile at hand, and around the block.
    each = sum(range(2 * recipe.halo, 0, -recipe.core))  # rows of one tile that wait for the next rows of tiles
    along = (2 * width + height) * recipe.outer // recipe.core + recipe.outer
    shared = each * along if max(sides) > recipe.core else 0
    if max(shape) <= recipe.block:
        return shared, 0, 0
    around = 2 * (height + width)
    return shared, each * around * recipe.outer // recipe.core, min(recipe.halo * around, height * width)


def _has_probs(found: Catalogue) -> bool:
    return any(spec.get("probs") for spec in found.config.writers)


def part_bytes(found: Catalogue, recipe: Recipe) -> int:
    """Bytes on disk that blocks of the largest image leave for each other until it is finished: masks, and scores along seams."""
    if recipe.stitch == "crop":
        return 0
    worst, classes = 0, len(found.classes)
    a_pixel = (1 if classes <= 255 else 2) + (classes if _has_probs(found) else 0)
    for image in found.images:
        shape = image.header.shape
        if shares := seam_shares(Grid(shape, recipe.core, recipe.halo, recipe.block), recipe.halo):
            worst = max(worst, image.header.num_planes * (math.prod(shape) * a_pixel + shares * classes * 4))
    return worst


def print_bytes(size: int, *, up: bool = False) -> str:
    """A size for people, which the YAML takes too.

    Example:
        >>> print_bytes(4 * 2**30), print_bytes(700 * 2**20 + 1, up=True)
        ('4GiB', '701MiB')
    """
    unit, name = (2**30, "GiB") if size >= 10 * 2**30 or size % 2**30 == 0 else (2**20, "MiB")
    return f"{-(-size // unit) if up else size // unit}{name}"


def fit_memory(found: Catalogue, recipe: Recipe, notes: list[str]) -> tuple[Recipe, int]:
    """Make block, then core, smaller until the projection fits the budget.

    Args:
        found: the survey; what its YAML asks for is not touched.
        recipe: to start from.
        notes: what was made smaller is added.

    Returns:
        The recipe that fits, and its bytes.

    Raises:
        InputError: none does; what would is named.
    """
    tiling, budget, stride = found.config.tiling, found.config.compute.memory_bytes, found.model.stride
    asked = recipe
    while (need := projected_bytes(found, recipe)) > budget:
        if tiling.block == "auto" and recipe.block > recipe.core:
            recipe = replace(recipe, block=max(1, recipe.block // recipe.core // 2) * recipe.core)
        elif tiling.core == "auto" and recipe.core > ceil_to(SMALLEST, stride):
            core = ceil_to(max(SMALLEST, recipe.core // 2), stride)
            recipe = replace(recipe, core=core, block=core if tiling.block == "auto" else ceil_to(recipe.block, core))
        else:
            raise InputError(_too_large(found, recipe, need, budget))
    if recipe != asked:
        notes.append(
            f"compute.memory: core {asked.core}, block {asked.block} made {recipe.core}, {recipe.block} to fit {print_bytes(budget)}"
        )
    return recipe, need


def _too_large(found: Catalogue, recipe: Recipe, need: int, budget: int) -> Problem:
    core = recipe.core if found.model.fixed_size else ceil_to(SMALLEST, found.model.stride)
    smaller = replace(recipe, core=core, block=core)
    least = projected_bytes(found, smaller)
    way_out = f"Use compute.memory: {print_bytes(need, up=True)}"
    if least <= budget:
        way_out += f", or leave tiling.core and tiling.block to auto (core {smaller.core} needs {print_bytes(least, up=True)})"
    asked = f"core {recipe.core}, halo {recipe.halo}, block {recipe.block} needing {print_bytes(need, up=True)} an actor"
    return Problem("compute.memory", asked, f"{print_bytes(budget)}", f"{way_out}.")
