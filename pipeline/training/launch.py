"""Where workers come from: this process, or Ray Train."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import GigasegError, InputError, Problem
from pipeline.training.loop import fit
from pipeline.training.plan import TrainPlan
from pipeline.training.worker_group import WorkerGroup

__all__ = ["crew_of", "launch"]

LOADERS = 16  # processes a GPU, at most: more memory, and the fastest networks are fed by fewer


def crew_of(plan: TrainPlan, gpus: int) -> tuple[int, WorkerGroup]:
    """How many workers there are, and what each has.

    Args:
        plan: says what is asked for.
        gpus: on this machine.

    Raises:
        InputError: a GPU is asked for, and there is none; or there are workers that cannot share the batch.
    """
    compute, cores = plan.config.compute, len(os.sched_getaffinity(0))
    if compute.device == "cuda" and not gpus and compute.address is None:
        raise InputError(Problem(plan.config.place("compute.device"), "cuda, where no GPU is found", "cpu, auto", "See `gigaseg doctor`."))
    device = "cuda" if compute.device == "cuda" or (compute.device == "auto" and gpus) else "cpu"
    workers = compute.workers if compute.workers != "auto" else max(1, gpus if device == "cuda" else 1)
    if workers > plan.config.batch:
        raise InputError(Problem(plan.config.place("compute.workers"), str(workers), f"at most batch, {plan.config.batch}"))
    if compute.runner == "serial" and not _is_alone(plan, workers):
        way_out = "Use compute.runner: ray."
        raise InputError(Problem(plan.config.place("compute.runner"), f"serial for {workers} workers", "one worker", way_out))
    threads = compute.threads if compute.threads != "auto" else max(1, cores // workers)
    loaders = compute.loaders if compute.loaders != "auto" else (max(1, min(LOADERS, cores // workers - 1)) if device == "cuda" else 1)
    return workers, WorkerGroup(0, workers, device, threads, loaders)


def launch(plan: TrainPlan, workers: int, team: WorkerGroup, stop_flag: Path, arm: Callable[[], None]) -> bool:
    """Train with so many workers.

    Args:
        plan: scanned.
        workers: that share each batch.
        team: what each of them has.
        stop_flag: a file whose presence asks to stop.
        arm: installs the signal handlers, which Ray replaces when it starts.

    Returns:
        Whether the end was reached.

    Raises:
        GigasegError: the training could not go on; what its checkpoint holds is kept.
    """
    if plan.config.compute.runner == "ray" or not _is_alone(plan, workers):
        return _on_ray(plan, team, stop_flag, arm)
    return fit(plan, team, stop_flag.exists)


def _is_alone(plan: TrainPlan, workers: int) -> bool:
    """Whether this process is enough."""
    return workers == 1 and plan.config.compute.address is None


def _on_ray(plan: TrainPlan, team: WorkerGroup, stop_flag: Path, arm: Callable[[], None]) -> bool:
    """A group of Ray Train workers; lost ones are replaced, and the group goes on from the checkpoint."""
    from pipeline.scheduling.runners.ray import authenticate

    compute = plan.config.compute
    address = compute.address or os.environ.get("RAY_ADDRESS")
    authenticate(address)
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from pipeline.scheduling.runners._cluster import start

    ours = not ray.is_initialized()
    if ours:
        start(address, max(len(os.sched_getaffinity(0)), team.size * team.threads + 1))
    arm()
    try:
        TorchTrainer(
            work,
            train_loop_config={"plan": plan, "team": team, "stop_flag": stop_flag},
            torch_config=TorchConfig("gloo" if team.device == "cpu" else "nccl"),
            scaling_config=ScalingConfig(
                num_workers=team.size,
                use_gpu=team.device != "cpu",
                resources_per_worker={"CPU": team.threads} if team.device == "cpu" else None,
            ),
            run_config=RunConfig(
                name="ray", storage_path=str(plan.config.output / "ray"), failure_config=FailureConfig(max_failures=compute.failures)
            ),
        ).fit()
    except TrainingFailedError as error:
        raise GigasegError(_cause(error)) from error
    finally:
        if ours:
            ray.shutdown()
    return not stop_flag.exists()


def work(config: dict[str, Any]) -> None:
    """What each Ray Train worker does."""
    import ray.train
    import torch

    context = ray.train.get_context()
    plan, team, stop_flag = config["plan"], config["team"], config["stop_flag"]
    device = "cpu" if team.device == "cpu" else str(ray.train.torch.get_device())
    if device != "cpu":
        torch.cuda.set_device(device)
    fit(plan, WorkerGroup(context.get_world_rank(), context.get_world_size(), device, team.threads, team.loaders), stop_flag.exists)


def _cause(error: BaseException) -> str:
    """The last line of what a worker said."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = [line for line in lines if "GigasegError:" in line or "Error:" in line]
    return (own or lines or ["the training failed"])[-1].rpartition("Error: ")[2]
