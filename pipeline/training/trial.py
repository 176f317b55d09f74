"""What a step costs here: a few real ones, whose weights are thrown away."""

from __future__ import annotations

import resource
import time
from contextlib import closing
from dataclasses import dataclass, replace

from pipeline.training.crops import Crops, Shelf
from pipeline.training.learner import Learner
from pipeline.training.plan import TrainPlan
from pipeline.training.team import Team

__all__ = ["Trial", "try_steps"]

STEPS = 3


@dataclass(frozen=True)
class Trial:
    """The cost of training.

    Attributes:
        seconds: a step, reading and varying the crops included.
        peak_bytes: the largest that the process has been.
    """

    seconds: float
    peak_bytes: int


def try_steps(plan: TrainPlan, workers: int, team: Team) -> Trial:
    """Take a few steps with the share of a batch that one of so many workers has; the first one is not counted.

    Args:
        plan: scanned.
        workers: that share each batch.
        team: device and threads of this worker.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(team.threads)
    shelf = Shelf(plan.config.compute.memory_bytes)
    try:
        learner = Learner(plan, replace(team, rank=0, size=1))
        with closing(Crops(plan, shelf).batches(0, 0, workers, team.loaders)) as batches:
            learner.learn(next(batches), 0.0, 0)
            start = time.monotonic()
            for step in range(1, STEPS + 1):
                learner.learn(next(batches), 0.0, step)
            seconds = (time.monotonic() - start) / STEPS
    finally:
        shelf.close()
        torch.set_num_threads(before)
    return Trial(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
