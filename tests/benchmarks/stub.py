"""A threshold of fixed level: a model that costs next to nothing, so that a benchmark measures the pipeline around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from typing_extensions import override

from pipeline.config import Recipe
from pipeline.models import Model, PredictFunction

__all__ = ["Stub"]


class Stub(Model):
    """Class 1 where the first channel is at least 128.

    Example::

        model: {name: tests.benchmarks.stub}
    """

    @property
    @override
    def num_classes(self) -> int:
        return 2

    @property
    @override
    def field(self) -> int:
        return 0

    @contextmanager
    @override
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[PredictFunction]:
        yield lambda pixels_BCYX, fits: (pixels_BCYX[:, 0] >= 128).view(np.uint8)
