"""What a step costs here: a few real ones, whose weights are thrown away."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import mean

from pipeline.backends._allocator import keep_freed_memory
from pipeline.training.crops import Batch, Crops
from pipeline.training.image_cache import ImageCache
from pipeline.training.learner import Learner
from pipeline.training.plan import TrainPlan
from pipeline.training.worker_group import WorkerGroup

__all__ = ["StepTrial", "try_steps"]

STEPS = 3
SECONDS = 10  # a step that takes longer is enough


@dataclass(frozen=True)
class StepTrial:
    """The cost of training.

    Attributes:
        seconds: a step, reading and varying the crops included.
        peak_bytes: the largest that the process has been.
    """

    seconds: float
    peak_bytes: int


def try_steps(plan: TrainPlan, workers: int, team: WorkerGroup) -> StepTrial:
    """Take a few steps with the share of a batch that one of so many workers has; the first is not counted if there is time for others.

    A step that would take long is not taken: two of its crops tell enough.

    Args:
        plan: scanned.
        workers: that share each batch.
        team: device and threads of this worker.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(team.threads)
    keep_freed_memory()  # as a training does
    cache = ImageCache(plan.config.compute.memory_bytes // team.loaders)
    try:
        learner, crops = Learner(plan, replace(team, rank=0, size=1)), Crops(plan, cache)
        share = -(-plan.config.batch // workers)
        slow = _two_crops(learner, crops, share)
        if slow.seconds > SECONDS:
            return slow
        with closing(crops.batches(0, 0, workers, team.loaders)) as batches:
            seconds = [_seconds(learner, batches, 0)]
            while len(seconds) <= STEPS and sum(seconds) < SECONDS:
                seconds.append(_seconds(learner, batches, len(seconds)))
    finally:
        cache.close()
        torch.set_num_threads(before)
    return StepTrial(mean(seconds[1:] or seconds), _peak_bytes())


def _two_crops(learner: Learner, crops: Crops, share: int) -> StepTrial:
    """What a worker's share costs if each crop costs what one of two does: batch norms need two where all pixels become one."""
    base, few = _peak_bytes(), min(2, share)
    seconds = _seconds(learner, iter([crops.stacked(range(few))]), 0)
    return StepTrial(seconds * share / few, base + (_peak_bytes() - base) * share // few)


def _seconds(learner: Learner, batches: Iterator[Batch], step: int) -> float:
    start = time.monotonic()
    learner.learn(next(batches), 0.0, step)
    return time.monotonic() - start


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
