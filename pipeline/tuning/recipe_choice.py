"""Choosing the recipe of a run: backend, precision, tiles, blocks and threads.

What the YAML says is used, rounded up to the model's stride. What it leaves to ``auto`` comes from the model and the machine.
A recipe whose projected memory is over the budget gets smaller blocks and cores, and is refused where that is not enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from pipeline.backends import find_backend
from pipeline.config import Recipe
from pipeline.errors import InputError, Problem
from pipeline.geometry import ceil_to
from pipeline.inputs import Catalogue, check_num_blocks
from pipeline.plugins import build
from pipeline.tuning.backend_trial import BackendChoice
from pipeline.tuning.compute_choice import first_recipe
from pipeline.tuning.field_measurement import will_measure
from pipeline.tuning.halo_trial import HaloDifference
from pipeline.tuning.int8_calibration import Calibration, int8_problems
from pipeline.tuning.memory_model import (
    format_bytes,
    project_actor_bytes,
    project_object_file_bytes,
    project_seam_file_bytes,
    shrink_to_memory,
)
from pipeline.tuning.tile_shape import choose_core_and_block, choose_halo, with_fixed_tile

__all__ = ["RecipeChoice", "choose_recipe", "reuse_recipe"]


@dataclass(frozen=True)
class RecipeChoice:
    """A recipe and how it came about.

    Attributes:
        recipe: what every actor will use.
        notes: what was rounded, assumed or made smaller; one line each.
        memory_bytes: projected for one actor, above its loaded model.
        trial: that chose the backend; None: no trial did.
        calibration: what int8 changes; None: the run has another precision.
    """

    recipe: Recipe
    notes: tuple[str, ...]
    memory_bytes: int
    trial: BackendChoice | None = None
    calibration: Calibration | None = None


def choose_recipe(
    catalogue: Catalogue,
    has_gpu: Callable[[], bool] | None = None,
    halo: HaloDifference | None = None,
    backend: BackendChoice | None = None,
) -> RecipeChoice:
    """Choose the recipe of a run.

    Args:
        catalogue: of the run.
        has_gpu: whether actors will find a GPU; None: whether this machine has one.
        halo: what :func:`pipeline.tuning.measure_halo` found.
        backend: what :func:`pipeline.tuning.choose_backend` chose; None: eager torch, unless the YAML names a backend.

    Raises:
        InputError: the YAML asks for what does not fit; all problems at once.
    """
    model, notes = catalogue.model, list[str]()
    catalogue = replace(catalogue, config=with_fixed_tile(catalogue.config, model))
    if unmeasured := will_measure(catalogue):
        are = "are" if len(unmeasured) > 1 else "is"
        notes.append(f"{' and '.join(unmeasured)} of the model {are} measured when the run begins; core and halo may be rounded up then")
    recipe = first_recipe(catalogue, has_gpu)
    if backend:
        notes.append(str(backend))
        recipe = replace(recipe, backend=backend.backend, precision=backend.precision)
    plugin = find_backend(recipe.backend) if model.takes_backend else None
    problems = plugin.problems(recipe.device, recipe.precision) if plugin else []
    about_borders = list[str]()
    recipe = replace(recipe, halo=choose_halo(catalogue, halo, notes, about_borders), stitch=catalogue.config.tiling.stitch)
    compiles = plugin is not None and plugin.compiles
    core, block = choose_core_and_block(catalogue, recipe.halo, notes, on_gpu=recipe.device == "cuda", compiles=compiles)
    recipe = replace(recipe, core=core, block=block)
    if any(side > core for image in catalogue.images for side in image.header.shape):  # else no image has tile borders
        notes += about_borders
    _check(catalogue, recipe, problems)
    recipe, memory_bytes = shrink_to_memory(catalogue, recipe, notes)
    _check_num_blocks(catalogue, recipe)
    if size := project_seam_file_bytes(catalogue, recipe):
        needed = f"up to {format_bytes(size, up=True)} beside the masks until an image is finished"
        notes.append(f"tiling.stitch: {recipe.stitch} keeps {needed}")
    if size := project_object_file_bytes(catalogue):
        name = (catalogue.config.instances or {})["name"]
        notes.append(f"instances: {name} keeps up to {format_bytes(size, up=True)} beside the masks until an image is finished")
    is_trial = backend is not None and bool(backend.tried or not backend.reason)
    return RecipeChoice(recipe, tuple(notes), memory_bytes, backend if is_trial else None)


def reuse_recipe(catalogue: Catalogue, recorded: Mapping[str, Any]) -> RecipeChoice:
    """Return the recipe that an output folder was begun with: a resumed run is the same run.

    Raises:
        InputError: memory is smaller than it was, or an image larger than those that the recipe was chosen for.
    """
    recipe, budget = Recipe(**recorded), catalogue.config.compute.memory_bytes
    need = project_actor_bytes(catalogue, recipe)
    if need > budget:
        way_out = f"Use compute.memory: {format_bytes(need, up=True)}, or start over with --fresh."
        asked = f"the recipe of this run, core {recipe.core} and block {recipe.block}, needing {format_bytes(need, up=True)} an actor"
        raise InputError(Problem("compute.memory", asked, format_bytes(budget), way_out))
    _check_num_blocks(catalogue, recipe)
    return RecipeChoice(recipe, (), need)


def _check_num_blocks(catalogue: Catalogue, recipe: Recipe) -> None:
    """Refuse more blocks than a run can hold: before anything is read, written or removed."""
    check_num_blocks([image.header for image in catalogue.images], recipe.block, catalogue.config.where("tiling.block"))


def _writer_problems(catalogue: Catalogue) -> Iterator[Problem]:
    """Yield the problems of the writers: none keeps the mask, one file twice, an image that one cannot write, missing packages."""
    config = catalogue.config
    writers = {spec["name"]: build("writers", spec, "writers") for spec in config.writers}
    if writers and not any(writer.holds_mask for writer in writers.values()):  # a training has no writers
        yield Problem(config.where("writers"), ", ".join(writers), "a writer of masks beside it", "Add ome_zarr.")
    files: dict[tuple[str, str], str] = {}
    for index, (name, writer) in enumerate(writers.items()):
        where = config.where(f"writers.{index}")
        if (other := files.setdefault((writer.folder, writer.suffix), name)) != name:
            clash = f"{name}, which writes {writer.folder}/NAME{writer.suffix}, as {other} does"
            yield Problem(where, clash, "one writer a file", "Choose another format, or leave one out.")
        stacks = [image.name for image in catalogue.images if image.header.num_planes > 1 and writer.takes(image.header)]
        if stacks and not writer.takes_stack:
            yield Problem(where, name, f"images of one plane; {stacks[0]} is a stack", "Use ome_tiff, or choose a plane: reader.planes.")
        if command := writer.missing():
            yield Problem(where, name, "packages that are installed", f"Install them: {command}.")
        else:
            found = (writer.problem_with(image.name, image.header, where) for image in catalogue.images)
            yield from islice((problem for problem in found if problem is not None), 1)
        if writer.needs_objects and config.instances is None:
            yield Problem(where, f"{name} of objects", "a run that tells objects apart", "Set `instances`, or leave out `of: objects`.")


def _check(catalogue: Catalogue, recipe: Recipe, known: Sequence[Problem]) -> None:
    """Refuse combinations that no image could be run with; ``known`` are the problems that were found before."""
    model, config, problems = catalogue.model, catalogue.config, list(known)
    name = config.model["name"]
    if recipe.halo < model.margin:
        way_out = f"Use tiling.halo: {ceil_to(model.margin, model.stride)}."
        problems.append(Problem("tiling.halo", str(recipe.halo), f"at least {model.margin}, which valid padding takes off", way_out))
    if recipe.stitch != "crop" and not model.gives_scores:
        expected = f"crop, as {name} gives no scores to blend"
        problems.append(Problem("tiling.stitch", repr(recipe.stitch), expected, "Use tiling.stitch: crop."))
    if not model.gives_scores and any(spec.get("probs") for spec in config.writers):
        problems.append(Problem("writers", "probs: true", f"a model with probabilities; {name} has none", "Leave probs out."))
    if config.compute.device == "cuda" and model.gives_scores and not model.uses_gpu:
        expected = f"auto, cpu: what runs {name} has no CUDA here"
        problems.append(Problem("compute.device", "cuda", expected, "ONNX files need onnxruntime-gpu."))
    if recipe.precision == "int8":
        problems += int8_problems(model, catalogue.instances.maps if catalogue.instances else ())
    problems += _writer_problems(catalogue)
    if problems:
        raise InputError(problems)
