"""Training: from images with truth to a bundle.

The door is :func:`prepare_training`; :mod:`pipeline.training.training` is a training from top to bottom, and
:mod:`pipeline.training.loop` is what each worker does.

Owns: the training YAML, the plan of a training, crops and their augmentation, the loop, checkpoints, the history and its page.
May import: everything below the command line. Never touches: what a run writes, arguments of commands, standard output.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.training.schema import TRAINING_YAML, TrainConfig, is_training

if TYPE_CHECKING:
    from pipeline.training.loop import StepCost
    from pipeline.training.plan import TrainPlan
    from pipeline.training.time_budget import Forecast
    from pipeline.training.training import Training, prepare_training

__all__ = ["TRAINING_YAML", "Forecast", "StepCost", "TrainConfig", "TrainPlan", "Training", "is_training", "prepare_training"]

_LATE = {"Forecast": "time_budget", "StepCost": "loop", "TrainPlan": "plan", "Training": "training", "prepare_training": "training"}


def __getattr__(name: str) -> Any:
    """Load what only a training needs when it is first used: a run asks whether its YAML is one of a training."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
