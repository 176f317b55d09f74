"""The Python API under the name that is installed: ``import gigaseg`` offers what ``import pipeline`` offers."""

from __future__ import annotations

from typing import Any

import pipeline
from pipeline import __all__ as __all__

__version__ = pipeline.__version__


def __getattr__(name: str) -> Any:
    return getattr(pipeline, name)


def __dir__() -> list[str]:
    return dir(pipeline)
