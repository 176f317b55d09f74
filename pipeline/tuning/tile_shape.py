"""Sides of tiles and blocks: what the YAML asks for, rounded up; what it leaves to ``auto``, from the model and the images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.geometry import ceil_to
from pipeline.inputs import Catalogue
from pipeline.tuning.halo_trial import MOST_HALO, HaloDifference

__all__ = ["USUAL_HALO", "choose_core_and_block", "choose_halo"]

USUAL_HALO = 64
"""The halo where the field is not finite, or wider than what is measured, pixels."""

# A core is this many times its halo, and no smaller or larger than these sides, pixels. Wide halos are worth large cores, until what
# lies between two layers no longer fits the processor's cache.
COMPILED_TIMES, COMPILED_LEAST = 16, 1024
EAGER_TIMES, EAGER_LEAST = 12, 768
MOST_CORE = 1536
CORE_STEP = 32  # a core that is balanced to an image is a multiple of it, pixels
BLOCK, GPU_BLOCK = 2048, 4096  # usual sides, pixels
LEAST_CORE = 512  # a smaller block is not cut into several cores, pixels


def choose_halo(catalogue: Catalogue, measured: HaloDifference | None, notes: list[str]) -> int:
    """Return the halo of a run, a multiple of the model's stride, pixels.

    Args:
        catalogue: the run's model and config.
        measured: what a trial found; None: none was held.
        notes: what was rounded or assumed is added.
    """
    asked, model = catalogue.config.tiling.halo, catalogue.model
    stride, field = model.stride, model.field
    if asked != "auto" or "halo" in model.tile:
        wanted = asked if asked != "auto" else max(model.tile["halo"], model.margin)
        halo = _round_up("halo", wanted, stride, notes)
        if field is not None and halo < field:
            difference = measured if measured and measured.halo == halo else "the mask may differ near tile borders"
            notes.append(f"tiling.halo: {halo} is less than the field of {field}: {difference}")
        return halo
    if measured:
        notes.append(f"tiling.halo: {measured.halo} by measurement: {measured}; {field} is exact")
        return measured.halo
    if field is not None and field <= MOST_HALO:
        return ceil_to(max(field, model.margin), stride)
    reason = "has no finite field" if field is None else f"has a field of {field}"
    halo = ceil_to(max(USUAL_HALO, model.margin), stride)
    notes.append(f"tiling.halo: the model {reason}; {halo} is used, and the mask may differ near tile borders")
    return halo


def choose_core_and_block(catalogue: Catalogue, halo: int, notes: list[str], *, on_gpu: bool, compiles: bool) -> tuple[int, int]:
    """Return the sides of core and block: the core a multiple of the stride, the block of the core, pixels.

    Args:
        catalogue: the run's images, model and config.
        halo: that was chosen, pixels.
        notes: what was rounded is added.
        on_gpu: whether tiles are predicted on a GPU.
        compiles: whether the backend compiles networks.
    """
    tiling, stride = catalogue.config.tiling, catalogue.model.stride
    usual_block = GPU_BLOCK if on_gpu else BLOCK
    if tiling.core != "auto":
        core = _round_up("core", tiling.core, stride, notes)
    else:
        core = _usual_core(catalogue, halo, compiles=on_gpu or compiles)
        if tiling.block != "auto":
            # A block is whole cores: as few of at most the usual size as hold it, or a single one where two would be small.
            num_cores = 1 if core >= LEAST_CORE and tiling.block < 2 * LEAST_CORE else -(-tiling.block // core)
            core = ceil_to(-(-tiling.block // num_cores), stride)
            return core, _round_up("block", tiling.block, core, notes)
    if tiling.block == "auto":
        return core, max(1, round(usual_block / core)) * core
    return core, _round_up("block", tiling.block, core, notes)


def _usual_core(catalogue: Catalogue, halo: int, *, compiles: bool) -> int:
    """The core that computes the fewest pixels: the usual one, or one that divides the largest image more evenly."""
    model, stride = catalogue.model, catalogue.model.stride
    if not model.gives_scores or "core" in model.tile:
        return ceil_to(model.tile.get("core", BLOCK), stride)
    times, least = (COMPILED_TIMES, COMPILED_LEAST) if compiles else (EAGER_TIMES, EAGER_LEAST)
    usual = ceil_to(min(max(least, times * halo), MOST_CORE), stride)
    if model.field is None or not catalogue.images:
        return usual  # a network that sees its whole tile: the tile's size must not depend on the images
    shape = max((image.header.shape for image in catalogue.images), key=math.prod)
    even = [ceil_to(-(-side // round(side / usual)), ceil_to(CORE_STEP, stride)) for side in shape if side > usual]
    return min([usual, *even], key=lambda core: _computed_pixels(shape, core, halo, stride))  # of equals the first


def _computed_pixels(shape: Sequence[int], core: int, halo: int, stride: int) -> int:
    """Pixels that the network sees of an image, halos counted."""
    return math.prod(ceil_to(side, stride) + 2 * halo * -(-side // core) for side in shape)


def _round_up(name: str, asked: int, step: int, notes: list[str]) -> int:
    rounded = ceil_to(asked, step)
    if asked != rounded:
        notes.append(f"tiling.{name}: {asked} rounded up to {rounded}, a multiple of {step}")
    return rounded
