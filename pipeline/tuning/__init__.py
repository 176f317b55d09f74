"""Choosing the recipe of a run, by trial where that pays: no other package tries out how to run.

Owns: trials of backends and halos, the table of backends, sample tiles, the memory model, calibration to int8, the choice of a runner,
timings for ``bench``.
May import: scheduling, engine and below. Never touches: the masks and the ledger of a run.
"""

from __future__ import annotations

from pipeline.tuning.backend_choice import choose_backend, expect_backend
from pipeline.tuning.backend_trial import TriedBackend, fastest_backend, is_trial_worthwhile, likely_backend
from pipeline.tuning.compute_choice import choose_runner, num_gpus
from pipeline.tuning.field_measurement import measure_stride_and_field
from pipeline.tuning.halo_trial import HaloDifference, measure_halo
from pipeline.tuning.int8_calibration import Calibration, calibrate_int8
from pipeline.tuning.memory_model import format_bytes, project_actor_bytes
from pipeline.tuning.recipe_choice import RecipeChoice, choose_recipe, reuse_recipe
from pipeline.tuning.timing import RunTiming, choose_piece, halo_overhead, read_largest_tile, time_backend_again, time_backends, time_piece

__all__ = [
    "Calibration",
    "HaloDifference",
    "RecipeChoice",
    "RunTiming",
    "TriedBackend",
    "calibrate_int8",
    "choose_backend",
    "choose_piece",
    "choose_recipe",
    "choose_runner",
    "expect_backend",
    "fastest_backend",
    "format_bytes",
    "halo_overhead",
    "is_trial_worthwhile",
    "likely_backend",
    "measure_halo",
    "measure_stride_and_field",
    "num_gpus",
    "project_actor_bytes",
    "read_largest_tile",
    "reuse_recipe",
    "time_backend_again",
    "time_backends",
    "time_piece",
]
