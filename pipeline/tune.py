"""Chooses the recipe: the only place that tries things out.

What the YAML says is taken, rounded up to the model's stride. What it leaves to ``auto`` comes from the
model and the machine; memory is projected, and what does not fit is made smaller before it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.errors import BlockError, InputError, Problem
from pipeline.fixed import with_fixed_tile
from pipeline.geometry import Box, ceil_to
from pipeline.halo import HaloError, Trial, smallest_halo, trial_pixels
from pipeline.models import Model, TorchModel
from pipeline.normalize import fitter, resolve
from pipeline.plugins import build
from pipeline.recipe import Recipe
from pipeline.survey import Survey

__all__ = ["Choice", "choose", "keep", "measure", "measure_file", "print_bytes", "projected_bytes"]

CORE = 1024  # of a network: large enough that a halo of 64 costs a quarter, small enough for the processor's cache
BLOCK = 2048
HALO = 64  # where the field is not finite, or larger than MOST_HALO
MOST_HALO = 512
WORTH = 20  # times the pixels of a trial that a run must have before anything is tried out
GPU_BATCH = 8
SMALLEST = 64  # side below which a core is not shrunk to save memory


@dataclass(frozen=True)
class Choice:
    """A recipe and how it came about.

    Attributes:
        recipe: what every actor will use.
        notes: what was rounded, assumed or made smaller; one line each.
        memory_bytes: projected for one actor, above its loaded model.
    """

    recipe: Recipe
    notes: tuple[str, ...]
    memory_bytes: int


def measure(found: Survey) -> HaloError | None:
    """Measure what nobody has said of a network: stride and field once a file, and the error of a halo below the field.

    Returns:
        The halo that ``auto`` takes, or the one asked for, with its error; None where it is exact or not worth a trial.
    """
    measure_file(found)
    model, asked = found.model, found.config.tiling.halo
    if not isinstance(model, TorchModel) or not found.images or model.fixed_size or model.fitter():
        return None
    field = model.field
    wanted = asked if asked != "auto" else model.tile.get("halo", 0)
    if field is None or field > MOST_HALO or wanted >= field or found.pixels < WORTH * trial_pixels(field):
        return None
    return _measured_halo(found, model, field, wanted)


def measure_file(found: Survey) -> None:
    """Measure stride and field of a network that does not say them; the answer is kept for later runs."""
    model = found.model
    if not isinstance(model, TorchModel) or model.unmeasured is None or not found.images:
        return
    from pipeline.probe import probe, remember

    channels = model.num_channels or max(image.header.channels for image in found.images)
    remember(model.unmeasured, probe(model.load(), channels, model.fixed_size))


def _measured_halo(found: Survey, model: Model, field: int, wanted: int) -> HaloError | None:
    """Try halos in the middle of the largest image, in float32; a halo of 0 asks for the smallest that will do."""
    image = max(found.images, key=lambda one: one.header.shape[0] * one.header.shape[1])
    stride, normalize = model.stride, resolve(found.config.normalize, model)
    exact, least = ceil_to(max(field, model.margin), stride), ceil_to(model.margin, stride)
    fixed = normalize if isinstance(normalize, Mapping) else None
    try:
        with build("readers", image.reader).open(image.path) as raster, model.open(Recipe(), fixed) as predict:
            fit = {}
            if per_image := fitter(normalize):
                box = Box(0, 0, *raster.header.shape).clip((BLOCK, BLOCK))
                fit = {"normalize": per_image.fit(per_image.observe(raster.read(box), None, box, 0))}
            trial = Trial(predict, raster, fit, stride, exact)
            return trial.error(ceil_to(wanted, stride)) if wanted else smallest_halo(trial, stride, least, exact)
    except BlockError:
        return None  # the run will say what is wrong with the image


def choose(found: Survey, has_gpu: Callable[[], bool] | None = None, measured: HaloError | None = None) -> Choice:
    """Choose the recipe of a run, in a fixed order.

    Args:
        found: the survey.
        has_gpu: whether actors will find a GPU; None: whether this machine has one.
        measured: what :func:`measure` found.

    Raises:
        InputError: the YAML asks for what does not fit; every problem at once.
    """
    config, model = with_fixed_tile(found.config, found.model, HALO), found.model
    notes: list[str] = []
    if isinstance(model, TorchModel) and model.unmeasured:
        notes.append("stride and field of the model are measured when the run begins; core and halo may be rounded up then")
    device = _device(config, model, has_gpu or local_gpu)
    compute = config.compute
    core, block = _core_and_block(config, model, notes)
    recipe = Recipe(
        backend="torch" if compute.backend == "auto" else compute.backend,
        device=device,
        precision=_precision(config, model, device),
        core=core,
        halo=_halo(config, model, notes, measured),
        block=block,
        stitch=config.tiling.stitch,
        batch=(GPU_BATCH if device == "cuda" else 1) if compute.batch == "auto" else compute.batch,
        threads=1 if compute.threads == "auto" else compute.threads,
    )
    _check(found, recipe)
    return _fit_memory(replace(found, config=config), recipe, notes)


def keep(found: Survey, recorded: Mapping[str, Any]) -> Choice:
    """The recipe that a folder was begun with: a resumed run is the same run.

    Raises:
        InputError: memory is smaller than it was, or an image larger than those it was chosen for.
    """
    recipe, budget = Recipe(**recorded), found.config.compute.memory_bytes
    need = projected_bytes(found, recipe)
    if need > budget:
        way_out = f"Use compute.memory: {print_bytes(need, up=True)}, or start over with --fresh."
        asked = f"the recipe of this run, core {recipe.core} and block {recipe.block}, needing {print_bytes(need, up=True)} an actor"
        raise InputError(Problem("compute.memory", asked, print_bytes(budget), way_out))
    return Choice(recipe, (), need)


def local_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU, without asking torch."""
    cards = Path("/proc/driver/nvidia/gpus")
    return cards.is_dir() and any(cards.iterdir())


def _device(config: Config, model: Model, has_gpu: Callable[[], bool]) -> str:
    if not model.uses_gpu:
        return "cpu"
    if config.compute.device == "auto":
        return "cuda" if has_gpu() else "cpu"
    return config.compute.device


def _precision(config: Config, model: Model, device: str) -> str:
    """bf16 where the processor or the GPU has it: five times the speed of fp32."""
    wanted = config.compute.precision
    if not model.gives_scores:
        return "fp32"
    if wanted != "auto":
        return wanted
    from pipeline.backends.torch import bf16_supported

    return "bf16" if model.allows_bf16 and (device == "cuda" or bf16_supported()) else "fp32"


def _core_and_block(config: Config, model: Model, notes: list[str]) -> tuple[int, int]:
    tiling, stride = config.tiling, model.stride
    network = model.gives_scores
    if tiling.core == "auto":
        core = ceil_to(model.tile.get("core", CORE if network else BLOCK), stride)
        if tiling.block != "auto":
            # A block is whole cores: as few of at most the usual size as hold it.
            cores = -(-tiling.block // core)
            core = ceil_to(-(-tiling.block // cores), stride)
            return core, _said("block", tiling.block, cores * core, core, notes)
        return core, max(1, round(BLOCK / core)) * core
    core = _said("core", tiling.core, ceil_to(tiling.core, stride), stride, notes)
    if tiling.block == "auto":
        return core, max(1, round(BLOCK / core)) * core
    return core, _said("block", tiling.block, ceil_to(tiling.block, core), core, notes)


def _said(name: str, asked: int, given: int, step: int, notes: list[str]) -> int:
    if asked != given:
        notes.append(f"tiling.{name}: {asked} rounded up to {given}, a multiple of {step}")
    return given


def _halo(config: Config, model: Model, notes: list[str], measured: HaloError | None) -> int:
    asked, stride, field = config.tiling.halo, model.stride, model.field
    if asked != "auto" or "halo" in model.tile:
        wanted = asked if asked != "auto" else max(model.tile["halo"], model.margin)
        halo = _said("halo", wanted, ceil_to(wanted, stride), stride, notes)
        if field is not None and halo < field:
            error = measured if measured and measured.halo == halo else "the mask may differ near tile borders"
            notes.append(f"tiling.halo: {halo} is less than the field of {field}: {error}")
        return halo
    if measured:
        notes.append(f"tiling.halo: {measured.halo} by measurement: {measured}; {field} is exact")
        return measured.halo
    if field is not None and field <= MOST_HALO:
        return ceil_to(max(field, model.margin), stride)
    reason = "has no finite field" if field is None else f"has a field of {field}"
    halo = ceil_to(max(HALO, model.margin), stride)
    notes.append(f"tiling.halo: the model {reason}; {halo} is used, and the mask may differ near tile borders")
    return halo


def _check(found: Survey, recipe: Recipe) -> None:
    """Refuse combinations that no image could be run with."""
    model, problems = found.model, []
    if recipe.halo < model.margin:
        way_out = f"Use tiling.halo: {ceil_to(model.margin, model.stride)}."
        problems.append(Problem("tiling.halo", str(recipe.halo), f"at least {model.margin}, which valid padding takes off", way_out))
    if recipe.stitch != "crop" and not model.gives_scores:
        way_out = "Use tiling.stitch: crop."
        problems.append(
            Problem("tiling.stitch", repr(recipe.stitch), f"crop, as {found.config.model['name']} gives no scores to blend", way_out)
        )
    if not model.gives_scores and any(spec.get("probs") for spec in found.config.writers):
        way_out = "Leave probs out."
        problems.append(Problem("writers", "probs: true", f"a model with probabilities; {found.config.model['name']} has none", way_out))
    if found.config.compute.device == "cuda" and model.gives_scores and not model.uses_gpu:
        way_out = "ONNX files need onnxruntime-gpu."
        problems.append(Problem("compute.device", "cuda", f"auto, cpu: what runs {found.config.model['name']} has no CUDA here", way_out))
    if problems:
        raise InputError(problems)


def projected_bytes(found: Survey, recipe: Recipe) -> int:
    """Bytes that one actor needs at its peak, above its loaded model.

    Three blocks are held (one read ahead, one computed, one written), each clipped to the largest image.
    """
    worst = 0
    for image in found.images:
        header = image.header
        sides = [ceil_to(side, recipe.core if found.model.fixed_size else found.model.stride) for side in header.shape]
        height, width = (min(side, recipe.block) for side in sides)
        depth = header.channels * np.dtype(header.dtype).itemsize
        # Blending reads the whole tiles around the block.
        ring = 0 if recipe.stitch == "crop" else ceil_to(recipe.halo, recipe.core)
        read = math.prod(min(side, recipe.block + 2 * ring) + 2 * recipe.halo for side in sides) * depth
        truth = height * width * 6 if image.truth else 0
        mask = height * width * (1 if len(found.classes) <= 255 else 2)
        blend = height * width * len(found.classes) * 4 if recipe.stitch != "crop" else 0
        probs = height * width * len(found.classes) * 2 if any(spec.get("probs") for spec in found.config.writers) else 0
        tile = min(height, recipe.core) + 2 * recipe.halo, min(width, recipe.core) + 2 * recipe.halo
        network = found.model.projected_bytes(tile, header.channels) * recipe.batch
        worst = max(worst, 2 * (read + truth) + read + 4 * mask + blend + probs + network + header.whole_bytes)
    return worst


def print_bytes(size: int, *, up: bool = False) -> str:
    """A size for people, which the YAML takes too.

    Example:
        >>> print_bytes(4 * 2**30), print_bytes(700 * 2**20 + 1, up=True)
        ('4GiB', '701MiB')
    """
    unit, name = (2**30, "GiB") if size >= 10 * 2**30 or size % 2**30 == 0 else (2**20, "MiB")
    return f"{-(-size // unit) if up else size // unit}{name}"


def _fit_memory(found: Survey, recipe: Recipe, notes: list[str]) -> Choice:
    """Make block, then core, smaller until the projection fits the budget."""
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
    return Choice(recipe, tuple(notes), need)


def _too_large(found: Survey, recipe: Recipe, need: int, budget: int) -> Problem:
    core = recipe.core if found.model.fixed_size else ceil_to(SMALLEST, found.model.stride)
    smaller = replace(recipe, core=core, block=core)
    least = projected_bytes(found, smaller)
    way_out = f"Use compute.memory: {print_bytes(need, up=True)}"
    if least <= budget:
        way_out += f", or leave tiling.core and tiling.block to auto (core {smaller.core} needs {print_bytes(least, up=True)})"
    asked = f"core {recipe.core}, halo {recipe.halo}, block {recipe.block} needing {print_bytes(need, up=True)} an actor"
    return Problem("compute.memory", asked, f"{print_bytes(budget)}", f"{way_out}.")
