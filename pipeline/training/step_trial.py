"""What a step costs on this machine: a few real steps, whose weights are dropped."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import mean

from pipeline.backends import keep_freed_memory
from pipeline.training.batch_loading import Batch, load_batch, load_batches
from pipeline.training.crops import Crops
from pipeline.training.image_cache import ImageCache
from pipeline.training.plan import TrainPlan
from pipeline.training.trainable_network import TrainableNetwork
from pipeline.training.worker_group import WorkerGroup

__all__ = ["StepCost", "measure_step"]

STEPS = 3
SECONDS = 10  # a step that takes longer is measured once


@dataclass(frozen=True)
class StepCost:
    """The cost of training.

    Attributes:
        seconds: of a step, with reading and varying the crops.
        peak_bytes: largest memory of the process.
    """

    seconds: float
    peak_bytes: int


def measure_step(plan: TrainPlan, workers: WorkerGroup) -> StepCost:
    """Take a few steps with one worker's share of a batch; the first is not counted if there is time for others.

    A step that would take long is not taken: its cost follows from a step of two crops.

    Args:
        plan: scanned.
        workers: those that would train; only this one does here.
    """
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(workers.threads)
    keep_freed_memory()  # as a training does
    cache = ImageCache(plan.config.compute.memory_bytes // workers.loaders)
    try:
        network, crops = TrainableNetwork(plan, replace(workers, rank=0, size=1)), Crops(plan, cache)
        share = -(-plan.config.batch // workers.size)
        of_two = _cost_by_two_crops(network, crops, share)
        if of_two.seconds > SECONDS:
            return of_two
        with closing(load_batches(crops, workers)) as batches:
            seconds = [_step_seconds(network, batches, 0)]
            while len(seconds) <= STEPS and sum(seconds) < SECONDS:
                seconds.append(_step_seconds(network, batches, len(seconds)))
    finally:
        cache.close()
        torch.set_num_threads(num_threads)
    return StepCost(mean(seconds[1:] or seconds), _peak_bytes())


def _cost_by_two_crops(network: TrainableNetwork, crops: Crops, share: int) -> StepCost:
    """Scale the cost of two crops to a worker's share; one crop is too few for a batch norm that sees one pixel of each."""
    bytes_before, num_crops = _peak_bytes(), min(2, share)
    seconds = _step_seconds(network, iter([load_batch(crops, range(num_crops))]), 0)
    return StepCost(seconds * share / num_crops, bytes_before + (_peak_bytes() - bytes_before) * share // num_crops)


def _step_seconds(network: TrainableNetwork, batches: Iterator[Batch], step: int) -> float:
    start_s = time.monotonic()
    network.learn(next(batches), 0.0, step)
    return time.monotonic() - start_s


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
