"""Sides of tiles and blocks: what the YAML asks for, rounded up; what it leaves to ``auto``, from the model and the images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.config import Config
from pipeline.errors import InputError, Problem
from pipeline.geometry import ceil_to
from pipeline.inputs import Catalogue
from pipeline.models import Model, TorchModel
from pipeline.tuning.field_measurement import will_measure
from pipeline.tuning.halo_trial import MOST_HALO, HaloDifference

__all__ = ["choose_core_and_block", "choose_halo", "fixed_tile", "with_fixed_tile"]

UNKNOWN_FIELD = "the model's field is not known; `gigaseg models --probe` measures it once, and that of a file can be given as model.field"
USUAL_HALO = 64  # where the field is not finite, or wider than what is measured, pixels
# A core is this many times its halo, and no smaller or larger than these sides, pixels. Wide halos are worth large cores, until what
# lies between two layers no longer fits the processor's cache.
COMPILED_TIMES, COMPILED_LEAST = 16, 1024
EAGER_TIMES, EAGER_LEAST = 12, 768
MOST_CORE = 1536
CORE_STEP = 32  # a core that is balanced to an image is a multiple of it, pixels
BLOCK, GPU_BLOCK = 2048, 4096  # usual sides, pixels
LEAST_CORE = 512  # a smaller block is not cut into several cores, pixels


def choose_halo(catalogue: Catalogue, measured: HaloDifference | None, notes: list[str], about_borders: list[str]) -> int:
    """Return the halo of a run in pixels, a multiple of the model's stride; ``measured`` is the result of a trial.

    Notes on rounding go to ``notes``; notes that concern only images of several tiles go to ``about_borders``.
    """
    asked, model = catalogue.config.tiling.halo, catalogue.model
    stride, field = model.stride, model.field
    if asked != "auto" or "halo" in model.tile:
        wanted = asked if asked != "auto" else max(model.tile["halo"], model.margin)
        halo = _round_up("halo", wanted, stride, notes)
        if field is not None and halo < field:
            difference = measured if measured and measured.halo == halo else "the mask may differ near tile borders"
            exact = f"tiling.halo: {ceil_to(max(field, model.margin), stride)} is exact"
            about_borders.append(f"tiling.halo: {halo} is less than the field of {field}: {difference}; {exact}")
        if _is_field_unknown(catalogue):
            about_borders.append(f"tiling.halo: {halo} is used, and the mask may differ near tile borders: {UNKNOWN_FIELD}")
        return halo
    if measured:
        about_borders.append(f"tiling.halo: {measured.halo} by measurement: {measured}; {field} is exact")
        return measured.halo
    if field is not None and field <= MOST_HALO:
        return ceil_to(max(field, model.margin), stride)
    halo = ceil_to(max(USUAL_HALO, model.margin), stride)
    if "field" not in will_measure(catalogue):
        reason = f"the model has a field of {field}" if field is not None else "the model has no finite field"
        reason = UNKNOWN_FIELD if _is_field_unknown(catalogue) else reason
        about_borders.append(f"tiling.halo: {halo} is used, and the mask may differ near tile borders: {reason}")
    return halo


def _is_field_unknown(catalogue: Catalogue) -> bool:
    """Whether the field of a network is not known, which is not the same as not finite, and stays so."""
    networks = [part for part in catalogue.model.constituents if isinstance(part, TorchModel)]
    return not all(network.has_field for network in networks) and "field" not in will_measure(catalogue)


def choose_core_and_block(catalogue: Catalogue, halo: int, notes: list[str], *, on_gpu: bool, compiles: bool) -> tuple[int, int]:
    """Return the sides of core and block: the core a multiple of the stride, the block of the core, pixels.

    What was rounded is added to ``notes``.
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


def with_fixed_tile(config: Config, model: Model) -> Config:
    """Return the config with ``tiling.core`` and ``tiling.halo`` filled in, where the model takes inputs of one size only.

    Raises:
        InputError: core and halo of the YAML do not make up the size.
    """
    if model.fixed_size is None:
        return config
    core, given = (None if side == "auto" else side for side in (config.tiling.core, config.tiling.halo))
    wish = max(model.margin, model.tile.get("halo", USUAL_HALO if model.field is None else model.field))
    core, given = fixed_tile(model.fixed_size, model.stride, core=core, halo=given, least=model.margin, wish=wish)
    return config.model_copy(update={"tiling": config.tiling.model_copy(update={"core": core, "halo": given})})


def fixed_tile(size: int, stride: int, *, core: int | None, halo: int | None, least: int, wish: int) -> tuple[int, int]:
    """Return core and halo with ``core + 2 * halo == size``, both multiples of the stride.

    Args:
        size: side of the model's input, pixels.
        stride: the model's total stride, pixels.
        core: asked for, pixels; None: what the halo leaves.
        halo: asked for, pixels; None: what the core leaves. Without both: the smallest from ``wish`` up, at most a quarter of the size.
        least: the smallest halo that will do, pixels.
        wish: the halo that would be exact, pixels.

    Raises:
        InputError: core and halo do not make up the size; the message names the nearest values that do.

    Example:
        >>> fixed_tile(512, 8, core=None, halo=None, least=0, wish=44)
        (416, 48)
        >>> fixed_tile(512, 8, core=384, halo=None, least=0, wish=44)
        (384, 64)
    """
    halos = range(ceil_to(least, stride), (size - 1) // 2 + 1, stride)
    if size % stride or not halos:
        way_out = f"Give a model.stride that divides {size}." if size % stride else ""
        raise InputError(Problem("model", f"a fixed input of {size} pixels with stride {stride} and margin {least}", "", way_out))
    pairs = [(size - 2 * fitting_halo, fitting_halo) for fitting_halo in halos]
    if core is None and halo is None:
        narrow = [pair for pair in pairs if pair[1] <= size // 4] or pairs[:1]
        return next((pair for pair in narrow if pair[1] >= wish), narrow[-1])
    fitting = [pair for pair in pairs if core in (None, pair[0]) and halo in (None, pair[1])]
    if fitting:
        return fitting[0]
    asked = " and ".join(f"{name} {side}" for name, side in (("core", core), ("halo", halo)) if side is not None)
    way_out = " or ".join(f"core {near_core} with halo {near_halo}" for near_core, near_halo in _nearest(pairs, core, halo))
    allowed = f"core + 2 x halo = {size}, the fixed size of the model's input, in multiples of {stride}"
    raise InputError(Problem("tiling", asked, allowed, f"Use {way_out}."))


def _nearest(pairs: list[tuple[int, int]], core: int | None, halo: int | None) -> list[tuple[int, int]]:
    """The two pairs nearest to what was asked: with both asked, the one nearest to each."""
    by_core = sorted(pairs, key=lambda pair: abs(pair[0] - (core or 0)))
    by_halo = sorted(pairs, key=lambda pair: abs(pair[1] - (halo or 0)))
    if core is None or halo is None:
        return sorted((by_halo if core is None else by_core)[:2])
    return sorted({by_core[0], by_halo[0]})
