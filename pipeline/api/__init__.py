"""The Python API: what the commands do, as functions that return results instead of printing them.

Owns: the functions and result objects that ``import pipeline`` offers, and arrays as input.
May import: workflows and everything below. Never touches: how a command works; each function calls the workflow of its name.
"""

from __future__ import annotations

from pipeline.api.commands import evaluate, open_run, plan, run, segment, train
from pipeline.api.lazy_arrays import LazyArray
from pipeline.api.results import Plan, Report, Run, TrainingRun

__all__ = ["LazyArray", "Plan", "Report", "Run", "TrainingRun", "evaluate", "open_run", "plan", "run", "segment", "train"]
