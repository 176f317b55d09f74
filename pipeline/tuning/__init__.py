"""Chooses the recipe: the only place that tries things out.

Owns: backend trials, the halo search, the memory model, calibration to int8, the choice of a runner, sample tiles.
May import: scheduling, engine and below. Never touches: the output folder, the ledger.
"""

from __future__ import annotations

from pipeline.tuning.backend_trial import AGREEMENT, Outcome, Tried, compare, is_worth
from pipeline.tuning.gpus import num_gpus
from pipeline.tuning.halo_search import HaloError
from pipeline.tuning.int8_calibration import Calibration, calibrate
from pipeline.tuning.memory_model import print_bytes, projected_bytes
from pipeline.tuning.recipe_choice import Choice, choose, expected, keep, measure, measure_backends, measure_file
from pipeline.tuning.runner_choice import runner_of

__all__ = [
    "AGREEMENT",
    "Calibration",
    "Choice",
    "HaloError",
    "Outcome",
    "Tried",
    "calibrate",
    "choose",
    "compare",
    "expected",
    "is_worth",
    "keep",
    "measure",
    "measure_backends",
    "measure_file",
    "num_gpus",
    "print_bytes",
    "projected_bytes",
    "runner_of",
]
