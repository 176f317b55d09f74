"""Chooses the recipe: the only place that tries things out.

What the YAML says is taken, rounded up to the model's stride. What it leaves to ``auto`` comes from the
model and the machine; memory is projected, and what does not fit is made smaller before it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.backends import Backend
from pipeline.config import Config, Recipe
from pipeline.errors import InputError, Problem
from pipeline.geometry import ceil_to
from pipeline.inputs import Catalogue
from pipeline.models import Model, TorchModel
from pipeline.plugins import find
from pipeline.tuning.backend_trial import Outcome, expect, find_fastest
from pipeline.tuning.fixed_tile_size import with_fixed_tile
from pipeline.tuning.gpus import num_gpus
from pipeline.tuning.halo_measure import MOST_HALO, measure, measure_file
from pipeline.tuning.halo_search import HaloError
from pipeline.tuning.int8_calibration import Calibration
from pipeline.tuning.int8_calibration import problems as uncalibrated
from pipeline.tuning.memory_model import fit_memory, part_bytes, print_bytes, projected_bytes
from pipeline.tuning.runner_choice import threads_of

__all__ = ["Choice", "choose", "expected", "keep", "measure", "measure_backends", "measure_file"]

# Of a core: wide halos are worth large cores, until what lies between two layers no longer fits the processor's cache.
CORE, EAGER, MOST = (1024, 16), (768, 12), 1536  # least pixels, and times the halo; at most
STEP = 32  # a core that is balanced to an image is a multiple of
BLOCK, GPU_BLOCK = 2048, 4096
LEAST = 512  # side below which a block is not cut to keep its cores at the usual size
HALO = 64  # where the field is not finite, or larger than what is measured
GPU_BATCH = 4


@dataclass(frozen=True)
class Choice:
    """A recipe and how it came about.

    Attributes:
        recipe: what every actor will use.
        notes: what was rounded, assumed or made smaller; one line each.
        memory_bytes: projected for one actor, above its loaded model.
        trial: how the backend came about; None: without a trial.
        calibration: what the eight bits of the run are worth; None: it has more.
    """

    recipe: Recipe
    notes: tuple[str, ...]
    memory_bytes: int
    trial: Outcome | None = None
    calibration: Calibration | None = None


def measure_backends(found: Catalogue, has_gpu: Callable[[], bool] | None = None, *, anew: bool = False) -> Outcome | None:
    """Try the backends that are installed, where the YAML leaves the choice open and the run is long enough.

    Args:
        found: the survey.
        has_gpu: as in :func:`choose`.
        anew: try, although an earlier run of this model on this machine has.

    Returns:
        What was decided, for :func:`choose`; None: nothing was tried.
    """
    start = _start(found, has_gpu)
    return find_fastest(found, start, _precisions(found, start), anew=anew)


def expected(found: Catalogue, has_gpu: Callable[[], bool] | None = None) -> Outcome | None:
    """What :func:`measure_backends` will decide as far as is known, for a plan; None: nothing will be tried."""
    start = _start(found, has_gpu)
    return expect(found, start, _precisions(found, start))


def _precisions(found: Catalogue, start: Recipe) -> list[str]:
    """Those to try, in turn: where the YAML leaves it open, float32 if nothing agrees in fewer bits."""
    is_open = found.config.compute.precision == "auto" and start.precision != "fp32"
    return [start.precision, "fp32"] if is_open else [start.precision]


def choose(
    found: Catalogue,
    has_gpu: Callable[[], bool] | None = None,
    measured: HaloError | None = None,
    outcome: Outcome | None = None,
) -> Choice:
    """Choose the recipe of a run.

    Args:
        found: the survey.
        has_gpu: whether actors will find a GPU; None: whether this machine has one.
        measured: what :func:`measure` found.
        outcome: what :func:`measure_backends` decided; None: eager torch, unless the YAML names a backend.

    Raises:
        InputError: the YAML asks for what does not fit; every problem at once.
    """
    config, model = with_fixed_tile(found.config, found.model, HALO), found.model
    notes: list[str] = []
    if any(isinstance(part, TorchModel) and part.unmeasured for part in model.constituents):
        notes.append("stride and field of the model are measured when the run begins; core and halo may be rounded up then")
    recipe = _start(found, has_gpu)
    if outcome:
        notes.append(str(outcome))
        recipe = replace(recipe, backend=outcome.backend, precision=outcome.precision)
    problems = _backend(recipe).problems(recipe.device, recipe.precision) if model.takes_backend else []
    recipe = replace(recipe, halo=_halo(config, model, notes, measured))
    core, block = _core_and_block(replace(found, config=config), recipe, notes)
    recipe = replace(recipe, core=core, block=block, stitch=config.tiling.stitch)
    _check(found, recipe, problems)
    recipe, need = fit_memory(replace(found, config=config), recipe, notes)
    if size := part_bytes(found, recipe):
        notes.append(f"tiling.stitch: {recipe.stitch} keeps up to {print_bytes(size, up=True)} beside the masks until an image is finished")
    return Choice(recipe, tuple(notes), need, outcome)


def _start(found: Catalogue, has_gpu: Callable[[], bool] | None) -> Recipe:
    """What is known of a recipe before tiles are looked at."""
    compute = found.config.compute
    usual = "openvino" if compute.precision == "int8" and found.model.takes_backend else "torch"
    recipe = Recipe(backend=usual if compute.backend == "auto" else compute.backend)
    device = _device(found, recipe, has_gpu or (lambda: num_gpus() > 0))
    return replace(
        recipe,
        device=device,
        precision=_precision(found, recipe, device),
        batch=(GPU_BATCH if device == "cuda" else 1) if compute.batch == "auto" else compute.batch,
        threads=threads_of(found, device),
    )


def _backend(recipe: Recipe) -> type[Backend]:
    plugin = find("backends", recipe.backend, "compute.backend")
    assert issubclass(plugin, Backend)
    return plugin


def keep(found: Catalogue, recorded: Mapping[str, Any]) -> Choice:
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


def _device(found: Catalogue, recipe: Recipe, has_gpu: Callable[[], bool]) -> str:
    model, asked = found.model, found.config.compute.device
    if not model.uses_gpu:
        return "cpu"
    if asked == "auto":
        return "cuda" if "cuda" in _backend(recipe).devices and has_gpu() else "cpu"
    return asked


def _precision(found: Catalogue, recipe: Recipe, device: str) -> str:
    """bf16 where the processor or the GPU has it: five times the speed of fp32."""
    model, wanted = found.model, found.config.compute.precision
    if not model.gives_scores:
        return "fp32"
    if wanted != "auto":
        return wanted
    from pipeline.backends.torch import bf16_supported

    is_quick = "bf16" in _backend(recipe).precisions and (device == "cuda" or bf16_supported())
    return "bf16" if model.allows_bf16 and is_quick else "fp32"


def _core_and_block(found: Catalogue, recipe: Recipe, notes: list[str]) -> tuple[int, int]:
    tiling, stride, usual = found.config.tiling, found.model.stride, GPU_BLOCK if recipe.device == "cuda" else BLOCK
    if tiling.core == "auto":
        core = _usual_core(found, recipe)
        if tiling.block != "auto":
            # A block is whole cores: as few of at most the usual size as hold it, or a single one where two would be small.
            cores = 1 if core >= LEAST and tiling.block < 2 * LEAST else -(-tiling.block // core)
            core = ceil_to(-(-tiling.block // cores), stride)
            return core, _said("block", tiling.block, cores * core, core, notes)
        return core, max(1, round(usual / core)) * core
    core = _said("core", tiling.core, ceil_to(tiling.core, stride), stride, notes)
    if tiling.block == "auto":
        return core, max(1, round(usual / core)) * core
    return core, _said("block", tiling.block, ceil_to(tiling.block, core), core, notes)


def _usual_core(found: Catalogue, recipe: Recipe) -> int:
    """The core that computes least: the usual one of the backend, or one that divides the largest image more evenly."""
    model, halo, stride = found.model, recipe.halo, found.model.stride
    if not model.gives_scores or "core" in model.tile:
        return ceil_to(model.tile.get("core", BLOCK), stride)
    least, times = CORE if recipe.device == "cuda" or (model.takes_backend and _backend(recipe).compiles) else EAGER
    usual = ceil_to(min(max(least, times * halo), MOST), stride)
    if model.field is None or not found.images:
        return usual  # a network that sees its whole tile: the tile's size must not depend on the images
    shape = max((image.header.shape for image in found.images), key=math.prod)

    def computed(core: int) -> int:
        return math.prod(ceil_to(side, stride) + 2 * halo * -(-side // core) for side in shape)

    even = [ceil_to(-(-side // round(side / usual)), ceil_to(STEP, stride)) for side in shape if side > usual]
    return min([usual, *even], key=computed)  # of equals the first


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


def _check(found: Catalogue, recipe: Recipe, more: Sequence[Problem]) -> None:
    """Refuse combinations that no image could be run with."""
    model, problems = found.model, list(more)
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
    if recipe.precision == "int8":
        problems += uncalibrated(model)
    if problems:
        raise InputError(problems)
