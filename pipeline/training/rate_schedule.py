"""The learning rate: a pure function of the share of the training that is done."""

from __future__ import annotations

import math

from pipeline.training.schema import RateSchedule

__all__ = ["rate_at"]


def rate_at(schedule: RateSchedule, done: float) -> float:
    """Return the learning rate as a share of the largest one.

    Args:
        schedule: warm-up and shape.
        done: share of the training that is done, 0 to 1.

    Example:
        >>> [round(rate_at(RateSchedule(warmup=0.1), done), 3) for done in (0.05, 0.1, 0.55, 1.0)]
        [0.5, 1.0, 0.5, 0.0]
        >>> [rate_at(RateSchedule(name="step", warmup=0.0), done) for done in (0.4, 0.5)]
        [1.0, 0.1]
    """
    if done < schedule.warmup:
        return done / schedule.warmup
    left = (1 - done) / (1 - schedule.warmup) if schedule.warmup < 1 else 1.0
    if schedule.name == "cosine":
        return 0.5 - 0.5 * math.cos(math.pi * left)
    if schedule.name == "poly":
        return float(left**schedule.power)
    if schedule.name == "step":
        return float(schedule.factor ** sum(done >= at for at in schedule.at))
    return 1.0
