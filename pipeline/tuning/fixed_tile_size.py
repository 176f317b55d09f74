"""Core and halo for a model that takes inputs of one size only: core + 2 x halo must be that size."""

from __future__ import annotations

from pipeline.config import Config
from pipeline.errors import InputError, Problem
from pipeline.geometry import ceil_to
from pipeline.models import Model

__all__ = ["fixed_tile", "with_fixed_tile"]


def with_fixed_tile(config: Config, model: Model, halo: int) -> Config:
    """Return the config with ``tiling.core`` and ``tiling.halo`` filled in, where the model takes inputs of one size only.

    Args:
        config: the run's.
        model: the run's.
        halo: the wanted halo where the model's field is not known, pixels.

    Raises:
        InputError: core and halo of the YAML do not make up the size.
    """
    if model.fixed_size is None:
        return config
    core, given = (None if side == "auto" else side for side in (config.tiling.core, config.tiling.halo))
    wish = max(model.margin, model.tile.get("halo", halo if model.field is None else model.field))
    core, given = fixed_tile(model.fixed_size, model.stride, core=core, halo=given, least=model.margin, wish=wish)
    return config.model_copy(update={"tiling": config.tiling.model_copy(update={"core": core, "halo": given})})


def fixed_tile(size: int, stride: int, *, core: int | None, halo: int | None, least: int, wish: int) -> tuple[int, int]:
    """Return core and halo with ``core + 2 * halo == size``, both multiples of the stride.

    Args:
        size: side of the model's input, pixels.
        stride: the model's total stride.
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
