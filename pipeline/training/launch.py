"""Starts the workers of a training: this process, or Ray Train."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.errors import GigasegError, InputError, Problem
from pipeline.records import RunFolder
from pipeline.training.loop import fit
from pipeline.training.plan import TrainPlan
from pipeline.training.schema import TrainCompute
from pipeline.training.worker_group import WorkerGroup

__all__ = ["choose_workers", "launch", "run_ray_worker"]

LOADERS = 16  # loading processes for each GPU, at most: more take memory, and fewer already feed the fastest networks


def choose_workers(plan: TrainPlan, num_gpus: int) -> WorkerGroup:
    """Choose the number of workers and what each of them has, for a machine with so many GPUs; return the group as rank 0 sees it.

    Raises:
        InputError: a GPU is asked for, and there is none; or there are workers that cannot share the batch.
    """
    compute, cores = plan.config.compute, len(os.sched_getaffinity(0))
    if compute.device == "cuda" and not num_gpus and compute.address is None:
        where = plan.config.where("compute.device")
        raise InputError(Problem(where, "cuda, where no GPU is found", "cpu or auto", "See `gigaseg doctor`."))
    device = "cuda" if compute.device == "cuda" or (compute.device == "auto" and num_gpus) else "cpu"
    size = compute.workers if compute.workers != "auto" else max(1, num_gpus if device == "cuda" else 1)
    if size > plan.config.batch:
        raise InputError(Problem(plan.config.where("compute.workers"), str(size), f"at most batch, {plan.config.batch}"))
    if compute.runner == "serial" and _needs_ray(compute, size):
        where = plan.config.where("compute.runner")
        raise InputError(Problem(where, f"serial for {size} workers", "one worker", "Use compute.runner: ray."))
    threads = compute.threads if compute.threads != "auto" else max(1, cores // size)
    loaders = compute.loaders if compute.loaders != "auto" else (max(1, min(LOADERS, cores // size - 1)) if device == "cuda" else 1)
    return WorkerGroup(0, size, device, threads, loaders)


def launch(plan: TrainPlan, workers: WorkerGroup, folder: RunFolder, install_handlers: Callable[[], None], spent_s: float = 0.0) -> bool:
    """Train until the end or until the folder is asked to stop, in this process or on Ray; return whether the end was reached.

    ``install_handlers`` installs the signal handlers again, which Ray replaces when it starts. ``spent_s`` are the seconds that this
    process has spent on the training so far.

    Raises:
        GigasegError: the training could not go on; its checkpoint stays.
    """
    if plan.config.compute.runner == "ray" or _needs_ray(plan.config.compute, workers.size):
        return _train_on_ray(plan, workers, folder, install_handlers, spent_s)
    return fit(plan, workers, folder.is_asked_to_stop, spent_s)


def _needs_ray(compute: TrainCompute, num_workers: int) -> bool:
    return num_workers > 1 or compute.address is not None


def _train_on_ray(plan: TrainPlan, workers: WorkerGroup, folder: RunFolder, install_handlers: Callable[[], None], spent_s: float) -> bool:
    """Train with a group of Ray Train workers; Ray replaces lost workers, and the group continues from the checkpoint."""
    from pipeline.scheduling.runners.ray import authenticate

    address = plan.config.compute.address or os.environ.get("RAY_ADDRESS")
    authenticate(address)
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray
    from ray.train.v2.api.exceptions import TrainingFailedError

    from pipeline.scheduling.runners._cluster import start

    is_ours = not ray.is_initialized()
    if is_ours:
        start(address, max(len(os.sched_getaffinity(0)), workers.size * workers.threads + 1))
    install_handlers()
    try:
        _ray_trainer(plan, workers, folder, spent_s).fit()
    except TrainingFailedError as error:
        raise GigasegError(_cause(error)) from error
    finally:
        if is_ours:
            ray.shutdown()
    return not folder.is_asked_to_stop()


def _ray_trainer(plan: TrainPlan, workers: WorkerGroup, folder: RunFolder, spent_s: float) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    is_cpu, failures = workers.device == "cpu", FailureConfig(max_failures=plan.config.compute.failures)
    return TorchTrainer(
        run_ray_worker,
        train_loop_config={"plan": plan, "workers": workers, "folder": folder, "spent_s": spent_s},
        torch_config=TorchConfig("gloo" if is_cpu else "nccl"),
        scaling_config=ScalingConfig(
            num_workers=workers.size, use_gpu=not is_cpu, resources_per_worker={"CPU": workers.threads} if is_cpu else None
        ),
        run_config=RunConfig(name="ray", storage_path=str(plan.config.output / "ray"), failure_config=failures),
    )


def run_ray_worker(config: dict[str, Any]) -> None:
    """Train as one worker of Ray Train; its rank and its GPU are known here only."""
    import ray.train
    import torch

    context, workers = ray.train.get_context(), config["workers"]
    device = "cpu" if workers.device == "cpu" else str(ray.train.torch.get_device())
    if device != "cpu":
        torch.cuda.set_device(device)
    group = replace(workers, rank=context.get_world_rank(), size=context.get_world_size(), device=device)
    fit(config["plan"], group, config["folder"].is_asked_to_stop, config["spent_s"])


def _cause(error: BaseException) -> str:
    """Return the last error message that a worker printed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    errors = [line for line in lines if "Error:" in line]
    return (errors or lines or ["the training failed"])[-1].rpartition("Error: ")[2]
