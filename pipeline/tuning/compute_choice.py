"""What the YAML's ``compute`` leaves to ``auto``: runner, device, precision, batch and threads, from the model and the machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.backends import bf16_supported, find_backend
from pipeline.config import Recipe
from pipeline.errors import InputError, Problem
from pipeline.inputs import Catalogue
from pipeline.models import Model, TorchModel
from pipeline.scheduling.runners.ray import authenticate
from pipeline.storage import open_storage
from pipeline.tuning.backend_table import BackendTable, Work, network_kind, processor_class, read_table, worst_ratios

__all__ = ["choose_runner", "first_recipe", "num_gpus", "num_passes", "runner_by_table"]

# Up to so many pixels starting Ray costs more than it saves: with a network on a GPU, and without a network.
GPU_PIXELS, OTHER_PIXELS = 2**22, 2**24
MOST_THREADS = 8  # that share one tile
GPU_BATCH = 4
AS_FAST = 1.1  # times the seconds of one process that a run with actors may take, as it goes on where a process dies
PASSES = {"none": 1, "flips": 4, "d4": 8}  # of a network over each tile, by `tta`
CARDS = Path("/proc/driver/nvidia/gpus")  # the NVIDIA driver's folder: one entry a GPU


def choose_runner(catalogue: Catalogue) -> str:
    """Return the YAML's runner; for ``auto``: serial where starting Ray costs more than it saves, or processes share no output.

    A network on CPUs is computed by one process with a thread a core, :data:`MOST_THREADS` at most, or by an actor a core of one thread.
    The table of backends says how long both take: actors need seconds to start, and threads divide only a part of the work. Actors
    are used unless they take over a tenth longer, because a run with them goes on where a process dies. What was not measured on this
    processor counts as in its worst case. Nothing that a run leaves behind, such as a remembered trial, changes the answer.

    Raises:
        InputError: the YAML asks for other processes, which cannot see the output; or names a cluster, and none would be used.
    """
    compute, is_network = catalogue.config.compute, catalogue.model.gives_scores
    if not open_storage(catalogue.config.output).is_shared:
        if compute.runner not in ("auto", "serial"):
            found = f"{compute.runner!r} for the output {catalogue.config.output}, which other processes cannot see"
            raise InputError(Problem(catalogue.config.where("compute.runner"), found, "auto or serial"))
        return "serial"
    if compute.runner == "serial" and compute.address is not None:
        found, fix = f"{compute.address}, with runner: serial", "Set address: null to run in this process."
        raise InputError(Problem(catalogue.config.where("compute.address"), found, "runner: ray or auto", fix))
    if compute.runner != "auto":
        return compute.runner
    if compute.address is not None or compute.actors not in ("auto", 1):
        return "ray"
    if is_network and not _may_use_gpu(catalogue):
        return runner_by_table(catalogue, read_table(), processor_class(), _num_cores())
    return "serial" if catalogue.pixels <= (GPU_PIXELS if is_network else OTHER_PIXELS) else "ray"


def runner_by_table(catalogue: Catalogue, table: BackendTable, processor: str, cores: int) -> str:
    """Return how a network is computed on so many cores: by actors, unless one process with threads takes clearly fewer seconds.

    Each has the backend that is fastest for it. Where the YAML sets the threads, the process and the actors have as many.
    """
    compute, model = catalogue.config.compute, catalogue.model
    asked = 1 if compute.threads == "auto" else compute.threads
    alone = min(cores, MOST_THREADS) if compute.threads == compute.actors == "auto" else asked
    processes = 1 if compute.actors == 1 else max(1, cores // asked)
    pixels = catalogue.pixels * num_passes(model)
    works = {"serial": (0.0, Work(pixels, alone)), "ray": (table.ray_s, Work(pixels, asked, processes))}
    seconds = [
        {runner: start_s + min(table.seconds(row, work) for row in case.values()) for runner, (start_s, work) in works.items()}
        for case in table.like(processor, network_kind(model), _precision(catalogue, Recipe()))
    ]
    return "serial" if worst_ratios(seconds).get("ray", 0.0) > AS_FAST else "ray"


def num_passes(model: Model) -> int:
    """Return how many passes of a network compute a tile: of all members of an ensemble, over all orientations."""
    return sum(PASSES[part.tta] if isinstance(part, TorchModel) else 1 for part in model.constituents)


def _may_use_gpu(catalogue: Catalogue) -> bool:
    """Whether a GPU would compute the network, as far as this machine shows."""
    device = catalogue.config.compute.device
    return catalogue.model.uses_gpu and (device == "cuda" or (device == "auto" and num_gpus() > 0))


def first_recipe(catalogue: Catalogue, has_gpu: Callable[[], bool] | None = None) -> Recipe:
    """Return what is known of a recipe before anything is tried, and before tiles are cut.

    Args:
        catalogue: the run's images, model and config.
        has_gpu: whether actors will find a GPU; None: whether this machine has one, or the cluster that the YAML names.

    Raises:
        InputError: the cluster must be asked, and does not answer.
    """
    compute, model = catalogue.config.compute, catalogue.model
    usual = "openvino" if compute.precision == "int8" and model.takes_backend else "torch"
    backend = usual if compute.backend == "auto" else compute.backend
    device = compute.device
    if not model.uses_gpu:
        device = "cpu"
    elif device == "auto":
        device = "cuda" if "cuda" in find_backend(backend).devices and (has_gpu or (lambda: finds_gpu(catalogue)))() else "cpu"
    recipe = Recipe(backend, device, batch=(GPU_BATCH if device == "cuda" else 1) if compute.batch == "auto" else compute.batch)
    return replace(recipe, precision=_precision(catalogue, recipe), threads=_threads(catalogue, device))


def finds_gpu(catalogue: Catalogue) -> bool:
    """Return whether actors will find a GPU: on the cluster that the YAML or RAY_ADDRESS names, else on this machine.

    The cluster is asked without joining it, as it is now: nodes that an autoscaler would add are not known.

    Raises:
        InputError: the cluster does not answer, or cannot be joined from here.
    """
    address = catalogue.config.compute.address or os.environ.get("RAY_ADDRESS")
    if address is None or choose_runner(catalogue) == "serial":
        return num_gpus() > 0
    authenticate(address)
    from pipeline.scheduling.runners._head import look_at

    return look_at(address).num_gpus > 0


def _precision(catalogue: Catalogue, recipe: Recipe) -> str:
    """bf16 where the processor or the GPU computes in it: five times the speed of fp32."""
    model, asked = catalogue.model, catalogue.config.compute.precision
    if not model.gives_scores:
        return "fp32"
    if asked != "auto":
        return asked
    is_fast = "bf16" in find_backend(recipe.backend).precisions and (recipe.device == "cuda" or bf16_supported())
    return "bf16" if model.allows_bf16 and is_fast else "fp32"


def _threads(catalogue: Catalogue, device: str) -> int:
    """Threads of an actor: one, or all cores where a single process would leave them idle."""
    compute = catalogue.config.compute
    if compute.threads != "auto":
        return compute.threads
    is_alone = compute.runner == compute.actors == "auto" and device == "cpu" and choose_runner(catalogue) == "serial"
    return min(_num_cores(), MOST_THREADS) if is_alone else 1


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


def num_gpus() -> int:
    """Count the NVIDIA GPUs that this process may use, without the seconds that importing torch takes.

    ``CUDA_VISIBLE_DEVICES`` is how schedulers and users hand out some of them. As in CUDA, the list ends at the first entry that
    is empty or negative.
    """
    cards = len(list(CARDS.iterdir())) if CARDS.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not cards or visible is None:
        return cards
    named = [name.strip() for name in visible.split(",")]
    ends = [at for at, name in enumerate(named) if not name or name.startswith("-")]
    return min(cards, ends[0] if ends else len(named))
