"""gigaseg: segment images too large for memory, by tiles, exactly.

``pipeline.run``, ``segment``, ``plan``, ``evaluate``, ``train`` and ``open_run`` do what the commands of these names do, and
return results instead of printing them. Importing this module loads nothing else: each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import LazyArray, Plan, Report, Run, TrainingRun, evaluate, open_run, plan, run, segment, train
    from pipeline.errors import GigasegError, InputError

__all__ = [
    "GigasegError",
    "InputError",
    "LazyArray",
    "Plan",
    "Report",
    "Run",
    "TrainingRun",
    "__version__",
    "evaluate",
    "open_run",
    "plan",
    "run",
    "segment",
    "train",
]

__version__ = "0.1.0"

_ERRORS = ("GigasegError", "InputError")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("pipeline.errors" if name in _ERRORS else "pipeline.api"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
