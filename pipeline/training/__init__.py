"""Training: from images with truth to a bundle.

The door is :func:`prepare_training`; :mod:`pipeline.training.training` is a training from top to bottom, and
:mod:`pipeline.training.loop` is what each worker does.

Owns: the training YAML, the plan of a training, crops and their augmentation, the loop, checkpoints, the history and its page.
May import: everything below the command line. Never touches: what a run writes, arguments of commands, standard output.
"""

from __future__ import annotations

from pipeline.training.loop import StepCost
from pipeline.training.plan import TrainPlan
from pipeline.training.schema import TRAINING_YAML, TrainConfig, is_training
from pipeline.training.training import Training, prepare_training

__all__ = ["TRAINING_YAML", "StepCost", "TrainConfig", "TrainPlan", "Training", "is_training", "prepare_training"]
